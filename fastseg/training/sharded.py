"""Weights, gradients, averages and optimiser states in shares, one a process: PyTorch's FSDP.

torchrun --nproc-per-node 4 -m fastseg train RECIPE --data DATA --out RUN strategy=fsdp

A network is one unit: a step gathers its weights once and ends with each process's share of the
mean gradients. Units for its blocks would save little, for what a step keeps of its images is far
larger than the weights, and would break systems that use weights of a block without calling it.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from fastseg.errors import UsageError

Tensors = dict[str, Tensor]
_AT_ONCE = 64  # tensors sent together


class Sharded(nn.Module):
    """A system whose `training_loss` finds whole weights. They are gathered by this module's
    forward and not the system's own, which may run any number of times in a step, or never.
    """

    def __init__(self, system: nn.Module):
        super().__init__()
        self.system, self._follows = system, True

    @contextmanager
    def in_step(self, first: bool, last: bool) -> Iterator[None]:
        """Mark a pass as the `first` or `last` of a step, or one between, while entered.

        Weights are gathered and buffers made alike in the first, gradients summed and shared out in
        the last.
        """
        self._follows = first
        self.set_requires_gradient_sync(last)
        self.set_reshard_after_backward(last)
        yield

    def forward(self, batch: dict[str, Any], generator: torch.Generator) -> tuple[Tensor, Tensors]:
        if self._follows:
            follow_first(self.system)
        return self.system.training_loss(batch, generator)

    def training_loss(
        self, batch: dict[str, Any], generator: torch.Generator
    ) -> tuple[Tensor, Tensors]:
        """Compute the system's loss and what to log of it."""
        return self(batch, generator)


def shard(net: nn.Module, device: torch.device) -> nn.Module:
    """Leave each process its share of `net`'s parameters, on `device`; returns `net`.

    All processes must call it, with equal values. UsageError for a network that has parameters
    which cannot be shared out, such as single numbers.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    try:
        return fully_shard(net.to(device), mesh=mesh, shard_placement_fn=_placement)
    except (ValueError, NotImplementedError) as error:
        raise UsageError(f"strategy: fsdp cannot share out this network ({error})") from None


def _placement(parameter: nn.Parameter) -> Any:
    """The first axis that falls into equal shares; else the first, the last processes get less."""
    from torch.distributed.tensor import Shard

    world = dist.get_world_size()
    return Shard(next((axis for axis, n in enumerate(parameter.shape) if n % world == 0), 0))


@contextmanager
def whole(net: nn.Module) -> Iterator[None]:
    """Give a network that went through `shard` all its weights in every process while entered,
    which then may use it in its own time. Entered and left by all processes together.
    """
    from torch.distributed.fsdp import FSDPModule

    if not isinstance(net, FSDPModule):
        yield
        return
    net.unshard()
    try:
        yield
    finally:
        net.reshard()


def full(tensor: Tensor) -> Tensor:
    """Put together the tensor that `tensor` is a share of. All processes must call it."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(tensors: Tensors, first: bool) -> Tensors:
    """Gather the tensors, whole, in process 0, which is `first`. All must call it.

    What had been in shares is on the CPU, for it may be more than a GPU holds.
    """
    from torch.distributed.tensor import DTensor

    # sorted: a resumed optimiser has its states in another order in each process
    shares = {n: t.detach() for n, t in sorted(tensors.items()) if isinstance(t, DTensor)}
    found = {name: t for name, t in tensors.items() if first and name not in shares}
    for start in range(0, len(shares), _AT_ONCE):
        some = dict(itertools.islice(shares.items(), start, start + _AT_ONCE))
        parts: list[Any] | None = [None] * dist.get_world_size() if first else None
        # a view would travel with all that it is a view of
        dist.gather_object([t.to_local().cpu().clone() for t in some.values()], parts)
        for index, name in enumerate(some if parts else ()):
            axis = shares[name].placements[0].dim
            found[name] = torch.cat([part[index] for part in parts], axis)
    return found


def like(parameter: Tensor, value: Tensor) -> Tensor:
    """Cut this process's share of `value` where `parameter` is in shares and has its shape."""
    from torch.distributed.tensor import DTensor

    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    axis, rank = parameter.placements[0].dim, dist.get_rank()
    pieces = value.chunk(dist.get_world_size(), axis)
    mine = pieces[rank] if rank < len(pieces) else value.narrow(axis, 0, 0)
    return DTensor.from_local(
        mine.to(parameter.device, copy=True), parameter.device_mesh, parameter.placements,
        run_check=False, shape=parameter.shape, stride=parameter.stride(),
    )  # fmt: skip


@torch.no_grad()
def follow_first(module: nn.Module) -> None:
    """Give float buffers the values of process 0, as DistributedDataParallel does in each step."""
    buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    if not buffers:
        return
    values = torch.cat([buffer.flatten() for buffer in buffers])
    dist.broadcast(values, 0)
    parts = values.split([buffer.numel() for buffer in buffers])
    for buffer, part in zip(buffers, parts, strict=True):
        buffer.copy_(part.view_as(buffer))
