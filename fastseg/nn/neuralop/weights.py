"""Weights of a spectral convolution, dense or factorised (Tucker, CP, tensor train).

Parameters are real with a trailing 2, which optimisers, DDP and averages take without a word. As a
whole a weight stands for one complex tensor, (Cin, Cout, *modes) or (C, *modes) when separable,
frequencies ascending, as in neuraloperator: torch's functions see it so (`torch.is_complex`,
`torch.zeros_like`), as they see the peer's.
"""

import torch
from torch import Tensor, nn

from fastseg.nn.neuralop.frequencies import in_torch_order, take


def pairs(tensor: Tensor) -> nn.Parameter:
    """Return a complex tensor's numbers as a new real parameter with a trailing 2."""
    wide = tensor if tensor.is_complex() else tensor.to(torch.complex64)
    real = torch.view_as_real(wide.detach().resolve_conj()).clone(
        memory_format=torch.contiguous_format
    )
    return nn.Parameter(real, requires_grad=tensor.requires_grad)


class Weight(nn.Module):
    """Stand for a complex tensor of `shape`, in the order of the peer.

    `name` is the peer's, which begins with "Complex" where it saves real pairs too; `centred` are
    the axes with frequencies of both signs.
    """

    def __init__(self, name: str, shape, separable: bool, centred: int):
        super().__init__()
        self.name, self.shape, self.separable = name, tuple(shape), separable
        self.order = self.ndim = len(self.shape)
        self.channels = 1 if separable else 2
        self.centred = tuple(range(self.channels, self.channels + centred))

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        whole = [a.to_tensor() if isinstance(a, Weight) else a for a in args]
        return function(*whole, **(kwargs or {}))

    def __getitem__(self, index) -> Tensor:
        return self.to_tensor()[index]

    def dim(self) -> int:
        return self.order

    def all_rows(self) -> list[tuple[int, ...]]:
        return [tuple(range(count)) for count in self.shape[self.channels :]]

    def to_tensor(self) -> Tensor:
        """Return the complex tensor, frequencies ascending."""
        dense = self.dense(self.all_rows())
        return dense[0] if self.separable else dense

    def dense(self, rows) -> Tensor:
        """Return (inputs per group, outputs, *rows), the rows counted in the peer's order."""
        raise NotImplementedError

    def read(self, state: dict, prefix: str) -> None:
        """Change entries of the peer's format in `state` to ours."""
        for name, _ in self.named_parameters():
            value = state.get(f"{prefix}.{name}")
            if isinstance(value, Tensor) and value.is_complex():
                state[f"{prefix}.{name}"] = torch.view_as_real(value.resolve_conj())

    def write(self, state: dict, prefix: str) -> None:
        """Change our entries of `state` to the peer's format."""
        if not self.name.lower().startswith("complex"):
            for name, _ in self.named_parameters():
                state[f"{prefix}.{name}"] = torch.view_as_complex(state[f"{prefix}.{name}"])

    def extra_repr(self) -> str:
        return f"{self.name}, {self.shape}"


class Dense(Weight):
    """A dense weight: parameter `pairs` (inputs per group, outputs, *modes, 2) in torch.fft's
    order, which kernels read as it is.
    """

    def __init__(self, name, tensor: Tensor, separable: bool, centred: int):
        super().__init__(name, tensor.shape, separable, centred)
        self.pairs = pairs(self._stored(tensor))

    def _stored(self, tensor: Tensor) -> Tensor:
        tensor = torch.fft.ifftshift(tensor, dim=self.centred) if self.centred else tensor
        return tensor.unsqueeze(0) if self.separable else tensor

    @property
    def tensor(self) -> Tensor:
        """The complex tensor, as the peer names it."""
        return self.to_tensor()

    def dense_pairs(self, rows) -> Tensor:
        """Return `dense(rows)` with a trailing 2; all rows in torch.fft's order cost nothing."""
        found = self.pairs
        for axis, kept in enumerate(rows, start=self.channels):
            if axis in self.centred:
                kept = in_torch_order(kept, self.shape[axis])
            found = take(found, axis + self.separable, kept)
        return found

    def dense(self, rows) -> Tensor:
        return torch.view_as_complex(self.dense_pairs(rows))

    def read(self, state: dict, prefix: str) -> None:
        if prefix in state:  # as fastseg 0.1 saved it
            state[f"{prefix}.pairs"] = state.pop(prefix)
        value = state.get(f"{prefix}.tensor")
        if isinstance(value, Tensor) and value.dim() == self.order + (not value.is_complex()):
            value = value if value.is_complex() else torch.view_as_complex(value.contiguous())
            state[f"{prefix}.pairs"] = torch.view_as_real(self._stored(value).resolve_conj())
            del state[f"{prefix}.tensor"]

    def write(self, state: dict, prefix: str) -> None:
        stored = torch.view_as_complex(state.pop(f"{prefix}.pairs"))
        stored = stored[0] if self.separable else stored
        tensor = torch.fft.fftshift(stored, dim=self.centred) if self.centred else stored
        real = self.name.lower().startswith("complex")
        state[f"{prefix}.tensor"] = torch.view_as_real(tensor) if real else tensor.contiguous()
