"""The 1×1 convolutions and affine ReLUs of every backend that has them, against float64."""

import itertools
from typing import NamedTuple

import pytest
import torch
from operators import FEW, LIVE
from tolerances import BF16, F16, F32, F64, FORWARD, assert_near, wide
from torch.nn import functional as F

from fastseg.ops import impl
from fastseg.ops.impl.contract import Epilogue, Matrix

pytestmark = pytest.mark.usefixtures("poisoned_memory", "one_thread")
BACKENDS = [name for name in LIVE if name in impl.POINTWISE]
# storage types of x and of the result: what the operators ask for
WIDE = [(F32, F32), (F64, F64)]
PAIRS = {
    "none": [*WIDE, (F32, F16), (F32, BF16)],
    "gelu": [*WIDE, (F16, F16), (BF16, BF16)],
    "gelu_gradient": [*WIDE, (F16, F32), (BF16, F32)],
    "affine_relu": WIDE,
    "moments": WIDE,
}


class Shape(NamedTuple):
    batch: int
    groups: int
    outputs: int
    inputs: int
    points: int


# whole and broken tiles of rows, panels and blocks of points; enough tiles for CUDA's tall ones
SHAPES = [
    Shape(2, 1, 13, 20, 97), Shape(1, 2, 7, 4, 33), Shape(3, 3, 1, 1, 1), Shape(12, 4, 33, 19, 5),
]  # fmt: skip
SHAPES += [] if FEW else [
    Shape(1, 1, 1, 1, 1000), Shape(2, 1, 64, 128, 128), Shape(1, 2, 6, 9, 300),
    Shape(1, 1, 6, 0, 40), Shape(0, 1, 2, 2, 9), *(Shape(2, 1, n, 3, 40 + n) for n in range(1, 14)),
]  # fmt: skip


def served(backend, dtype):
    return not impl.unable(backend, impl.SERVES[backend], dtype)


def drawn(shape: Shape, dtypes, transposed: bool, backend: str):
    b, g, o, i, n = shape
    compute = F64 if dtypes[0] == F64 else F32
    device = impl.SERVES[backend]

    def real(*sizes, dtype=compute):
        return torch.randn(sizes, dtype=F64).to(device, dtype)

    torch.manual_seed(sum(shape))
    weight = real(*((g, i, o) if transposed else (g, o, i)))
    return {
        "x": real(b, g * i, n, dtype=dtypes[0]),
        "weight": weight.flatten(0, 1),
        "addend": real(b, g * o, n) if transposed else None,
        "factor": real(b, g * o, n, dtype=dtypes[0]),
        "scale": real(g * o),
        "shift": real(g * o),
    }


def product(backend, epilogue, t, groups=1, transposed=False, dtype=None, out=None):
    """The kernel on what `drawn` returns; a factor is given to the epilogue that takes one."""
    operands = {name: t[name] for name in ("addend", "scale", "shift")}
    factor = t["factor"] if epilogue == "gelu_gradient" else None
    matrix = Matrix(t["weight"], groups, transposed)
    then = Epilogue(epilogue, factor=factor, **operands)
    return impl.POINTWISE[backend].product(t["x"], matrix, then, dtype, out)


def exact_product(shape: Shape, transposed: bool, x, weight, addend):
    b, g, o, i, n = shape
    matrices = wide(weight).view((g, i, o) if transposed else (g, o, i))
    matrices = matrices.mT if transposed else matrices
    z = torch.matmul(matrices, wide(x).view(b, g, i, n)).view(b, g * o, n)
    return z if addend is None else z + wide(addend)


def exact_epilogue(epilogue: str, z, factor, scale, shift):
    if epilogue == "gelu":
        return F.gelu(z)
    if epilogue == "gelu_gradient":
        leaf = z.clone().requires_grad_()
        return torch.autograd.grad(F.gelu(leaf).sum(), leaf)[0] * wide(factor)
    if epilogue == "affine_relu":
        return F.relu(wide(scale)[:, None] * z + wide(shift)[:, None])
    return z


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("epilogue", "dtypes"),
    [(epilogue, dtypes) for epilogue, pairs in PAIRS.items() for dtypes in pairs],
    ids=lambda value: value if isinstance(value, str) else f"{value[0]}-{value[1]}",
)
@pytest.mark.parametrize("transposed", [False, True])
def test_product(backend, epilogue, dtypes, transposed):
    if not served(backend, dtypes[0]):
        pytest.skip("computes in float32")
    for shape in SHAPES:
        t = drawn(shape, dtypes, transposed, backend)
        out, moments = product(backend, epilogue, t, shape.groups, transposed, dtypes[1])
        z = exact_product(shape, transposed, t["x"], t["weight"], t["addend"])
        exact = exact_epilogue(epilogue, z, t["factor"], t["scale"], t["shift"])
        assert out.dtype == dtypes[1]
        assert_near(out, exact, FORWARD, f"{epilogue} {shape}")
        assert (moments is None) == (epilogue != "moments")
        if moments is not None:
            sums = torch.stack([z.sum((0, 2)), z.square().sum((0, 2))])
            # Σ z cancels: hold it to the numbers that were summed
            norm = z.abs().sum((0, 2)).norm().item()
            assert_near(moments[0], sums[0], FORWARD, f"Σ z {shape}", norm)
            assert_near(moments[1], sums[1], FORWARD, f"Σ z² {shape}")


@pytest.mark.skipif(FEW, reason="an exception of the module ends a process under AddressSanitizer")
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "triton"])
@pytest.mark.parametrize("epilogue", PAIRS)
def test_other_dtypes_are_refused(backend, epilogue):
    t = drawn(Shape(1, 1, 2, 2, 8), (F16, BF16), False, backend)
    with pytest.raises(impl._C.Error, match="pointwise: no kernel for this epilogue"):
        product(backend, epilogue, t, dtype=BF16)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("epilogue", ["none", "gelu", "gelu_gradient"])
def test_the_result_may_take_the_addends_place(backend, epilogue):
    t = drawn(Shape(2, 1, 7, 5, 77), (F32, F32), True, backend)
    apart, _ = product(backend, epilogue, t, transposed=True)
    taken, _ = product(backend, epilogue, t, transposed=True, out=t["addend"])
    assert taken is t["addend"]
    assert torch.equal(taken, apart)


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_do_not_change_the_sums(backend, threads):
    t = drawn(Shape(3, 2, 9, 40, 1500), (F32, F32), False, backend)
    first = product(backend, "moments", t, groups=2)
    threads(2)
    for a, b in zip(product(backend, "moments", t, groups=2), first, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gelu_is_accurate_in_its_tails_and_at_the_ends(backend):
    device = impl.SERVES[backend]

    def through(z, epilogue, factor=None):
        one, z = torch.ones(1, 1, device=device), z.to(device).view(1, 1, -1)
        factor = None if factor is None else factor.to(device).view(1, 1, -1)
        then = Epilogue(epilogue, factor=factor)
        return impl.POINTWISE[backend].product(z, Matrix(one), then)[0].flatten()

    z = torch.linspace(-5, 5, 20001)
    exact = 0.5 * wide(z) * torch.special.erfc(wide(-z) * 0.5**0.5)
    error = (wide(through(z, "gelu")) - exact.to(device)).abs().cpu()
    assert (error <= 1e-6 * exact.abs()).all() or backend != "cpu"
    assert (error <= 2e-7 * exact.abs().clamp(min=1)).all()
    ends = torch.tensor([torch.nan, torch.inf, 1e30, -1e30, 0.0, -20.0])
    want = torch.tensor([torch.nan, torch.inf, 1e30, 0.0, 0.0, 0.0])
    torch.testing.assert_close(
        through(ends, "gelu").cpu(), want, rtol=0, atol=1e-30, equal_nan=True
    )
    slopes = through(ends, "gelu_gradient", torch.ones_like(ends)).cpu()
    want = torch.tensor([torch.nan, 1.0, 1.0, 0.0, 0.5, 0.0])
    torch.testing.assert_close(slopes[2:], want[2:], rtol=0, atol=1e-7)
    assert slopes[0].isnan()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_affine_relu(backend, dtype):
    if not served(backend, dtype):
        pytest.skip("computes in float32")
    kernels, device = impl.POINTWISE[backend], impl.SERVES[backend]
    torch.manual_seed(0)
    for batch, channels, points in itertools.product((0, 1, 3), (1, 6), (1, 37, 128, 700)):
        z, gradient = (
            torch.randn(batch, channels, points, dtype=dtype, device=device) for _ in "zg"
        )
        scale, shift = (torch.randn(channels, dtype=dtype, device=device) for _ in "ab")
        leaves = [wide(t).requires_grad_() for t in (z, scale, shift)]
        exact = F.relu(leaves[1][:, None] * leaves[0] + leaves[2][:, None])
        what = (batch, channels, points)
        assert_near(kernels.affine_relu(z, scale, shift), exact, FORWARD, what)
        dz, dscale, dshift = torch.autograd.grad(exact, leaves, wide(gradient))
        out, sums = kernels.affine_relu_backward(gradient, z, scale, shift)
        assert_near(out, dz, FORWARD, what)
        norm = (wide(gradient).abs() * wide(z).abs().clamp(min=1)).sum().item()
        assert_near(sums, torch.stack([dscale, dshift]), FORWARD, what, norm or 1.0)
