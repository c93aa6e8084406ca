"""Every op × backend × dtype × shape of the registry (`operators.ROWS`): against float64, and what
every op has to stand: other layouts, autocast, compilation, empty batches.
"""

import functools
import inspect
import itertools

import pytest
import torch
from operators import (
    FEW,
    LIVE,
    NOT_OPS,
    ROWS,
    check,
    device_of,
    place,
    run,
    saved_by,
    second,
    serves,
)
from tolerances import BACKWARD, BF16, F16, F32, F64, assert_near, wide
from torch.utils._python_dispatch import TorchDispatchMode

import fastseg
from fastseg import ops, reference
from fastseg.ops import context

pytestmark = pytest.mark.usefixtures("poisoned_memory", "one_thread")

# the backends of an op and a dtype one after another: they share what is drawn and exact
CELLS = [
    (op, backend, dtype)
    for op, dtype, backend in itertools.product(ROWS, (F32, F64, F16, BF16), LIVE)
    if serves(ROWS[op], backend, dtype)
]


EVERY_CELL = pytest.mark.parametrize(("op", "backend", "dtype"), CELLS, ids=str)
IN_F32 = pytest.mark.parametrize(
    ("op", "backend"), [cell[:2] for cell in CELLS if cell[2] == F32], ids=str
)


def call(op, backend, dtype=F32, index=0):
    """The op's arguments on one of its grids, on the device the backend serves."""
    row = ROWS[op]
    tensors, options = row.draw(row.few[index % len(row.few)], dtype)
    return place(tensors, device_of(backend)), place(options, device_of(backend))


def assert_same(actual, expected, what, exactly=False):
    for a, b in zip((*actual[0], *actual[1]), (*expected[0], *expected[1]), strict=True):
        assert a.dtype == b.dtype, what
        if exactly:
            assert torch.equal(a, b), what
        else:
            assert_near(a, wide(b), BACKWARD, what)


def test_every_operator_has_a_row():
    assert {name for name in ops.__all__ if name not in NOT_OPS} == set(ROWS)


def test_every_backend_is_tested():
    assert set(fastseg.backends()) == set(context.NAMES) - {"auto"}
    tested = {backend for _, backend, _ in CELLS}
    assert tested == set(LIVE)


@pytest.mark.parametrize("op", ROWS)
def test_reference_has_the_same_signature(op):
    ours, theirs = (inspect.signature(getattr(m, op)).parameters for m in (ops, reference))
    assert list(ours) == list(theirs)
    assert [p.default for p in ours.values()] == [p.default for p in theirs.values()]


@functools.lru_cache(maxsize=1)
def known_of(op, dtype) -> dict:
    """What the backends of an op and a dtype share, until the next ones come."""
    return {}


@EVERY_CELL
def test_matches_float64(op, backend, dtype):
    for sizes in ROWS[op].chosen(backend, dtype):
        check(op, ROWS[op], backend, sizes, dtype, known_of(op, dtype))


@EVERY_CELL
def test_autocast_changes_nothing(op, backend, dtype):
    tensors, options = call(op, backend, dtype)
    function = getattr(ops, op)

    def under_autocast(**arguments):
        with torch.autocast(device_of(backend), dtype=BF16):
            return function(**arguments)

    with fastseg.use_backend(backend):
        plain = run(function, tensors, options, torch.ones_like)
        cast = run(under_autocast, tensors, options, torch.ones_like)
    assert_same(cast, plain, op, exactly=True)


def strided(t):
    return torch.stack([t, t], -1).flatten(-2)[..., ::2] if t.dim() else t


def batch_last(t):
    return t.movedim(0, -1).contiguous().movedim(-1, 0) if t.dim() else t


def channels_last(t):
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return t.contiguous(memory_format=formats[t.dim()]) if t.dim() in formats else t


@IN_F32
@pytest.mark.parametrize("layout", [strided, batch_last, channels_last])
def test_layout_does_not_matter(op, backend, layout):
    for index in range(len(ROWS[op].few)):
        tensors, options = call(op, backend, F32, index)
        with fastseg.use_backend(backend):
            plain = run(getattr(ops, op), tensors, options, torch.ones_like)
            moved = {name: layout(t) for name, t in tensors.items()}
            other = run(getattr(ops, op), moved, options, lambda y: layout(torch.ones_like(y)))
        assert_same(other, plain, f"{op} {backend} {layout.__name__}")


def lazy(t):
    """The same values, the memory of which holds their negatives."""
    return torch._neg_view(-t)


@IN_F32
def test_lazily_negated_tensors_are_what_they_stand_for(op, backend):
    tensors, options = call(op, backend)
    with fastseg.use_backend(backend), torch.no_grad():
        plain = getattr(ops, op)(**tensors, **options)
        for name, tensor in tensors.items():
            other = getattr(ops, op)(**tensors | {name: lazy(tensor)}, **options)
            torch.testing.assert_close(other, plain, msg=lambda text, name=name: f"{name}: {text}")


@IN_F32
def test_empty_batch(op, backend):
    tensors, options = call(op, backend)
    batched = [name for name in ROWS[op].batched if name in tensors]
    tensors = {name: t[:0] if name in batched else t for name, t in tensors.items()}
    with fastseg.use_backend(backend):
        results, grads = run(getattr(ops, op), tensors, options, torch.ones_like)
    assert results[0].shape[0] == 0
    for (name, tensor), grad in zip(tensors.items(), grads, strict=True):
        assert grad.shape == tensor.shape
        assert not grad.any(), name


@IN_F32
def test_nothing_is_saved_without_gradients(op, backend):
    tensors, options = call(op, backend)
    with fastseg.use_backend(backend):
        results, saved = saved_by(lambda: getattr(ops, op)(**tensors, **options))
        leaves = {name: t.requires_grad_() for name, t in tensors.items()}
        with torch.no_grad():
            more, saved_again = saved_by(lambda: getattr(ops, op)(**leaves, **options))
    assert not saved + saved_again
    assert not any(y.requires_grad for y in results + more)


@IN_F32
def test_inputs_are_left_alone_and_results_repeat(op, backend):
    tensors, options = call(op, backend)
    before = {name: t.clone() for name, t in tensors.items()}
    with fastseg.use_backend(backend):
        first = run(getattr(ops, op), tensors, options, torch.ones_like)
        second = run(getattr(ops, op), tensors, options, torch.ones_like)
    assert all(torch.equal(t, before[name]) for name, t in tensors.items())
    assert_same(second, first, op, exactly=True)


@pytest.mark.skipif(FEW, reason="compiled graphs call the same kernels")
@IN_F32
def test_compiles_whole(op, backend):
    tensors, options = call(op, backend)
    function = getattr(ops, op)
    torch._dynamo.reset()
    with fastseg.use_backend(backend):
        eager = run(function, tensors, options, torch.ones_like)
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        traced = run(compiled, tensors, options, torch.ones_like)
    assert_same(traced, eager, f"{op} {backend}")


class Recorder(TorchDispatchMode):
    """Keeps the arguments of every registered op of ours that runs."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "fastseg":
            self.calls.setdefault(function, []).append((args, kwargs or {}))
        return function(*args, **(kwargs or {}))


def recorded(backend, dtype):
    recorder = Recorder()
    with fastseg.use_backend(backend), recorder:
        for op, name, kind in CELLS:
            # which registered ops run depends on the shapes
            for index in range(len(ROWS[op].few) if (name, kind) == (backend, dtype) else 0):
                tensors, options = call(op, backend, dtype, index)
                run(getattr(ops, op), tensors, options, torch.ones_like)
                if not index:
                    second(getattr(ops, op), tensors, options, torch.ones_like)
    return recorder.calls


def registered():
    names = torch._C._dispatch_get_all_op_names()
    return {name.split("::")[1] for name in names if name.startswith("fastseg::")}


KERNELS = [name for name in LIVE if name not in ("reference", "matmul")]


def as_leaf(value, grad):
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.detach().clone().requires_grad_(grad)
    return value


OPCHECKS = ("test_schema", "test_autograd_registration", "test_faketensor",
            "test_aot_dispatch_dynamic")  # fmt: skip


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_opcheck(backend, dtype):
    calls = recorded(backend, dtype)
    # graphs are traced alike in every dtype: what differs is that of the results
    checks = OPCHECKS if dtype == F32 else OPCHECKS[:-1]
    if backend == "cpu" and dtype == F32:
        # taps are made by torch but on a GPU
        here = registered() - {"gaussian_taps"}
        assert {function.name().split("::")[1] for function in calls} == here
    for function, samples in calls.items():
        args, kwargs = samples[0]
        for grad in (False, "backward" not in function.name()):
            leaves = [as_leaf(value, grad) for value in args]
            torch.library.opcheck(function, leaves, kwargs, test_utils=checks)
