"""Derivatives of derivatives: every op against finite differences and float64, penalties and
Hessian-vector products through every module, what trains by them, under torch.compile; and
torch.func and forward mode on the kernels.
"""

import itertools

import pytest
import torch
from modules import MODULES, drawn
from operators import (
    FEW,
    LIVE,
    ROWS,
    Draw,
    device_of,
    dot,
    outputs_of,
    place,
    positional,
    second,
    serves,
)
from tolerances import BF16, F16, F32, F64, SECOND_ORDER, assert_near, wide
from torch.autograd import forward_ad

import fastseg
from fastseg import nn, ops, reference

pytestmark = pytest.mark.usefixtures("poisoned_memory", "one_thread")

HAS_CPU = pytest.mark.skipif("cpu" not in LIVE, reason="fastseg._C is not built")
KERNELS = [name for name in LIVE if name not in ("reference", "matmul")]
CELLS = [
    cell
    for cell in itertools.product(ROWS, KERNELS, (F32, F64, F16, BF16))
    if serves(ROWS[cell[0]], *cell[1:])
]
# small tensors: finite differences take a call for each of many directions
GRIDS = [(op, sizes) for op in ROWS for sizes in ROWS[op].few if torch.Size(sizes).numel() < 220]


def check_twice(op, sizes, *, only=None):
    tensors, options = ROWS[op].draw(sizes, F64)
    values = [t.requires_grad_(only in (None, name)) for name, t in tensors.items()]
    call = positional(getattr(ops, op), tensors, options)
    with fastseg.use_backend("cpu"):
        assert torch.autograd.gradgradcheck(call, values, fast_mode=True, atol=1e-4), (op, sizes)


@HAS_CPU
@pytest.mark.parametrize(("op", "sizes"), GRIDS, ids=str)
def test_finite_differences_of_every_gradient(op, sizes):
    check_twice(op, sizes)


@HAS_CPU
@pytest.mark.parametrize("op", ROWS)
def test_finite_differences_where_one_argument_is_learnt(op):
    sizes = next(sizes for name, sizes in GRIDS if name == op and len(sizes) == 2)
    tensors, _ = ROWS[op].draw(sizes, F64)
    for name in tensors:
        check_twice(op, sizes, only=name)


def replay(given):
    given = iter(given)
    return lambda _: wide(next(given))


@pytest.mark.parametrize(("op", "backend", "dtype"), CELLS, ids=str)
def test_second_derivatives_match_float64(op, backend, dtype):
    row = ROWS[op]
    for sizes in row.few[2:4] if FEW else row.few:
        tensors, options = (place(part, device_of(backend)) for part in row.draw(sizes, dtype))
        given, source = [], Draw((op, sizes, "second"), dtype)

        def draw(y, given=given, source=source):
            given.append(source.like(y).to(y.device))
            return given[-1].clone()

        with fastseg.use_backend(backend):
            found = second(getattr(ops, op), tensors, options, draw)
        doubles = {name: wide(t) for name, t in tensors.items()}
        plain = {k: wide(v) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
        plain |= {"dtype": F64} if "dtype" in options else {}
        exact = second(row.exact or getattr(reference, op), doubles, plain, replay(given))
        for index, (a, b) in enumerate(zip(found, exact, strict=True)):
            assert_near(a, b, SECOND_ORDER, f"derivative {index}, {op} {backend} {dtype} {sizes}")


@HAS_CPU
@pytest.mark.parametrize("op", ROWS)
def test_third_derivatives(op):
    """By composition: compared with the reference's."""
    sizes = next(sizes for name, sizes in GRIDS if name == op and len(sizes) == 2)
    tensors, options = ROWS[op].draw(sizes, F64)

    def third(function):
        leaves = [t.detach().requires_grad_() for t in tensors.values()]
        loss = sum(y.abs().square().sum() for y in positional(function, tensors, options)(*leaves))
        for _ in range(2):
            grads = torch.autograd.grad(loss, leaves, create_graph=True)
            loss = sum(g.abs().square().sum() for g in grads)
        return torch.autograd.grad(loss, leaves)

    with fastseg.use_backend("cpu"):
        found = third(getattr(ops, op))
    exact = third(ROWS[op].exact or getattr(reference, op))
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7 * float(b.abs().max()))


def penalised(module, inputs):
    """The gradients, by every parameter and image, of a loss with a gradient penalty."""
    inputs = [x.detach().requires_grad_(x.is_floating_point()) for x in inputs]
    images = [x for x in inputs if x.requires_grad]
    leaves = [*images, *(p for p in module.parameters() if p.requires_grad)]
    loss = sum(y.square().mean() for y in outputs_of(module(*inputs)))
    grads = torch.autograd.grad(loss, images, create_graph=True, allow_unused=True)
    penalty = sum(g.square().sum() for g in grads if g is not None)
    found = torch.autograd.grad(loss + penalty, leaves, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(leaves, found, strict=True)]


def curvature(module, inputs):
    """The Hessian of a loss by the parameters, or else the images, times ones."""
    inputs = [x.detach().requires_grad_(x.is_floating_point()) for x in inputs]
    leaves = [p for p in module.parameters() if p.requires_grad]
    leaves = leaves or [x for x in inputs if x.requires_grad]
    loss = sum(y.square().mean() for y in outputs_of(module(*inputs)))
    grads = torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True)
    along = sum(dot(torch.ones_like(g), g) for g in grads if g is not None)
    found = torch.autograd.grad(along, leaves, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(leaves, found, strict=True)]


@HAS_CPU
@pytest.mark.parametrize("what", [penalised, curvature])
# GaussianSmooth, as MONAI's, gives float32 of any dtype
@pytest.mark.parametrize("name", [name for name in MODULES if name != "GaussianSmooth"])
def test_penalties_and_curvature_of_every_module(name, what, seeded):
    make, shapes = MODULES[name]
    module = make().double().train()
    inputs = [
        t.double() if t.is_floating_point() else t
        for t in drawn(name, shapes, torch.Generator().manual_seed(0))
    ]
    before = {k: v.clone() for k, v in module.state_dict().items()}
    exact, found = [], []
    for backend, into in (("reference", exact), ("cpu", found)):
        module.load_state_dict(before)
        with fastseg.use_backend(backend):
            into.extend(what(module, inputs))
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10 * (1 + float(b.abs().max())))


@HAS_CPU
def test_an_equation_trains_an_operator(seeded):
    """u'' = −f by derivatives of the output by the grid that goes in, as physics-informed losses
    take them: u(x) of an operator that is given f and x.
    """
    lift, block = torch.nn.Conv1d(2, 8, 1), nn.FNOBlock(8, 8, (6,))
    last = torch.nn.Conv1d(8, 1, 1)
    weights = [*lift.parameters(), *block.parameters(), *last.parameters()]
    optimiser, losses = torch.optim.Adam(weights, 1e-2), []
    grid = torch.linspace(0, 1, 32).expand(4, 1, 32)
    force = torch.sin(2 * torch.pi * grid * torch.arange(1, 5).view(4, 1, 1))
    for _ in range(60):
        at = grid.clone().requires_grad_()
        with fastseg.use_backend("cpu"):
            u = last(block(lift(torch.cat([force, at], 1))))
            (slope,) = torch.autograd.grad(u.sum(), at, create_graph=True)
            (bend,) = torch.autograd.grad(slope.sum(), at, create_graph=True)
            loss = (bend + force).square().mean() + u[..., [0, -1]].square().mean()
            optimiser.zero_grad()
            loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


COMPILED = {
    "SpectralConv": lambda: nn.SpectralConv(4, 4, (6, 4)),
    "FNOBlock": lambda: nn.FNOBlock(4, 4, (6, 4)),
    "FourierUnit": lambda: nn.FourierUnit(4, 4),
    "FFParser": lambda: nn.FFParser(4, (12, 10)),
    "GaussianFilter": lambda: nn.GaussianFilter(2.0),
}


@HAS_CPU
@pytest.mark.parametrize("name", COMPILED)
def test_a_penalty_compiles_whole(name, seeded):
    """The step that holds the first backward, torch.autograd.grad, is one graph."""
    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        pytest.skip("this torch.compile follows no torch.autograd.grad")
    layer = COMPILED[name]()
    x = torch.randn(2, 4, 12, 10, requires_grad=True)
    leaves = [x, *layer.parameters()]

    def penalty(x):
        loss = layer(x).square().sum()
        (grad,) = torch.autograd.grad(loss, x, create_graph=True)
        return loss + grad.square().sum()

    torch._dynamo.reset()
    with fastseg.use_backend("cpu"), torch._dynamo.config.patch(trace_autograd_ops=True):
        compiled = torch.compile(penalty, fullgraph=True, backend="aot_eager")
        found = torch.autograd.grad(compiled(x), leaves)
        exact = torch.autograd.grad(penalty(x), leaves)
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b)


@HAS_CPU
def test_torch_refuses_two_backwards_through_a_compiled_forward():
    layer, x = nn.SpectralConv(2, 2, (4, 3)), torch.randn(1, 2, 8, 9, requires_grad=True)
    torch._dynamo.reset()
    with fastseg.use_backend("cpu"):
        loss = torch.compile(layer, backend="aot_eager")(x).square().sum()
        (grad,) = torch.autograd.grad(loss, x, create_graph=True)
        with pytest.raises(RuntimeError, match="does not currently support double backward"):
            grad.sum().backward()


def tuned(op):
    """An op's tensors in float64, and functions of them by the kernels and by the reference."""
    sizes = next(
        sizes for name, sizes in GRIDS if name == op and len(sizes) == 2 and max(sizes) > 1
    )
    tensors, options = ROWS[op].draw(sizes, F64)
    # one buffer cannot take the statistics of every member
    options = {k: None if k.startswith("running_") else v for k, v in options.items()}
    ours = positional(getattr(ops, op), tensors, options)
    exact = positional(ROWS[op].exact or getattr(reference, op), tensors, options)
    return list(tensors.values()), ours, exact


def assert_like(found, exact):
    found, exact = (torch.utils._pytree.tree_leaves(tree) for tree in (found, exact))
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * float(b.abs().max()))


def total(function):
    return lambda *values: sum(y.abs().square().sum() for y in function(*values))


def tangents(function, values):
    along = tuple(torch.roll(v, 1, -1) if v.dim() else v for v in values)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(v, t) for v, t in zip(values, along, strict=True)]
        moved = [forward_ad.unpack_dual(y).tangent for y in function(*duals)]
    return torch.func.jvp(function, tuple(values), along), moved


def products(function, values):
    """The Hessian times a vector, forward over reverse."""
    every, along = tuple(range(len(values))), tuple(0.5 * v for v in values)
    return torch.func.jvp(torch.func.grad(total(function), every), tuple(values), along)


def mapped(function, values):
    """Over all arguments together, and over each alone, by another axis."""
    found = [torch.func.vmap(function)(*(torch.stack([v, 2 * v]) for v in values))]
    for at, value in enumerate(values):
        dims = [None] * len(values)
        dims[at] = -1
        given = [*values[:at], torch.stack([value, 1.5 * value], -1), *values[at + 1 :]]
        found.append(torch.func.vmap(function, in_dims=tuple(dims))(*given))
    return found


def of_samples(function, values):
    """The gradients of every member of an ensemble."""
    every = tuple(range(len(values)))
    gradients = torch.func.vmap(torch.func.grad(total(function), every))
    return gradients(*(torch.stack([v, 2 * v]) for v in values))


@HAS_CPU
@pytest.mark.parametrize("what", [tangents, products, mapped, of_samples])
@pytest.mark.parametrize("op", ROWS)
def test_torch_func_and_forward_mode_run_on_the_kernels(op, what):
    values, ours, exact = tuned(op)
    with fastseg.use_backend("cpu"):
        found = what(ours, values)
    assert_like(found, what(exact, values))
