"""The spectral filter, a gain on every bin of the spectrum: the public function, its registered op
and its backward.

A registered gain is a real tensor with every axis of the spectrum, each of full length or 1, and a
trailing 1 (real) or 2 (complex). The filter is linear in x and in the gain: with X the spectrum of
x and G the synthesis's adjoint applied to the gradient, dx is the analysis's adjoint of
conj(gain)·G, and the gain's gradient is conj(X)·G summed over what it was broadcast along.
"""

import torch
from torch import Tensor

from fastseg.ops import checks, context, dispatch, impl, tables
from fastseg.ops.impl import matmul, reference
from fastseg.ops.register import op
from fastseg.ops.transforms import Registered


@context.public
def spectral_filter(x: Tensor, gain: Tensor) -> Tensor:
    """Return irfftn(rfftn(x)·gain) over all axes of x but the first two.

    x: (B, C, *S) real, 1 to 3 axes; gain: real or complex, broadcastable to (B, C, *S[:-1],
    S[-1]//2 + 1), the bins as `torch.fft.rfftn` orders them. A real gain keeps every phase. Returns
    (B, C, *S) in x.dtype; 16-bit inputs are computed in float32. The imaginary part of a product on
    a self-conjugate bin is treated as `truncated_irfftn` treats it. Backward: x and gain, a real
    gain's gradient being real; only gain and, where it needs a gradient, x are saved.

    Filters of this form: GFNet (Rao et al., 2021), FF-Parser (Wu et al., 2024).

    Raises ValueError for shapes and devices that do not fit, TypeError for dtypes, RuntimeError
    where a forced backend cannot run.

    >>> x = torch.randn(1, 2, 8, 10)
    >>> torch.allclose(spectral_filter(x, torch.ones(6)), x, atol=1e-5)
    True
    """
    checks.check_tensor("x", x)
    checks.check_real("x", x.dtype, x.shape, x.dim() - 2)
    sizes = tuple(x.shape[2:])
    bins = tables.half_spectrum(sizes)
    _check_gain(gain, x, (*x.shape[:2], *bins))
    backend = dispatch.select_spectral(context.setting(), x.device, x.dtype, sizes, sizes, bins)
    if backend == "reference":
        return reference.spectral_filter(x, gain)
    pairs = _as_pairs(gain, x)
    if backend == "matmul":
        return matmul.spectral_filter(x, pairs)
    return _filter(x, pairs, backend)


def _check_gain(gain: Tensor, x: Tensor, full: tuple) -> None:
    checks.check_tensor("gain", gain)
    if not gain.is_complex() and gain.dtype not in checks.FLOATS:
        raise TypeError(f"gain: got dtype {gain.dtype}, want a complex or a real floating one")
    trailing = full[len(full) - gain.dim() :]
    if gain.dim() > len(full) or any(
        have != 1 and have != want for have, want in zip(gain.shape, trailing, strict=True)
    ):
        raise ValueError(
            f"gain: got shape {tuple(gain.shape)}, want one that broadcasts to {full}, x's half "
            "spectrum"
        )
    checks.check_device(x, gain=gain)


def _as_pairs(gain: Tensor, x: Tensor) -> Tensor:
    """The gain in the dtype spectra have, with all of their axes and a trailing 1 (real) or 2."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    pairs = torch.view_as_real(gain.resolve_conj()) if gain.is_complex() else gain.unsqueeze(-1)
    return pairs.to(wide).reshape(*[1] * (x.dim() + 1 - pairs.dim()), *pairs.shape)


def _forward(x: Tensor, gain: Tensor, backend: str) -> Tensor:
    return impl.FILTER[backend].forward(x, gain)


def _backward(grad, x, gain, wanted, backend):
    empty = grad.new_empty(0), gain.new_empty(0)
    grads = impl.FILTER[backend].backward(grad, x, gain, wanted)
    return tuple(e if g is None else g for g, e in zip(grads, empty, strict=True))


def _forward_fake(x, gain, backend):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _backward_fake(grad, x, gain, wanted, backend):
    dx, dgain = (
        torch.empty_like(t, memory_format=torch.contiguous_format) if want else t.new_empty(0)
        for t, want in zip((grad, gain), wanted, strict=True)
    )
    return dx, dgain


def _composed(x, gain, backend):
    return matmul.spectral_filter(x, gain, Registered(backend))


def _save(ctx, inputs, output):
    x, gain, ctx.backend = inputs
    # dx needs the gain alone
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else x.new_empty(0), gain)


def _vjp(ctx, grad):
    x, gain = ctx.saved_tensors
    wanted = ctx.needs_input_grad[:2]
    grads = _filter_backward(grad, x, gain, wanted, ctx.backend)
    return tuple(g if want else None for g, want in zip(grads, wanted, strict=True))


def _save_backward(ctx, inputs, output):
    grad, x, gain, ctx.wanted, ctx.backend = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(grad, x, gain)


def _vjp_backward(ctx, ddx, ddgain):
    """With F(x, gain) the filter, linear in both, ⟨dx, ddx⟩ = ⟨grad, F(ddx, gain)⟩ and ⟨dgain,
    ddgain⟩ = ⟨grad, F(x, ddgain)⟩.
    """
    (grad, x, gain), backend = ctx.saved_tensors, ctx.backend
    wanted, dgrad, dx, dgain = ctx.needs_input_grad[:3], None, None, None
    if ctx.wanted[0] and ddx is not None:
        dgrad = _filter(ddx, gain, backend) if wanted[0] else None
        dgain = _filter_backward(grad, ddx, gain, (False, True), backend)[1] if wanted[2] else None
    if ctx.wanted[1] and ddgain is not None:
        if wanted[0]:
            through = _filter(x, ddgain, backend)
            dgrad = through if dgrad is None else dgrad + through
        dx = _filter_backward(grad, x, ddgain, (True, False), backend)[0] if wanted[1] else None
    return dgrad, dx, dgain


_filter_backward = op(
    "spectral_filter_backward(Tensor grad, Tensor x, Tensor gain, bool[2] wanted, str backend)"
    " -> (Tensor, Tensor)",
    _backward,
    _backward_fake,
    _vjp_backward,
    _save_backward,
)
_filter = op(
    "spectral_filter(Tensor x, Tensor gain, str backend) -> Tensor",
    _forward,
    _forward_fake,
    _vjp,
    _save,
    composed=_composed,
)
