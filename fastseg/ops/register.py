"""Registers an operator with torch: schema, kernel, shapes, backward, in one call."""

import torch

from fastseg.ops.context import watched

_library = torch.library.Library("fastseg", "FRAGMENT")


def no_second_order(ctx, *grads):
    raise RuntimeError(
        "the kernels have first derivatives only; second ones need fastseg.use_backend('matmul')"
    )


def op(schema: str, kernel, fake, backward=None, save=None):
    """Register `torch.ops.fastseg.<name>` and return what calls it.

    schema: its name, arguments (tensors first) and results, as torch.library writes them; kernel:
    computes it; fake: makes results of its shapes and dtypes; save(ctx, inputs, output) and
    backward(ctx, *grads): torch.library.register_autograd's, without which a derivative raises
    RuntimeError.

    What is returned goes through torch's dispatcher where something has to see the call, and else
    calls the kernel: on small tensors the dispatcher costs more than the arithmetic.
    """
    name, _, arguments = schema.partition("(")
    name = f"fastseg::{name}"
    _library.define(schema)
    _library.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(name, fake, lib=_library)
    torch.library.register_autograd(
        name, backward or no_second_order, setup_context=save, lib=_library
    )
    tensors = sum(part.lstrip().startswith("Tensor") for part in arguments.split(")")[0].split(","))
    dispatched = getattr(torch.ops.fastseg, name[9:])

    def call(*values):
        return dispatched(*values) if watched(*values[:tensors]) else kernel(*values)

    return call
