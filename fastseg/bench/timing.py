"""Paired, interleaved timing, and the machine's two ceilings."""

import gc
import statistics
import time
from collections.abc import Callable

import torch


def interleave(
    runs: dict[str, Callable],
    budget_s: float,
    least: int,
    most: int = 200,
    clock: Callable[[Callable], float] | None = None,
) -> dict[str, list[float]]:
    """Return the seconds of every run by its name, at least `least` rounds, then until the budget
    is spent.

    All take turns in every round, each round starting with another one, so that the ratio of two
    entries of one round compares neighbours in time.

    Args:
        runs: calls by name.
        budget_s: of all rounds together.
        least: rounds, however long they take.
        most: rounds, however short.
        clock: gives the seconds of a run; the host's clock by default.
    """
    clock = clock or _timed
    for run in runs.values():
        run()
    names = list(runs)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    begin, rounds = time.perf_counter(), 0
    gc.collect()
    gc.disable()
    try:
        while rounds < least or (rounds < most and time.perf_counter() - begin < budget_s):
            turn = rounds % len(names)
            for name in names[turn:] + names[:turn]:
                seconds[name].append(clock(runs[name]))
            rounds += 1
    finally:
        gc.enable()
    return seconds


def _timed(run: Callable) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


class DeviceClock:
    """Measure the seconds of a run on the GPU, by events.

    Before each, a buffer larger than any L2 cache is cleared, then read: it evicts what the last
    run left there, and leaves no line behind that the run would have to write back. While that goes
    on the run's launches queue up, so that an idle device between them is not counted as long as
    they fit into that time.
    """

    def __init__(self, bytes_swept: int = 1 << 30, device: str = "cuda"):
        self._buffer = torch.empty(bytes_swept // 4, device=device)
        self._total = torch.empty((), device=device)
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]

    def __call__(self, run: Callable) -> float:
        start, end = self._events
        self._buffer.zero_()
        torch.sum(self._buffer, 0, out=self._total)
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3


def captured(run: Callable, pool, warm_ups: int = 3) -> Callable | None:
    """Return `run` as the replay of a CUDA graph, or None where it cannot be captured.

    Graphs may share the memory of `pool`: a run leaves nothing behind that another could overwrite.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm_ups):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, pool=pool):
            run()
    except RuntimeError:  # the run synchronises, say, or there is no memory left
        torch.cuda.synchronize()
        return None
    return graph.replay


def spread(values: list[float]) -> list[float]:
    """Return first quartile, median, third quartile."""
    return (
        statistics.quantiles(values, n=4, method="inclusive")
        if len(values) > 1
        else [values[0]] * 3
    )


def paired_ratio(rival: list[float], ours: list[float]) -> list[float]:
    """Return the quartiles of rival ÷ ours over the rounds: above one, ours is faster."""
    return spread([a / b for a, b in zip(rival, ours, strict=True)])


def ceilings(device: torch.device) -> dict[str, float]:
    """Measure the best of several large copies (bytes read plus written) and float32 products."""
    clock, budget_s = (DeviceClock(), 0.2) if device.type == "cuda" else (None, 1.0)
    source = torch.ones(1 << 26, device=device)
    target = torch.empty_like(source)
    copy = interleave({"copy": lambda: target.copy_(source)}, budget_s, 5, clock=clock)["copy"]
    n = 1536 if device.type == "cpu" else 8192
    a, b = torch.randn(2, n, n, device=device)
    out = torch.empty_like(a)
    runs = {"product": lambda: torch.mm(a, b, out=out)}
    product = interleave(runs, budget_s, 5, clock=clock)["product"]
    bytes_per_s, flops_per_s = 2 * source.nbytes / min(copy), 2 * n**3 / min(product)
    return {"copy_bytes_per_s": bytes_per_s, "sgemm_flops_per_s": flops_per_s}
