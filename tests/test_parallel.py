"""Threads and processes around the C++ kernels: counts are respected, results do not depend on
them, nothing hangs.
"""

import multiprocessing
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import fastseg
from fastseg import ops
from fastseg.ops import impl

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
    y, spectrum = kernels.convolve(x, real, bias, x.shape[2:], 1, 1.0, 0.5, True)
    return [y, spectrum, kernels.analysis(x, modes, 1.0, True, True)]


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


def test_errors_of_a_kernel_reach_the_caller(threads):
    threads(2)
    native, given = impl._C, arguments(*SHAPES[1])
    transform = native.Transform((0, 0, 1, 1, 0, 16), (0, 0, 1, 1, 0, 16), (1, 1, 8, 2, 0, 16))
    with pytest.raises(native.Error, match="unknown dtype code"):
        native.cpu.analysis(transform, 64, 64, 0, 1, 9, False, 2)
    with pytest.raises(native.Error, match="null pointer"):
        native.cpu.analysis(transform, 0, 64, 0, 1, 0, False, 2)
    with pytest.raises(native.Error, match="threads must be positive"):
        native.cpu.analysis(transform, 64, 64, 0, 1, 0, False, -1)
    with pytest.raises(native.Error, match="axis: size 0"):
        native.Transform((0, 0, 1, 1, 0, 16), (0, 0, 1, 1, 0, 16), (1, 1, 0, 1, 0, 16))
    assert issubclass(native.Error, RuntimeError)
    assert convolve(given)


def test_a_failed_allocation_on_the_pool_reaches_the_caller(threads):
    threads(2)
    native = impl._C
    # rows of 2⁵⁰ values: no thread can have its scratch memory, so none touches the addresses
    axis = (64, 64, 2**50, 1, 0, 16)
    transform = native.Transform((0, 0, 1, 1, 0, 16), (0, 0, 1, 1, 0, 16), axis)
    for _ in range(5):
        with pytest.raises(MemoryError):
            native.cpu.analysis(transform, 64, 64, 0, 400, 0, False, 2)
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
        native = impl.SPECTRAL["cpu"]
        intervals = []
        while len(intervals) < 10:
            begin = time.perf_counter()
            native.convolve(x, spectrum, None, (421, 421), 1, 1.0, 1.0, True)
            intervals.append((begin, time.perf_counter()))
        stop.set()
        ticker.join()
    during = sum(any(begin < tick < end for tick in ticks) for begin, end in intervals)
    assert min(end - begin for begin, end in intervals) > 0.005
    assert during >= 5
