"""Torch's loops in a forked process: the threads that they would wait for stay with its parent."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastseg.ops.context import traced

_forked = False


def _note() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note)


def in_child() -> bool:
    """Tell whether this is a forked process, and no compiler follows the call."""
    return _forked and not traced()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on this thread alone while entered, where the process is a forked one."""
    if not _forked:
        yield
        return
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)


def alone(make: Callable[..., tuple[Tensor, Tensor]], *values: Tensor | None):
    """Return `make(*values)` and let its first tensor be differentiable, once, all on one thread.

    >>> alone(lambda x: (2 * x, x.int()), torch.ones(2))
    (tensor([2., 2.]), tensor([1, 1], dtype=torch.int32))
    """
    return _Alone.apply(make, *values)


class _Alone(torch.autograd.Function):
    @staticmethod
    def forward(ctx, make, *values):
        leaves = [v if v is None else v.detach().requires_grad_(v.requires_grad) for v in values]
        with one_thread(), torch.enable_grad():
            made, other = make(*leaves)
        ctx.leaves, ctx.made = leaves, made
        ctx.mark_non_differentiable(other)
        return made.detach(), other

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient, _):
        wanted = [leaf for leaf in ctx.leaves if leaf is not None and leaf.requires_grad]
        with one_thread():
            found = iter(torch.autograd.grad(ctx.made, wanted, gradient, allow_unused=True))
        return None, *(next(found) if any(leaf is w for w in wanted) else None
                       for leaf in ctx.leaves)  # fmt: skip
