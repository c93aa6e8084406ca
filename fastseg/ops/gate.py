"""The anchor gate of U-SA attention: the public function, its registered op and its backward."""

import math
from functools import partial

import torch
from torch import Tensor

from fastseg.ops import checks, context, dispatch, impl
from fastseg.ops.gaussian import check_signal, gaussian_filter, prepare
from fastseg.ops.impl import reference
from fastseg.ops.impl.contract import GateInputs
from fastseg.ops.impl.native import compute_dtype
from fastseg.ops.register import op
from fastseg.ops.taps import Options


@context.public
def anchor_gate(
    cond: Tensor, feat: Tensor, sigma, conv_weight: Tensor, conv_bias: Tensor | None,
    radius: int = 2, offset=None,
) -> Tensor:  # fmt: skip
    """Return `sigmoid(conv(max(gaussian(cond), cond)))·feat + feat`, conv being 1×1 to one channel
    (Wu et al., 2024, MedSegDiff-V2, eq. 2-3).

    cond: (B, Cc, *S), feat: (B, C, *S), 1 to 3 axes, of one dtype; returns (B, C, *S) in it. sigma,
    offset: (Cc,), one for each channel of cond, in voxels, or as `gaussian_filter` takes them; the
    Gaussian has sampled taps of `radius`, below every size, and reflects at the borders.
    conv_weight: (1, Cc), or with trailing axes of 1; conv_bias: (1,) or None. Differentiable in
    every tensor, any number of times.

    Raises ValueError or TypeError naming the argument, RuntimeError where a forced backend cannot
    run.

    >>> cond, feat = torch.randn(1, 3, 8, 8), torch.randn(1, 5, 8, 8)
    >>> anchor_gate(cond, feat, sigma=1.0, conv_weight=torch.randn(1, 3), conv_bias=None).shape
    torch.Size([1, 5, 8, 8])
    """
    sigma, offset = _per_channel(sigma), _per_channel(offset)
    options = Options("reflect", radius=radius)
    sigma, offset, _ = prepare("cond", cond, sigma, offset, options)
    _check_rest(cond, feat, conv_weight, conv_bias)
    backend = dispatch.select(impl.GATE, context.setting(), cond.device, cond.dtype)
    if backend == "reference":
        return reference.anchor_gate(cond, feat, sigma, conv_weight, conv_bias, radius, offset)
    dtype = compute_dtype(cond.dtype)
    # not rounded to 16 bits in between: what is the larger must not depend on it
    wide = cond.to(dtype)
    low = gaussian_filter(wide, sigma, padding="reflect", radius=radius, offset=offset)
    weight = conv_weight.flatten().to(dtype)
    if backend == "matmul":
        return _composed(low, wide, feat, weight, conv_bias)
    bias = weight.new_zeros(1) if conv_bias is None else conv_bias.to(dtype)
    inputs = GateInputs(low, wide, weight, bias, feat.to(dtype))
    return _gate(inputs, backend)[0].to(feat.dtype)


def _per_channel(value):
    return value[:, None] if isinstance(value, Tensor) and value.dim() == 1 else value


def _check_rest(cond: Tensor, feat, conv_weight, conv_bias) -> None:
    check_signal("feat", feat)
    (batch, channels), sizes = cond.shape[:2], cond.shape[2:]
    if feat.shape[:1] != (batch,) or feat.shape[2:] != sizes or feat.dtype != cond.dtype:
        raise ValueError(
            f"feat: got {feat.dtype} of shape {tuple(feat.shape)}, "
            f"want cond's {cond.dtype}, batch {batch} and sizes {tuple(sizes)}"
        )
    for name, tensor, want in (
        ("conv_weight", conv_weight, (1, channels)), ("conv_bias", conv_bias, (1,)),
    ):  # fmt: skip
        if tensor is None and name == "conv_bias":
            continue
        checks.check_tensor(name, tensor)
        if tensor.dtype not in checks.FLOATS:
            raise TypeError(f"{name}: got {tensor.dtype}, want a real floating dtype")
        shape = tuple(tensor.shape)
        if shape[: len(want)] != want or any(n != 1 for n in shape[len(want) :]):
            raise ValueError(f"{name}: got shape {shape}, want {want}")
    checks.check_device(cond, feat=feat, conv_weight=conv_weight, conv_bias=conv_bias)


@partial(context.recorded, backend="matmul", name="anchor_gate")
def _composed(
    low: Tensor, cond: Tensor, feat: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    with context.without_autocast(cond):
        anchor = torch.maximum(low, cond)
        logits = torch.matmul(weight, anchor.flatten(2)).view_as(cond[:, 0])
        if bias is not None:
            logits = logits + bias.to(cond.dtype)
        return (feat.to(cond.dtype) * (1 + torch.sigmoid(logits)).unsqueeze(1)).to(feat.dtype)


def _forward(inputs, backend):
    return impl.GATE[backend].forward(inputs)


def _forward_fake(inputs, backend):
    cond, feat = inputs.cond, inputs.feat
    logits = inputs.weight.new_empty((cond.shape[0], math.prod(cond.shape[2:])))
    return feat.new_empty(feat.shape), logits


def _gate_composed(inputs, backend):
    low, cond, weight, bias, feat = inputs
    return _composed(low, cond, feat, weight, bias), None


def _save(ctx, inputs, output):
    tensors, ctx.backend = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, output[1])


def _vjp(ctx, gradient, _):
    if gradient is None:
        return (None,) * 5
    *tensors, logits = ctx.saved_tensors
    inputs = GateInputs(*tensors)
    if torch.is_grad_enabled():
        return _gradients(inputs, gradient)
    return tuple(_gate_backward(inputs, logits, gradient, ctx.backend))


def _gradients(inputs: GateInputs, gradient: Tensor) -> tuple[Tensor, ...]:
    """Those of every input, to be differentiated again: the logits are made of the inputs anew."""
    low, cond, weight, bias, feat = inputs
    anchor, per_channel = torch.maximum(low, cond), (-1, *[1] * (cond.dim() - 2))
    weights = weight.view(per_channel)
    gate = torch.sigmoid((weights * anchor).sum(1, keepdim=True) + bias.view(per_channel))
    dlogits = (gradient * feat).sum(1, keepdim=True) * gate * (1 - gate)
    through = dlogits * weights
    # as torch's maximum: half of it to each of two equal numbers
    share = (low > cond).to(low.dtype) + 0.5 * (low == cond)
    dims = (0, *range(2, cond.dim()))
    return (
        through * share, through * (1 - share), (dlogits * anchor).sum(dims), dlogits.sum(dims),
        gradient * (1 + gate),
    )  # fmt: skip


def _backward(inputs, logits, gradient, backend):
    return impl.GATE[backend].backward(inputs, logits, gradient)


def _backward_fake(inputs, logits, gradient, backend):
    return [t.new_empty(t.shape) for t in inputs]


_gate_backward = op(
    "gate_backward(GateInputs inputs, Tensor logits, Tensor gradient, str backend) -> Tensor[]",
    _backward,
    _backward_fake,
)
_gate = op(
    "gate(GateInputs inputs, str backend) -> (Tensor, Tensor)",
    _forward,
    _forward_fake,
    _vjp,
    _save,
    composed=_gate_composed,
)
