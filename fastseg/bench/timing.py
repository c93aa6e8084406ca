"""Paired, interleaved timing; the machine's two ceilings; what autograd saves."""

import gc
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor


def interleave(
    runs: dict[str, Callable], budget_s: float, least: int, most: int = 200
) -> dict[str, list[float]]:
    """Seconds of every run by name, at least `least` rounds, then until the budget is spent.

    All take turns in every round, each round starting with another one, so that the ratio of two
    entries of one round compares neighbours in time.
    """
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
                seconds[name].append(_timed(runs[name]))
            rounds += 1
    finally:
        gc.enable()
    return seconds


def _timed(run: Callable) -> float:
    synchronise()
    begin = time.perf_counter()
    run()
    synchronise()
    return time.perf_counter() - begin


def synchronise() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def spread(values: list[float]) -> list[float]:
    """First quartile, median, third quartile."""
    return (
        statistics.quantiles(values, n=4, method="inclusive")
        if len(values) > 1
        else [values[0]] * 3
    )


def paired_ratio(rival: list[float], ours: list[float]) -> list[float]:
    """Quartiles of rival ÷ ours over the rounds: above one, ours is faster."""
    return spread([a / b for a, b in zip(rival, ours, strict=True)])


def passes(forward: Callable, parameters: tuple, x: Tensor, dy: Tensor) -> dict[str, Callable]:
    """What one call of either pass does, the release of its results included."""

    def inference() -> None:
        with torch.no_grad():
            forward(x)

    def training() -> None:
        torch.autograd.grad(forward(x), (x, *parameters), dy)

    return {"forward": inference, "forward+backward": training}


def ceilings(device: torch.device) -> dict[str, float]:
    """The best of several large copies (bytes read plus written) and float32 products."""
    source = torch.ones(1 << 26, device=device)
    target = torch.empty_like(source)
    copy = interleave({"copy": lambda: target.copy_(source)}, 1.0, 5)["copy"]
    n = 1536 if device.type == "cpu" else 8192
    a, b = torch.randn(2, n, n, device=device)
    out = torch.empty_like(a)
    product = interleave({"product": lambda: torch.mm(a, b, out=out)}, 1.0, 5)["product"]
    bytes_per_s, flops_per_s = 2 * source.nbytes / min(copy), 2 * n**3 / min(product)
    return {"copy_bytes_per_s": bytes_per_s, "sgemm_flops_per_s": flops_per_s}


def saved_bytes(forward: Callable, parameters: tuple, x: Tensor) -> int:
    """Bytes of the distinct storages that autograd keeps, the parameters' own not counted."""
    own = {p.untyped_storage().data_ptr() for p in parameters}
    kept = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = forward(x)  # noqa: F841 - the graph, and with it every saved tensor, lives until the count is taken
        return sum(kept.values())
