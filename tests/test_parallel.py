"""Threads and processes around the C++ kernels: counts are respected, results do not depend on
them, nothing hangs.
"""

import multiprocessing
import re
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import fastseg
from fastseg import ops
from fastseg.ops import impl
from fastseg.ops.impl.contract import Geometry

pytestmark = pytest.mark.skipif(not fastseg.backends()["cpu"], reason="fastseg._C is not built")
SHAPES = [((100,), (20,)), ((63, 70), (12, 9)), ((17, 18, 19), (6, 5, 4)), ((1, 300), (1, 40))]


def arguments(sizes, modes, seed=0, channels=8):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, channels, *sizes, generator=generator)
    weight = torch.randn(channels, 6, *modes, generator=generator, dtype=torch.complex64)
    return x, weight, torch.randn(6, generator=generator)


def convolve(leaves):
    with fastseg.use_backend("cpu"):
        leaves = [t.detach().clone().requires_grad_() for t in leaves]
        y = ops.spectral_conv(*leaves)
        return [y.detach(), *torch.autograd.grad(y, leaves, torch.ones_like(y))]


def same(a, b):
    return len(a) == len(b) and all(map(torch.equal, a, b))


@pytest.mark.parametrize(("sizes", "modes"), SHAPES, ids=str)
def test_thread_count_does_not_change_a_bit(sizes, modes, threads):
    given, found = arguments(sizes, modes), []
    for count in (1, 2, 3, 8):
        threads(count)
        found.append(convolve(given))
    assert all(same(results, found[0]) for results in found[1:])


COUNT_THREADS = """
import os, torch, fastseg
from fastseg import ops
x, weight = torch.randn(8, 8, 64, 64), torch.randn(8, 8, 12, 6, dtype=torch.complex64)
fastseg.use_backend("cpu")
torch.set_num_threads(1)
ops.spectral_conv(x, weight)  # tables are made by torch, on its own threads
for count in (1, 2, 4):
    torch.set_num_threads(count)
    begin = len(os.listdir("/proc/self/task"))
    for _ in range(20):
        ops.spectral_conv(x, weight)
    print(len(os.listdir("/proc/self/task")) - begin)
"""


def test_the_pool_is_as_large_as_torch_asks(run_python):
    assert run_python(COUNT_THREADS).stdout.split() == ["0", "1", "2"]


def test_concurrent_calls_do_not_disturb_each_other(threads):
    threads(2)
    jobs = [arguments(*SHAPES[seed % len(SHAPES)], seed) for seed in range(12)]
    wanted = [convolve(job) for job in jobs]
    with fastseg.use_backend("cpu"), ThreadPoolExecutor(6) as pool:
        for _ in range(3):
            found = list(pool.map(convolve, jobs))
            assert all(map(same, found, wanted))


def _send_convolved(connection, given):
    connection.send([t.numpy() for t in convolve_without_autograd(given)])
    connection.close()


def convolve_without_autograd(given):
    x, weight, bias = given
    modes, real = weight.shape[2:], torch.view_as_real(weight).contiguous()
    kernels = impl.SPECTRAL["cpu"]
    geometry = Geometry(x.shape[2:], modes, 1, (1.0, 0.5), True)
    y, spectrum = kernels.convolve(x, real, bias, geometry)
    return [y, spectrum, kernels.analysis(x, geometry._replace(adjoint=True))]


def test_a_forked_process_computes(threads):
    threads(2)
    given = arguments(*SHAPES[1])
    wanted = convolve_without_autograd(given)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    with warnings.catch_warnings():  # Python 3.12 warns of any fork beside threads
        warnings.simplefilter("ignore", DeprecationWarning)
        process = context.Process(target=_send_convolved, args=(sender, given))
        process.start()
    assert receiver.poll(60), "the forked process hangs"
    assert same([torch.from_numpy(a) for a in receiver.recv()], wanted)
    process.join(60)
    assert process.exitcode == 0
    assert same(convolve_without_autograd(given), wanted)


def blurred(x, ones):
    sigma = torch.linspace(0.5, 6, 32).reshape(4, 8, 1).requires_grad_()
    offset = torch.full((4, 8, 1), 0.25, requires_grad=True)
    y = ops.gaussian_filter(x, sigma, offset=offset)
    return [y.detach(), *torch.autograd.grad(y, (sigma, offset), ones)]


def _send_blurred(connection, x, ones):
    connection.send([t.numpy() for t in blurred(x, ones)])
    connection.close()


def test_a_forked_process_makes_the_taps_of_a_tensor(threads):
    """Torch's own loops, with which they are made, wait there for threads of the parent."""
    threads(2)
    x = torch.randn(4, 8, 64, 64, generator=torch.Generator().manual_seed(0))
    ones = torch.ones_like(x)
    with fastseg.use_backend("cpu"):
        wanted = blurred(x, ones)
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            process = context.Process(target=_send_blurred, args=(sender, x, ones))
            process.start()
        try:
            assert receiver.poll(30), "the forked process hangs"
            found = [torch.from_numpy(array) for array in receiver.recv()]
        finally:
            process.kill()
            process.join(60)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    assert torch.get_num_threads() == 2


EXIT = """
import sys, threading, torch, fastseg
from fastseg import ops
torch.set_num_threads(2)
fastseg.use_backend("cpu")
x, weight = torch.randn(4, 8, 64, 64), torch.randn(8, 8, 12, 6, dtype=torch.complex64)
def work():
    for _ in range(50):
        ops.spectral_conv(x, weight)
    print("done")
{ending}
"""


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("work()", 0),
        ("threading.Thread(target=work).start()", 0),
        ("import atexit; atexit.register(work)", 0),
        ("work(); sys.exit(7)", 7),
    ],
)
def test_the_interpreter_exits(ending, code, run_python):
    done = run_python(EXIT.format(ending=ending), check=False, timeout=60)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (code, "done", "")


def axis(size=1, positive=1, address=1):
    where = {"cos": address, "sin": address, "padded": 16}
    return impl._C.Axis(size=size, positive=positive, negative=0, **where)


def analysis(transform, **changed):
    """The kernel on addresses that nobody may read."""
    given = {"real": 64, "spectrum": 64, "planes": 0, "images": 1, "dtype": 0, "planar": False}
    impl._C.cpu.analysis(transform=transform, **(given | {"lane": 2} | changed))


def test_errors_of_a_kernel_reach_the_caller(threads):
    threads(2)
    native, given = impl._C, arguments(*SHAPES[1])
    transform = native.Transform(d=axis(), h=axis(), w=axis(8, 2))
    for changed, message in (
        ({"dtype": 9}, "unknown dtype code"),
        ({"real": 0}, "null pointer"),
        ({"lane": -1}, "threads must be positive"),
    ):
        with pytest.raises(native.Error, match=message):
            analysis(transform, **changed)
    with pytest.raises(native.Error, match="axis: size 0"):
        axis(0)
    assert issubclass(native.Error, RuntimeError)
    assert convolve(given)


def test_addresses_travel_under_names():
    native = impl._C
    kernels = {n: f for n, f in vars(native.cpu).items() if not n.startswith("_")}
    assert {"convolve_block_backward", "gate_backward", "pointwise"} <= set(kernels)
    assert not [name for name, kernel in kernels.items() if "(*, " not in kernel.__doc__]
    with pytest.raises(TypeError, match="incompatible function arguments"):
        native.cpu.gate_backward(*range(1, 21))


BINDINGS = Path(__file__).parents[1] / "csrc" / "bindings.cpp"


@pytest.mark.skipif(not BINDINGS.exists(), reason="no sources beside the tests")
def test_names_of_a_binding_are_those_of_its_function():
    text = BINDINGS.read_text()
    parameters = {
        name: re.findall(r"(\w+)(?:,|$)", re.sub(r"const Kernels& kernels, |<[^<>]*>", "", found))
        for name, found in re.findall(r"^\w[\w:]* (\w+)\(([^)]*)\) \{", text, re.MULTILINE)
    }
    bound = re.findall(
        r"(?:with\(table, |&|init\(&)(\w+)\),? ?(?:no_gil, )?named, ([^;]*?)\)[;.\n]", text
    ) + re.findall(r"&(\w+), no_gil, named, ([^;]*?)\);", text)
    names = {name: re.findall(r'"(\w+)"_a', arguments) for name, arguments in bound}
    assert {"mix", "pointwise", "gate_backward", "bound_convolve_block_backward"} <= set(names)
    assert {name: parameters[name] for name in names} == names


def test_a_failed_allocation_on_the_pool_reaches_the_caller(threads):
    threads(2)
    # rows of 2⁵⁰ values: no thread can have its scratch memory, so none touches the addresses
    transform = impl._C.Transform(d=axis(), h=axis(), w=axis(2**50, address=64))
    for _ in range(5):
        with pytest.raises(MemoryError):
            analysis(transform, images=400)
    given = arguments(*SHAPES[1])
    assert same(convolve(given), convolve(given))


def test_python_runs_while_a_kernel_does(threads):
    threads(1)
    x, weight, _ = arguments((421, 421), (60, 31), channels=4)
    ticks, stop = [], threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    with fastseg.use_backend("cpu"):
        ops.spectral_conv(x, weight)  # tables are cached
        ticker = threading.Thread(target=tick)
        ticker.start()
        spectrum = torch.view_as_real(weight)
        native, geometry = impl.SPECTRAL["cpu"], Geometry((421, 421), (60, 31), 1, (1.0, 1.0), True)
        intervals = []
        while len(intervals) < 10:
            begin = time.perf_counter()
            native.convolve(x, spectrum, None, geometry)
            intervals.append((begin, time.perf_counter()))
        stop.set()
        ticker.join()
    during = sum(any(begin < tick < end for tick in ticks) for begin, end in intervals)
    assert min(end - begin for begin, end in intervals) > 0.005
    assert during >= 5
