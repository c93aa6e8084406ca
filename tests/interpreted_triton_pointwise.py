"""Products over channels with their epilogues, in Triton's interpreter (see `test_triton.py`)."""

import pytest
import torch
from operators import ROWS, check
from tolerances import BACKWARD, BF16, F16, F32, F64, FORWARD, assert_near, wide
from torch.nn import functional as F

from fastseg import kernels
from fastseg.ops.impl import matmul, triton
from fastseg.ops.impl.contract import Epilogue, Geometry, Matrix

pytestmark = pytest.mark.usefixtures("poisoned_memory", "one_thread")

SPECTRAL, POINTWISE = triton.Spectral(kernels), triton.Pointwise(kernels)
# weights are read alike whatever the samples are stored in
EVERY_DTYPE = pytest.mark.parametrize(
    ("dtype", "groups", "transposed"),
    [(F32, 1, False), (F32, 2, True), (F16, 1, False), (BF16, 2, True)],
    ids=str,
)
BATCH, INPUTS, OUTPUTS = 2, 3, 2


def samples(groups, sizes, dtype):
    return torch.randn(BATCH, groups * INPUTS, *sizes).to(dtype)


def weights(groups, transposed):
    """A weight as the kernels take it, and as (groups, outputs, inputs) in float64."""
    rows, columns = (INPUTS, OUTPUTS) if transposed else (OUTPUTS, INPUTS)
    weight = torch.randn(groups * rows, columns)
    exact = wide(weight).view(groups, rows, columns)
    return weight, exact.transpose(1, 2) if transposed else exact


def multiplied(x, exact):
    grouped = wide(x).unflatten(1, (len(exact), -1))
    return torch.einsum("goi,bgi...->bgo...", exact, grouped).flatten(1, 2)


def per_channel(values, like):
    return wide(values).view(-1, *[1] * (like.dim() - 2))


def gelu_gradient(z, factor):
    z = z.detach().requires_grad_()
    return torch.autograd.grad(F.gelu(z), z, wide(factor))[0]


@EVERY_DTYPE
@pytest.mark.parametrize(("sizes", "modes"), [((9,), (5,)), ((2, 20), (2, 7))], ids=str)
def test_synthesis_and_product_with_gelu(dtype, groups, transposed, sizes, modes):
    x, (weight, exact) = samples(groups, sizes, dtype), weights(groups, transposed)
    spectrum, bias = torch.randn(BATCH, groups * OUTPUTS, *modes, 2), torch.randn(groups * OUTPUTS)
    geometry = Geometry(sizes, modes, groups, (1.0, 0.3), True)
    z = matmul.synthesis(wide(spectrum), geometry, F64, bias) + multiplied(x, exact)
    given = spectrum, bias, geometry, x, Matrix(weight, groups, transposed)
    y = SPECTRAL.synthesis_product(*given, Epilogue("gelu"))
    assert y.dtype == dtype
    assert_near(y, F.gelu(z), FORWARD, "gelu")
    factor = torch.randn(z.shape).to(dtype)
    dz = SPECTRAL.synthesis_product(*given, Epilogue("gelu_gradient", factor=factor), F32)
    assert_near(dz, gelu_gradient(z, factor), BACKWARD, "gelu'")


@pytest.mark.parametrize(("sizes", "modes"), [((2, 3, 5), (2, 3, 3)), ((2, 70), (2, 36))], ids=str)
def test_synthesis_and_product_of_volumes_and_long_lines(sizes, modes):
    x, (weight, exact) = samples(1, sizes, F32), weights(1, False)
    spectrum = torch.randn(BATCH, OUTPUTS, *modes, 2)
    geometry = Geometry(sizes, modes, 1, (1.0, 1.0), True)
    z = matmul.synthesis(wide(spectrum), geometry, F64) + multiplied(x, exact)
    y = SPECTRAL.synthesis_product(spectrum, None, geometry, x, Matrix(weight), Epilogue())
    assert_near(y, z, FORWARD, "volume")


@EVERY_DTYPE
@pytest.mark.parametrize("sizes", [(1,), (70,), (5, 7)], ids=str)
def test_every_epilogue_of_a_product(dtype, groups, transposed, sizes):
    x, (weight, exact) = samples(groups, sizes, dtype), weights(groups, transposed)
    addend = torch.randn(BATCH, groups * OUTPUTS, *sizes)
    scale, shift = torch.randn(2, groups * OUTPUTS)
    z = multiplied(x, exact) + wide(addend)
    matrix, then = Matrix(weight, groups, transposed), Epilogue(addend=addend)
    y, _ = POINTWISE.product(x, matrix, then, F32)
    assert_near(y, z, FORWARD, "none")
    y, moments = POINTWISE.product(x, matrix, then._replace(kind="moments"))
    assert_near(y, z, FORWARD, "moments' z")
    axes = [axis for axis in range(z.dim()) if axis != 1]
    assert_near(moments, torch.stack([z.sum(axes), z.square().sum(axes)]), FORWARD, "moments")
    affine = then._replace(kind="affine_relu", scale=scale, shift=shift)
    y, _ = POINTWISE.product(x, matrix, affine)
    relu = (z * per_channel(scale, z) + per_channel(shift, z)).relu()
    assert_near(y, relu, FORWARD, "affine_relu")


@pytest.mark.parametrize("op", ["fu_mix", "fu_finish", "fourier_unit"])
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_fourier_units_match_float64(op, dtype):
    check(op, ROWS[op], "triton", (5, 8), dtype)


def test_the_addend_may_be_the_result():
    x, (weight, exact) = samples(1, (6, 7), F32), weights(1, False)
    out = torch.randn(BATCH, OUTPUTS, 6, 7)
    z = multiplied(x, exact) + wide(out)
    y, _ = POINTWISE.product(x, Matrix(weight), Epilogue(addend=out), out=out)
    assert y is out
    assert_near(y, z, FORWARD, "in place")


@pytest.mark.parametrize("sizes", [(1,), (1100,), (5, 7)], ids=str)
def test_affine_relu_and_its_gradients(sizes):
    z, gradient = torch.randn(2, BATCH, 3, *sizes)
    scale, shift = torch.randn(2, 3)
    leaves = [wide(t).requires_grad_() for t in (z, scale, shift)]
    y = (leaves[0] * leaves[1].view(-1, *[1] * len(sizes))
         + leaves[2].view(-1, *[1] * len(sizes))).relu()  # fmt: skip
    dz, *sums = torch.autograd.grad(y, leaves, wide(gradient))
    assert_near(POINTWISE.affine_relu(z, scale, shift), y, FORWARD, "forward")
    found, found_sums = POINTWISE.affine_relu_backward(gradient, z, scale, shift)
    assert_near(found, dz, BACKWARD, "dz")
    assert_near(found_sums, torch.stack(sums), BACKWARD, "sums")
