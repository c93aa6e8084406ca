"""Derivatives of derivatives: every op against finite differences and float64, penalties and
Hessian-vector products through every module, what trains by them, and under torch.compile.
"""

import itertools

import pytest
import torch
from operators import FEW, LIVE, ROWS, Draw, device_of, outputs_of, place, serves
from test_tracing import MODULES, drawn
from tolerances import BF16, F16, F32, F64, SECOND_ORDER, assert_near, wide

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


def positional(function, names, options):
    """The function of tensors alone, which leaves the buffers among its options as they were."""

    def call(*values):
        fresh = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
        return outputs_of(function(**dict(zip(names, values, strict=True)), **fresh))

    return call


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


def dot(a, b):
    return (a.conj() * b).real.sum()


def second(function, tensors, options, draw):
    """The derivatives of Σ ⟨v, gradient⟩ by every tensor and every gradient of a result."""
    leaves = [t.detach().requires_grad_() for t in tensors.values()]
    results = positional(function, tensors, options)(*leaves)
    given = [draw(y).requires_grad_() for y in results]
    grads = torch.autograd.grad(results, leaves, given, create_graph=True)
    loss = sum(dot(draw(g), g) for g in grads)
    found = torch.autograd.grad(loss, leaves + given, allow_unused=True)
    return [
        torch.zeros_like(t) if g is None else g for t, g in zip(leaves + given, found, strict=True)
    ]


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
        again = iter(given)
        doubles = {name: wide(t) for name, t in tensors.items()}
        plain = {k: wide(v) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
        plain |= {"dtype": F64} if "dtype" in options else {}
        exact = second(
            row.exact or getattr(reference, op), doubles, plain, lambda _: wide(next(again))
        )
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
@pytest.mark.parametrize("name", MODULES)
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
