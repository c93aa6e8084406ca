"""Build networks for weights that are there, and never larger: a state may say anything."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastseg.errors import CheckpointError, UsageError

_SPARE = 1 << 24  # bytes for what is computed from a few numbers, such as masks
_META = torch.device("meta")


class _Budget(TorchDispatchMode):
    """Counts the bytes of tensors that are made from sizes, before they are, whatever layer asks
    and for whatever device.
    """

    def __init__(self, limit: int):
        super().__init__()
        self.left = limit

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        sized = any(argument.name == "device" for argument in func._schema.arguments)
        if sized and not any(isinstance(leaf, Tensor) for leaf in leaves):
            plan = {k: v for k, v in kwargs.items() if k not in ("generator", "pin_memory")}
            made = func(*args, **plan | {"device": _META})
            self.left -= made.numel() * made.element_size()
            if self.left < 0:
                raise MemoryError(
                    "it is larger than they are; the checkpoint's recipe describes another network"
                )
        return func(*args, **kwargs)


@contextmanager
def no_larger_than(weights: Mapping[str, Tensor], system: str) -> Iterator[None]:
    """Raise CheckpointError where a network that is built inside is no home for `weights`."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    try:
        with _Budget(2 * size + _SPARE):
            yield
    except (UsageError, MemoryError, RuntimeError, TypeError, ValueError, ArithmeticError,
            LookupError) as error:  # fmt: skip
        raise _unfit(system, error) from None


def fill(net: nn.Module, weights: Mapping[str, Tensor], system: str) -> None:
    """Load weights. CheckpointError where names or shapes differ."""
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise _unfit(system, error) from None


def _unfit(system: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"weights do not fit system {system}: {' '.join(str(error).split()):.300}"
    )


def group_of(groups: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """Take a group of tensors. CheckpointError where the checkpoint holds none of that name."""
    if name not in groups:
        raise CheckpointError(f"the checkpoint holds no {name}.safetensors")
    return groups[name]
