"""The Fourier unit and its two halves: argument checks, statistics and the choice of backend."""

import math

import torch
from torch import Tensor

from fastseg.ops import checks, context, dispatch, impl, tables
from fastseg.ops.context import watched
from fastseg.ops.impl import matmul, reference
from fastseg.ops.impl.composed import sum_of_products
from fastseg.ops.impl.contract import Epilogue, Geometry, Matrix, UnitState, whole
from fastseg.ops.impl.native import compute_dtype
from fastseg.ops.register import op
from fastseg.ops.transforms import Registered, pointwise


@context.public
def fu_mix(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first half of a Fourier unit: z = weight · rfftn(x, norm="ortho"), Σ z and Σ z².

    x: (B, Cin, *S) real, 1 to 3 axes; weight: (2Cout, 2Cin), or with trailing axes of 1, where
    channels 2i and 2i+1 are the real and the imaginary part of channel i. z: (B, 2Cout, *S[:-1],
    S[-1]//2+1); the sums, (2Cout,), run over batch and bins, every stored bin counting once; all
    float32, float64 for float64. What turns the moments into a scale and a shift is the caller's:
    batch, synchronised and group statistics all fit. Differentiable; saves the spectrum and z.

    Raises ValueError or TypeError naming the argument, RuntimeError where a forced backend cannot
    run.

    >>> z, total, squares = fu_mix(torch.randn(2, 3, 8, 10), weight=torch.randn(8, 6))
    >>> z.shape, total.shape
    (torch.Size([2, 8, 8, 6]), torch.Size([8]))
    """
    weight = _checked_input(x, weight)
    backend = _select(x, x.shape[2:], x.shape[0] * x.shape[1])
    if backend == "reference":
        return reference.fu_mix(x, weight)
    z, moments = _mix(x, weight, backend)
    return z, *moments.unbind(0)


@context.public
def fu_finish(z: Tensor, scale: Tensor, shift: Tensor, sizes) -> Tensor:
    """Return the second half of a Fourier unit: irfftn(relu(scale·z + shift), norm="ortho").

    z: (B, 2C, *half spectrum) float32 or float64, as `fu_mix` returns it; scale, shift: (2C,);
    sizes: the grid *S of the result. Returns (B, C, *sizes) in z.dtype. Differentiable in z, scale
    and shift; saves z.

    Raises ValueError or TypeError naming the argument, RuntimeError where a forced backend cannot
    run.

    >>> z, one, zero = torch.randn(2, 8, 8, 6), torch.ones(8), torch.zeros(8)
    >>> fu_finish(z, one, zero, sizes=(8, 10)).shape
    torch.Size([2, 4, 8, 10])
    """
    sizes = _checked_spectrum(z, scale, shift, sizes)
    backend = _select(z, sizes, z.shape[0] * z.shape[1] // 2)
    if backend == "reference":
        return reference.fu_finish(z, scale, shift, sizes)
    return _finish(z, scale, shift, sizes, z.dtype, backend)


@context.public
def fourier_unit(
    x: Tensor, weight: Tensor, norm_weight: Tensor, norm_bias: Tensor,
    running_mean: Tensor | None, running_var: Tensor | None, training: bool, momentum: float,
    eps: float,
) -> Tensor:  # fmt: skip
    """Apply a Fourier unit: rfftn, 1×1 convolution of real and imaginary parts, batch norm over
    batch and bins, ReLU, irfftn (Chi et al., 2020, fig. 2).

    x: (B, Cin, *S) real; weight as `fu_mix` takes it; norm_weight, norm_bias and the running
    statistics: (2Cout,). Returns (B, Cout, *S) in x.dtype; 16-bit inputs are computed in float32.
    Training normalises by the batch's statistics, gradients flow through them, and moves the
    running ones, where given, in place by `momentum` towards them, the variance unbiased; otherwise
    the running ones are taken.

    Raises ValueError or TypeError naming the argument, RuntimeError where a forced backend cannot
    run.

    >>> x, weight = torch.randn(2, 3, 8, 10), torch.randn(4, 6)
    >>> one, zero = torch.ones(4), torch.zeros(4)
    >>> fourier_unit(x, weight, one, zero, zero, one, training=False, momentum=0.1, eps=1e-5).shape
    torch.Size([2, 2, 8, 10])
    """
    weight = _checked_input(x, weight)
    checks.check_batch_norm(
        x, weight, norm_weight, norm_bias, running_mean, running_var, training, momentum, eps
    )
    backend = _select(x, x.shape[2:], x.shape[0] * x.shape[1])
    if backend == "reference":
        return reference.fourier_unit(
            x, weight, norm_weight, norm_bias, running_mean, running_var, training, momentum, eps
        )
    mean, var = running_mean, running_var
    if not training:
        scale, shift = _affine(norm_weight, norm_bias, mean, var, eps, compute_dtype(x.dtype))
        if backend != "matmul" and not watched(x, weight, scale, shift):
            return _normalised_unit(x, weight.to(scale.dtype), scale, shift, backend)
    z, moments = _mix(x, weight, backend)
    if training:
        count = max(z.shape[0] * math.prod(z.shape[2:]), 1)
        mean, square = (moments / count).unbind(0)
        var = torch.addcmul(square, mean, mean, value=-1).clamp(min=0)
        _move(running_mean, running_var, mean, var, count, momentum)
        scale, shift = _affine(norm_weight, norm_bias, mean, var, eps, z.dtype)
    return _finish(z, scale, shift, x.shape[2:], x.dtype, backend)


def _affine(norm_weight, norm_bias, mean, var, eps: float, dtype: torch.dtype):
    """A normalisation's scale and shift, in the dtype the unit computes in."""
    scale = norm_weight.to(dtype) * torch.rsqrt(var.to(dtype) + eps)
    return scale, torch.addcmul(norm_bias.to(dtype), mean.to(dtype), scale, value=-1)


@torch.no_grad()
def _move(running_mean, running_var, mean, var, count: int, momentum: float) -> None:
    if running_mean is not None and count > 1:
        running_mean.lerp_(mean.to(running_mean), momentum)
        running_var.lerp_((var * (count / (count - 1))).to(running_var), momentum)


def _select(x: Tensor, sizes, images: int) -> str:
    return dispatch.select_fourier_unit(context.setting(), x.device, x.dtype, tuple(sizes), images)


def _mix(x: Tensor, weight: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    """z, and its moments (2, 2·outputs)."""
    if backend == "matmul":
        return matmul.fu_mix(x, weight)
    z, moments, _ = _mix_kernel(x, weight.to(compute_dtype(x.dtype)), backend)
    return z, moments


def _finish(z: Tensor, scale, shift, sizes, dtype: torch.dtype, backend: str) -> Tensor:
    if backend == "matmul":
        return matmul.fu_finish(z, scale, shift, sizes, dtype)
    scale, shift = scale.to(z.dtype), shift.to(z.dtype)
    return _finish_kernel(z, scale, shift, sizes, dtype, backend)


def _checked_input(x: Tensor, weight: Tensor) -> Tensor:
    """The weight as a matrix that fits x."""
    checks.check_tensor("x", x)
    checks.check_tensor("weight", weight)
    if x.dtype not in checks.FLOATS:
        raise TypeError(f"x: got dtype {x.dtype}, want float32, float64, float16 or bfloat16")
    if not 3 <= x.dim() <= 5 or 0 in x.shape[2:]:
        raise ValueError(f"x: got shape {tuple(x.shape)}, want (B, C, *S) with 1 to 3 axes S")
    if weight.dtype not in checks.FLOATS:
        raise TypeError(f"weight: got dtype {weight.dtype}, want a real floating one")
    shape = tuple(weight.shape)
    if len(shape) < 2 or shape[0] % 2 or shape[1] != 2 * x.shape[1] or math.prod(shape[2:]) != 1:
        raise ValueError(f"weight: got shape {shape}, want (2·outputs, {2 * x.shape[1]})")
    checks.check_device(x, weight=weight)
    return weight.flatten(1)


def _checked_spectrum(z: Tensor, scale: Tensor, shift: Tensor, sizes) -> tuple:
    """The sizes of the output."""
    checks.check_tensor("z", z)
    if z.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"z: got dtype {z.dtype}, want float32 or float64")
    if not 3 <= z.dim() <= 5 or z.shape[1] % 2:
        raise ValueError(
            f"z: got shape {tuple(z.shape)}, want (B, 2C, *half spectrum) with 1 to 3 axes"
        )
    sizes = checks.check_sizes(sizes, z.dim() - 2)
    half = tables.half_spectrum(sizes)
    if tuple(z.shape[2:]) != half:
        raise ValueError(f"sizes: got {sizes}, whose half spectrum is {half}, z's {z.shape[2:]}")
    checks.check_vectors(z, z.shape[1], scale=scale, shift=shift)
    return sizes


def _spectrum(x: Tensor, geometry: Geometry, backend: str) -> Tensor:
    return impl.SPECTRAL[backend].analysis(x, geometry, planar=True)


def _image(spectrum: Tensor, geometry: Geometry, dtype: torch.dtype, backend: str) -> Tensor:
    return impl.SPECTRAL[backend].synthesis(spectrum, geometry, dtype, planar=True)


def _normalised_unit(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, backend: str):
    """A whole Fourier unit of known scale and shift, nothing kept."""
    geometry = whole(x.shape[2:], "ortho")
    active, _ = impl.POINTWISE[backend].product(
        _spectrum(x, geometry, backend), Matrix(weight),
        Epilogue("affine_relu", scale=scale, shift=shift),
    )  # fmt: skip
    return _image(active, geometry, x.dtype, backend)


def _fu_mix(x, weight, backend):
    """z, its moments (2, 2·outputs), and the spectrum of x for the backward."""
    spectrum = _spectrum(x, whole(x.shape[2:], "ortho"), backend)
    z, moments = impl.POINTWISE[backend].product(spectrum, Matrix(weight), Epilogue("moments"))
    return z, moments, spectrum


def _fu_mix_fake(x, weight, backend):
    batch, inputs, *sizes = x.shape
    half, outputs = tables.half_spectrum(sizes), weight.shape[0]
    z = weight.new_empty((batch, outputs, *half))
    return z, weight.new_empty((2, outputs)), weight.new_empty((batch, 2 * inputs, *half))


def _fu_mix_composed(x, weight, backend):
    return *matmul.fu_mix(x, weight, Registered(backend)), None


def _fu_mix_save(ctx, inputs, output):
    x, weight, ctx.backend = inputs
    z, _, spectrum = output
    ctx.sizes, ctx.dtype = x.shape[2:], x.dtype
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(z, spectrum, weight)


def _fu_mix_vjp(ctx, grad, grad_moments, grad_spectrum):
    wanted = ctx.needs_input_grad[:2]
    state, more = UnitState(*ctx.saved_tensors), (ctx.sizes, ctx.dtype, wanted, ctx.backend)
    if torch.is_grad_enabled() or grad_spectrum is not None:
        return _mix_gradients(grad, grad_moments, grad_spectrum, state, *more)
    if grad is None and grad_moments is None:
        return None, None
    dx, dweight = _mix_gradient(grad, grad_moments, state, *more)
    return dx if wanted[0] else None, dweight if wanted[1] else None


def _mix_gradients(grad, grad_moments, grad_spectrum, state, sizes, dtype, wanted, backend):
    """Those of x and the weight, to be differentiated again."""
    (z, spectrum, weight), dweight = state, None
    grad = _through_moments(grad, grad_moments, z)
    if grad is not None:
        if wanted[0]:
            through = pointwise(grad, weight, 1, True, backend)
            grad_spectrum = through if grad_spectrum is None else through + grad_spectrum
        dweight = sum_of_products(grad, spectrum) if wanted[1] else None
    if not wanted[0] or grad_spectrum is None:
        return None, dweight
    adjoint = whole(sizes, "ortho").transposed(sizes)
    return Registered(backend).synthesis(grad_spectrum, adjoint, dtype, planar=True), dweight


def _through_moments(grad: Tensor | None, grad_moments: Tensor | None, z: Tensor) -> Tensor | None:
    """The gradient of z, what reaches it through Σ z and Σ z² included."""
    if grad_moments is None:
        return grad
    total, squares = grad_moments.reshape(2, -1, *[1] * (z.dim() - 2))
    through = torch.mul(z, 2 * squares) if grad is None else torch.addcmul(grad, z, 2 * squares)
    return through.add_(total)


def _fu_mix_backward(grad, grad_moments, state, sizes, dtype, wanted, backend):
    z, spectrum, weight = state
    grad = _through_moments(grad, grad_moments, z)
    dx, dweight = z.new_empty(0, dtype=dtype), z.new_empty(0)
    if wanted[0]:
        back = Matrix(weight, transposed=True)
        grad_spectrum, _ = impl.POINTWISE[backend].product(grad, back)
        dx = _image(grad_spectrum, whole(sizes, "ortho").transposed(sizes), dtype, backend)
    if wanted[1]:
        dweight = sum_of_products(grad, spectrum)
    return dx, dweight


def _fu_mix_backward_fake(grad, grad_moments, state, sizes, dtype, wanted, backend):
    z, spectrum, weight = state
    shape = (z.shape[0], spectrum.shape[1] // 2, *sizes)
    dx = z.new_empty(shape if wanted[0] else (0,), dtype=dtype)
    return dx, z.new_empty(weight.shape if wanted[1] else (0,))


def _fu_finish(z, scale, shift, sizes, dtype, backend):
    active = impl.POINTWISE[backend].affine_relu(z, scale, shift)
    return _image(active, whole(sizes, "ortho"), dtype, backend)


def _fu_finish_fake(z, scale, shift, sizes, dtype, backend):
    return z.new_empty((z.shape[0], z.shape[1] // 2, *sizes), dtype=dtype)


def _fu_finish_composed(z, scale, shift, sizes, dtype, backend):
    return matmul.fu_finish(z, scale, shift, sizes, dtype, Registered(backend))


def _fu_finish_save(ctx, inputs, output):
    *tensors, _, _, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _fu_finish_vjp(ctx, grad):
    if torch.is_grad_enabled():
        return _finish_gradients(grad, *ctx.saved_tensors, ctx.backend)
    dz, sums = _finish_gradient(grad, *ctx.saved_tensors, ctx.backend)
    return dz, sums[0], sums[1]


def _finish_gradients(grad, z, scale, shift, backend):
    """Those of z, scale and shift, to be differentiated again."""
    sizes, per_channel = grad.shape[2:], (-1, *[1] * (z.dim() - 2))
    adjoint = whole(sizes, "ortho").transposed(sizes)
    grad_active = Registered(backend).analysis(grad, adjoint, planar=True)
    scale = scale.view(per_channel)
    grad_affine = grad_active * (scale * z + shift.view(per_channel) > 0)
    dims = (0, *range(2, z.dim()))
    return grad_affine * scale, (grad_affine * z).sum(dims), grad_affine.sum(dims)


def _fu_finish_backward(grad, z, scale, shift, backend):
    sizes = grad.shape[2:]
    grad_active = _spectrum(grad, whole(sizes, "ortho").transposed(sizes), backend)
    return impl.POINTWISE[backend].affine_relu_backward(grad_active, z, scale, shift)


def _fu_finish_backward_fake(grad, z, scale, shift, backend):
    return z.new_empty(z.shape), z.new_empty((2, z.shape[1]))


_mix_gradient = op(
    "fu_mix_backward(Tensor? grad, Tensor? grad_moments, UnitState state, SymInt[] sizes,"
    " ScalarType dtype, bool[2] wanted, str backend) -> (Tensor, Tensor)",
    _fu_mix_backward,
    _fu_mix_backward_fake,
)
_mix_kernel = op(
    "fu_mix(Tensor x, Tensor weight, str backend) -> (Tensor, Tensor, Tensor)",
    _fu_mix,
    _fu_mix_fake,
    _fu_mix_vjp,
    _fu_mix_save,
    composed=_fu_mix_composed,
)
_finish_gradient = op(
    "fu_finish_backward(Tensor grad, Tensor z, Tensor scale, Tensor shift, str backend)"
    " -> (Tensor, Tensor)",
    _fu_finish_backward,
    _fu_finish_backward_fake,
)
_finish_kernel = op(
    "fu_finish(Tensor z, Tensor scale, Tensor shift, SymInt[] sizes, ScalarType dtype, str backend)"
    " -> Tensor",
    _fu_finish,
    _fu_finish_fake,
    _fu_finish_vjp,
    _fu_finish_save,
    composed=_fu_finish_composed,
)
