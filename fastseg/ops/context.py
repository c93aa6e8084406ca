"""What a call meets: the backend that is asked for, and what torch does around it."""

import os

import torch
from torch import Tensor
from torch.autograd import forward_ad

NAMES = ("auto", "reference", "matmul", "cpu", "cuda", "triton")


def traced() -> bool:
    """Tell whether torch.compile, torch.export or torch.jit.trace follows this call: sizes may then
    be symbols, and no tensor outlives it.
    """
    return torch.compiler.is_compiling() or torch._C._is_tracing()


def _checked(name: str) -> str:
    if name not in NAMES:
        raise ValueError(f"backend: got {name!r}, want one of {', '.join(NAMES)}")
    return name


_current = _checked(os.environ.get("FASTSEG_BACKEND", "auto"))


class use_backend:
    """Select the backend of every op in this process, for good or, in a `with`, until its end.

    "auto" takes the fastest one for a tensor's device, dtype and shape; any other name is forced,
    and an op that it cannot serve raises RuntimeError saying why. The environment variable
    FASTSEG_BACKEND sets the default.

    >>> with use_backend("reference"):
    ...     setting()
    'reference'
    """

    def __init__(self, name: str):
        global _current
        self._previous, _current = _current, _checked(name)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        global _current
        _current = self._previous


def setting() -> str:
    """Return the backend that is asked for. Under torch.jit.trace, which cannot follow kernels
    (they are handed addresses), "auto" is "matmul" and a named kernel backend raises RuntimeError.
    """
    if torch.compiler.is_compiling() or not torch._C._is_tracing():
        return _current
    if _current in ("auto", "matmul", "reference"):
        return "matmul" if _current == "auto" else _current
    raise RuntimeError(
        f"backend {_current!r} was asked for: torch.jit.trace records torch's own operators only; "
        "'auto', 'matmul' and 'reference' serve it"
    )


def transformed() -> bool:
    """Tell whether torch.func or forward mode follows this call: what is asked for is then composed
    of operators that have rules for them.
    """
    if torch.compiler.is_compiling():
        return False
    return bool(torch._C._functorch.peek_interpreter_stack()) or forward_ad._current_level >= 0


def watched(x: Tensor, *others: Tensor | None) -> bool:
    """Tell whether autograd, a compiler, a transform or a dispatch mode has to see this call."""
    if type(x) is not Tensor or torch.compiler.is_compiling():
        return True
    if torch._C._len_torch_dispatch_stack():
        return True
    if torch._C._functorch.peek_interpreter_stack() or forward_ad._current_level >= 0:
        return True
    if not torch.is_grad_enabled():
        return False
    for tensor in (x, *others):  # noqa: SIM110  a generator would cost more than all of this
        if tensor is not None and tensor.requires_grad:
            return True
    return False
