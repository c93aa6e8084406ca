"""What a call meets: the backend that is asked for, and what torch does around it."""

import inspect
import os
import sys
from functools import wraps

import torch
from torch import Tensor
from torch.autograd import forward_ad, profiler
from torch.compiler import is_compiling
from torch.overrides import handle_torch_function, has_torch_function

# by short ways: they are on that of every call
is_tracing, dispatch_modes = torch._C._is_tracing, torch._C._len_torch_dispatch_stack
transforms = torch._C._functorch.peek_interpreter_stack
NAMES = ("auto", "reference", "matmul", "cpu", "cuda", "triton")
# a tool's module → what tells it about our operators, called when a call first meets the tool
TOOLS = {}
SHARE = []  # what computes an operator of DTensors


def traced() -> bool:
    """Tell whether torch.compile, torch.export or torch.jit.trace follows this call: sizes may then
    be symbols, and no tensor outlives it.
    """
    return is_compiling() or is_tracing()


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


def _exporting_to_onnx() -> bool:
    return torch.onnx.is_in_onnx_export()


_exporting_to_onnx._dynamo_marked_constant = True


def setting() -> str:
    """Return the backend that is asked for. Under torch.jit.trace and torch.onnx.export, which
    cannot follow kernels (they are handed addresses), "auto" is "matmul" and a named kernel backend
    raises RuntimeError.
    """
    if is_compiling():
        if not _exporting_to_onnx():
            return _current
        followed = "ONNX has no such operator"
    elif is_tracing():
        followed = "torch.jit.trace records torch's own operators only"
    else:
        return _current
    if _current in ("auto", "matmul", "reference"):
        return "matmul" if _current == "auto" else _current
    raise RuntimeError(
        f"backend {_current!r} was asked for: {followed}; 'auto', 'matmul' and 'reference' serve it"
    )


def asked() -> tuple[str, bool]:
    """Return what `setting` and `traced` do, in one call."""
    if is_compiling() or is_tracing():
        return setting(), traced()
    return _current, False


def without_autocast(x: Tensor):
    """Keep autocast away from x's device, inside a `with`; a meta tensor's has none."""
    return torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False)


def transformed() -> bool:
    """Tell whether torch.func or forward mode follows this call: what is asked for is then composed
    of operators that have rules for them.
    """
    if is_compiling():
        return False
    return bool(transforms()) or forward_ad._current_level >= 0


def watched(x: Tensor, *others: Tensor | None) -> bool:
    """Tell whether autograd, a compiler, a transform, a dispatch mode or the profiler has to see
    this call, or whether x has a shape alone.
    """
    if type(x) is not Tensor or is_compiling():
        return True
    if x.is_meta or profiler._is_profiler_enabled:
        return True
    if dispatch_modes():
        _meet()
        return True
    if torch._C._functorch.peek_interpreter_stack() or forward_ad._current_level >= 0:
        return True
    if not torch.is_grad_enabled():
        return False
    for tensor in (x, *others):  # noqa: SIM110  a generator would cost more than all of this
        if tensor is not None and tensor.requires_grad:
            return True
    return False


def recorded(function, backend: str, name: str | None = None):
    """Return a function of a backend that is none of torch's operators, which the profiler shows as
    `fastseg::backend.name`, its own name where None is given.
    """
    shown = f"fastseg::{backend}.{name or function.__name__}"

    @wraps(function)
    def call(*args, **kwargs):
        if traced() or not profiler._is_profiler_enabled:
            return function(*args, **kwargs)
        with profiler.record_function(shown):
            return function(*args, **kwargs)

    return call


def _meet() -> None:
    for tool in [name for name in TOOLS if name in sys.modules]:
        TOOLS.pop(tool)()


def public(function):
    """Return an operator that takes tensors as torch's own do, its first argument being the images.

    Tensors whose class has a `__torch_function__` decide what the call is and what it returns; of
    images in a channels-last memory format the results are in that format.
    """
    name = next(iter(inspect.signature(function).parameters))

    @wraps(function)
    def operator(*args, **kwargs):
        # on the way of every call
        if args and type(args[0]) is Tensor and args[0].is_contiguous():
            return function(*args, **kwargs)
        return _attended(operator, function, args[0] if args else kwargs.get(name), args, kwargs)

    return operator


def _attended(operator, function, x, args: tuple, kwargs: dict):
    given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    if has_torch_function(given):
        return handle_torch_function(operator, given, *args, **kwargs)
    if any(type(value).__name__ == "DTensor" for value in given):
        return SHARE[0](function, args, kwargs)
    args, kwargs = [_bare(v) for v in args], {name: _bare(v) for name, v in kwargs.items()}
    found, memory_format = function(*args, **kwargs), image_format(x)
    if memory_format is None:
        return found
    if isinstance(found, Tensor):
        return _in_format(found, memory_format)
    return tuple(_in_format(result, memory_format) for result in found)


def _bare(value):
    """A tensor without the class that has decided about the call: some override methods too."""
    if not isinstance(value, Tensor) or type(value) is Tensor:
        return value
    kind = type(value)
    decides = kind.__torch_function__ is not torch._C._disabled_torch_function_impl
    stored = kind.__torch_dispatch__ is Tensor.__torch_dispatch__  # and wraps no other tensor
    return value.as_subclass(Tensor) if decides and stored else value


def image_format(x) -> torch.memory_format | None:
    """Return the channels-last format of x, None where it is in none, or contiguous anyway, or
    torch.func, which has no formats, follows the call.
    """
    if not is_compiling() and transforms():
        return None
    if not isinstance(x, Tensor) or x.is_complex() or x.dim() not in (4, 5) or x.is_contiguous():
        return None
    last = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    return last if x.is_contiguous(memory_format=last) else None


def _in_format(result: Tensor, memory_format: torch.memory_format) -> Tensor:
    axes = 4 if memory_format is torch.channels_last else 5
    return result.contiguous(memory_format=memory_format) if result.dim() == axes else result
