"""What only a GPU can show: streams, CUDA graphs, a second device, compiled code on CUDA tensors.
`pytest -m gpu`; correctness there are the cells of other files whose `backend` computes on a GPU,
which conftest.py marks, and `tests/test_large.py`.
"""

import itertools

import pytest
import torch
from operators import ROWS, place, run, serves
from tolerances import BACKWARD, F32, assert_near, wide

import fastseg
from fastseg import ops
from fastseg.ops import tables

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]

CELLS = pytest.mark.parametrize(
    ("op", "backend"), list(itertools.product(ROWS, ("cuda", "triton", "auto")))
)
SLEEP_CYCLES = 50_000_000  # tens of milliseconds: far longer than a launch


def call(op, backend, device="cuda"):
    """The op's arguments on its first small grid; skips where the backend has no kernel for it."""
    row = ROWS[op]
    if backend != "auto" and not serves(row, backend, F32):
        pytest.skip(f"{backend} does not serve {op} here")
    return (place(arguments, device) for arguments in row.draw(row.few[0], F32))


def forward_backward(op, tensors, options, wrapped=lambda function: function):
    results, grads = run(wrapped(getattr(ops, op)), tensors, options, torch.ones_like)
    return (*results, *grads)


def assert_same(actual, expected, what):
    for a, b in zip(actual, expected, strict=True):
        assert a.device == b.device, what
        assert_near(a, wide(b), BACKWARD, what)


@CELLS
def test_work_goes_to_the_current_stream(op, backend):
    tensors, options = call(op, backend)
    with fastseg.use_backend(backend):
        expected = forward_backward(op, tensors, options)
        late = {name: torch.zeros_like(t) for name, t in tensors.items()}
        torch.cuda.synchronize()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(SLEEP_CYCLES)
            for name, t in tensors.items():
                late[name].copy_(t)
            actual = forward_backward(op, late, options)
        stream.synchronize()
    assert_same(actual, expected, f"{op} {backend}")


@CELLS
def test_a_graph_replays_on_new_inputs(op, backend):
    tensors, options = call(op, backend)
    static = {name: t.clone() for name, t in tensors.items()}
    with fastseg.use_backend(backend):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # tables are made and kernels loaded before the capture
                forward_backward(op, static, options)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = forward_backward(op, static, options)
        for name, t in tensors.items():
            static[name].copy_(0.5 * t)
        graph.replay()
        torch.cuda.synchronize()
        expected = forward_backward(op, {name: 0.5 * t for name, t in tensors.items()}, options)
    assert_same(captured, expected, f"{op} {backend}")


def test_a_graph_outlives_the_tables_of_a_thousand_other_grids():
    x, device = torch.randn(2, 4, 50, 34, device="cuda"), torch.device("cuda", 0)
    weight = torch.randn(4, 4, 6, 5, 2, device="cuda")
    expected = ops.spectral_conv(x, weight).clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = ops.spectral_conv(x, weight)
    for size in range(100, 1100):
        tables.last_tables(size, 5, True, 1.0, True, torch.float32, device)
    captured.zero_()
    graph.replay()
    assert_same([captured], [expected], "a replay after other grids")


@CELLS
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_device_that_is_not_the_current_one(op, backend):
    tensors, options = call(op, backend, "cuda:1")
    with fastseg.use_backend(backend):
        actual = forward_backward(op, tensors, options)
        assert torch.cuda.current_device() == 0
        with torch.cuda.device(1):
            expected = forward_backward(op, tensors, options)
    assert_same(actual, expected, f"{op} {backend}")


@CELLS
def test_compiles_with_the_default_compiler(op, backend):
    tensors, options = call(op, backend)

    def compiled(function):
        torch._dynamo.reset()
        return torch.compile(function, fullgraph=True)

    with fastseg.use_backend(backend):
        expected = forward_backward(op, tensors, options)
        actual = forward_backward(op, tensors, options, compiled)
    assert_same(actual, expected, f"{op} {backend}")
