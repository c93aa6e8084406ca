"""The registered ops of the anchor gate's kernels: schema, kernel entry, fake and backward."""

import math

import torch

from fastseg.ops import _backends
from fastseg.ops._spectral_ops import no_second_order

_library = torch.library.Library("fastseg", "FRAGMENT")
_library.define(
    "gate(Tensor low, Tensor cond, Tensor weight, Tensor bias, Tensor feat, str backend)"
    " -> (Tensor, Tensor)"
)
_library.define(
    "gate_backward(Tensor low, Tensor cond, Tensor weight, Tensor bias, Tensor feat, Tensor logits,"
    " Tensor gradient, str backend) -> Tensor[]"
)


def gate(low, cond, weight, bias, feat, backend):
    return _backends.GATE[backend].forward(low, cond, weight, bias, feat)


def _gate_fake(low, cond, weight, bias, feat, backend):
    points = math.prod(cond.shape[2:])
    return feat.new_empty(feat.shape), weight.new_empty((cond.shape[0], points))


def _setup(ctx, inputs, output):
    *tensors, ctx.backend = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, output[1])


def _gate_vjp(ctx, gradient, _):
    if gradient is None:
        return (None,) * 6
    *tensors, logits = ctx.saved_tensors
    dlow, dcond, dfeat, dweight, dbias = torch.ops.fastseg.gate_backward(
        *tensors, logits, gradient, ctx.backend
    )
    return dlow, dcond, dweight, dbias, dfeat, None


def _gate_backward(low, cond, weight, bias, feat, logits, gradient, backend):
    return _backends.GATE[backend].backward(low, cond, weight, bias, feat, logits, gradient)


def _gate_backward_fake(low, cond, weight, bias, feat, logits, gradient, backend):
    return [t.new_empty(t.shape) for t in (low, cond, feat, weight, bias)]


for _name, _run, _fake in (
    ("gate", gate, _gate_fake),
    ("gate_backward", _gate_backward, _gate_backward_fake),
):
    _library.impl(_name, _run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastseg::{_name}", _fake, lib=_library)

torch.library.register_autograd("fastseg::gate", _gate_vjp, setup_context=_setup, lib=_library)
torch.library.register_autograd("fastseg::gate_backward", no_second_order, lib=_library)
