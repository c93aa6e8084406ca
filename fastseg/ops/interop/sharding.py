"""DTensors: which axes of an operator's tensors devices may share, and what each of them computes.

A device computes its own part by the operator itself: images of a batch in all of them, channels
where an operator keeps them apart. Parameters are then copied whole or in parts, their gradients
summed; images in any other layout are gathered first, as torch does for operators of its own.
"""

import inspect
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fastseg.ops.fourier_unit import fu_finish, fu_mix

BATCH, CHANNELS = "batch", "channels"


class Rule(NamedTuple):
    """Say how devices share an operator. tensors, results: what returns the axes that are the batch
    and the channels, None for one that is not there, of a tensor beside the images; a result "sums"
    over the batch. groups: whether channels are shared where they are in groups alone.
    """

    tensors: dict[str, Callable]
    results: tuple = ("images",)
    channels: bool = True
    groups: bool = False


def _images(value: Tensor, images: Tensor) -> tuple:
    return 0, 1


def _batch(value: Tensor, images: Tensor) -> tuple:
    return 0, None


def _parameter(value: Tensor, images: Tensor) -> tuple:
    return None, None


def _first(value: Tensor, images: Tensor) -> tuple:
    return None, 0


def _second(value: Tensor, images: Tensor) -> tuple:
    return None, 1


def _trailing(axes: int) -> Callable:
    """What broadcasts to (B, C, …) of so many axes, or of the images' where 0."""

    def found(value: Tensor, images: Tensor) -> tuple:
        lacking = (axes or images.dim()) - value.dim()
        places = (axis - lacking for axis in (0, 1))
        return tuple(p if p >= 0 and value.shape[p] > 1 else None for p in places)

    return found


_CONVOLVED = {"x": _images, "weight": _second, "bias": _first}
_UNIT = ("weight", "norm_weight", "norm_bias", "running_mean", "running_var")
RULES = {
    "truncated_rfftn": Rule({"x": _images}),
    "truncated_irfftn": Rule({"spectrum": _images}),
    "truncated_dhtn": Rule({"x": _images}),
    "truncated_idhtn": Rule({"spectrum": _images}),
    "spectral_conv": Rule(_CONVOLVED, groups=True),
    "fno_block": Rule(_CONVOLVED | {"skip_weight": _first}, groups=True),
    "spectral_filter": Rule({"x": _images, "gain": _trailing(0)}),
    "gaussian_filter": Rule({"x": _images, "sigma": _trailing(3), "offset": _trailing(3)}),
    "anchor_gate": Rule(
        {"cond": _batch, "feat": _batch, "sigma": _trailing(3), "offset": _trailing(3)}
        | {"conv_weight": _parameter, "conv_bias": _parameter},
        channels=False,
    ),
    "fu_mix": Rule({"x": _batch, "weight": _parameter}, ("images", "sums", "sums"), False),
    "fu_finish": Rule({"z": _batch, "scale": _parameter, "shift": _parameter}, channels=False),
    "fourier_unit": Rule({"x": _batch} | dict.fromkeys(_UNIT, _parameter), channels=False),
}


def share(function, args: tuple, kwargs: dict):
    """Return what an operator makes of DTensors, as DTensors."""
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    values = bound.arguments
    if function.__name__ == "fourier_unit" and values["training"]:
        return _trained_unit(**values)
    rule = RULES[function.__name__]
    mesh = next(v.device_mesh for v in values.values() if _is_shared(v))
    images = values[next(iter(values))] = _placed(values[next(iter(values))], mesh)
    kinds = _kinds(rule, images, values, mesh)
    devices = math.prod(mesh.size(i) for i, kind in enumerate(kinds) if kind == CHANNELS)
    for name, axes in rule.tensors.items():
        if isinstance(values[name], Tensor):
            values[name] = _part(values[name], mesh, kinds, axes(values[name], images))
    if rule.groups:
        values["groups"] //= devices
    found = function(**values)
    channels = None if rule.groups else images.shape[1]
    if isinstance(found, Tensor):
        return _result(found, mesh, kinds, images, channels, devices)
    names = rule.results if len(rule.results) > 1 else ("images",) * len(found)
    return tuple(
        _sum(part, mesh, kinds) if name == "sums"
        else _result(part, mesh, kinds, images, channels, devices)
        for name, part in zip(names, found, strict=True)
    )  # fmt: skip


def _is_shared(value) -> bool:
    return type(value).__name__ == "DTensor"


def _placed(value: Tensor, mesh) -> Tensor:
    """A tensor that every device has whole, as the DTensor that it is."""
    from torch.distributed.tensor import DTensor, Replicate

    if _is_shared(value):
        return value
    return DTensor.from_local(value, mesh, [Replicate()] * mesh.ndim, run_check=False)


def _kinds(rule: Rule, images, values: dict, mesh) -> list:
    """What the devices along each axis of their mesh share."""
    from torch.distributed.tensor import Shard

    def kind(axis: int, placement) -> str | None:
        if placement == Shard(0):
            return BATCH
        fits = rule.channels and (not rule.groups or values["groups"] % mesh.size(axis) == 0)
        return CHANNELS if placement == Shard(1) and fits and CHANNELS not in found else None

    found = []
    for axis, placement in enumerate(images.placements):
        found.append(kind(axis, placement))
    return found


def _part(value: Tensor, mesh, kinds: list, axes: tuple) -> Tensor:
    """What this device needs of a tensor; its gradient is summed where devices have it whole."""
    from torch.distributed.tensor import Partial, Replicate, Shard

    places = dict(zip((BATCH, CHANNELS), axes, strict=True))
    shared = [kind is not None and places[kind] is not None for kind in kinds]
    layout, gradient = (
        [
            Shard(places[kind]) if part else whole(kind)
            for kind, part in zip(kinds, shared, strict=True)
        ]
        for whole in (lambda kind: Replicate(), lambda kind: Partial() if kind else Replicate())
    )
    value = _placed(value, mesh).redistribute(mesh, layout)
    return value.to_local(grad_placements=gradient)


def _result(part: Tensor, mesh, kinds: list, images, channels: int | None, devices: int) -> Tensor:
    from torch.distributed.tensor import DTensor, Replicate, Shard

    places = {BATCH: Shard(0), CHANNELS: Shard(1), None: Replicate()}
    layout = [places[kind] for kind in kinds]
    shape = list(part.shape)
    if BATCH in kinds:
        shape[0] = images.shape[0]
    if CHANNELS in kinds:
        shape[1] = devices * shape[1] if channels is None else channels
    part = part.contiguous()
    strides = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(
        part, mesh, layout, run_check=False, shape=torch.Size(shape), stride=strides
    )


def _sum(part: Tensor, mesh, kinds: list) -> Tensor:
    from torch.distributed.tensor import DTensor, Partial, Replicate

    layout = [Partial() if kind else Replicate() for kind in kinds]
    return DTensor.from_local(part, mesh, layout, run_check=False)


def _trained_unit(
    x, weight, norm_weight, norm_bias, running_mean, running_var, training, momentum, eps
):
    """A Fourier unit whose statistics are those of the batch on all devices."""
    from torch.distributed.tensor import Replicate

    mesh = next(v.device_mesh for v in (x, weight) if _is_shared(v))
    z, *sums = fu_mix(x, weight)
    total, squares = (t.redistribute(mesh, [Replicate()] * mesh.ndim) for t in sums)
    count = max(z.shape[0] * math.prod(z.shape[2:]), 1)
    mean = total / count
    var = (squares / count - mean * mean).clamp(min=0)
    if running_mean is not None and count > 1:
        _move(running_mean, mean, momentum)
        _move(running_var, var * (count / (count - 1)), momentum)
    scale = _placed(norm_weight, mesh).to(z.dtype) * torch.rsqrt(var + eps)
    shift = _placed(norm_bias, mesh).to(z.dtype) - mean * scale
    return fu_finish(z, scale, shift, tuple(x.shape[2:])).to(x.dtype)


@torch.no_grad()
def _move(running: Tensor, towards, momentum: float) -> None:
    mine = running.to_local() if _is_shared(running) else running
    mine.lerp_(towards.to_local().to(mine), momentum)
