"""One file a system; `build` makes one by its name. What all have in common is `System`."""

import importlib
from collections.abc import Mapping
from typing import Any

from fastseg.errors import UsageError
from fastseg.fields import for_sampling
from fastseg.models.system import Channels, Options, SynthesisSystem, System

__all__ = [
    "SYSTEMS",
    "Channels",
    "Options",
    "SynthesisSystem",
    "System",
    "build",
    "check",
    "options",
    "sampling_options",
    "task",
]

# module, or module:class
SYSTEMS = {
    "fno": "fastseg.models.fno",
    "diffusion-unet": "fastseg.models.diffusion_unet",
    "fno-diffusion": "fastseg.models.fno_diffusion",
    "fno-unet": "fastseg.models.fno_unet",
    "hnoseg": "fastseg.models.hnoseg",
    "segresnet": "fastseg.models.segresnet",
    "segresnet-vffc": "fastseg.models.segresnet:FourierSystem",
    "unet3d": "fastseg.models.unet3d",
    "medsegdiff-v1": "fastseg.models.medsegdiff_v1",
    "medsegdiff-v2": "fastseg.models.medsegdiff_v2",
    "fgc2f-udiff": "fastseg.models.fgc2f_udiff",
}


def build(
    name: str, *, in_channels: int, classes: int, regions=(), modalities=(), **options
) -> System:
    """Make a system with untrained weights, drawn from torch's generator.

    Args:
        name: one of `SYSTEMS`.
        in_channels: channels of the images.
        classes: label classes, background included.
        regions: class indices of each nested region, for systems with a `head` of regions.
        modalities: names of the images' channels, for systems that fill in missing ones.
        options: fields of the system's `Options`; the others have their defaults.

    Raises:
        UsageError: an unknown name, an option that the system does not have, or a wrong value.

    >>> import torch
    >>> net = build("fno", in_channels=4, classes=3, modes=(4, 3), width=4, blocks=1)
    >>> net.predict(torch.zeros(1, 4, 16, 16)).shape
    torch.Size([1, 3, 16, 16])
    """
    system = _system(name)
    checked = system.Options.from_dict(options)
    channels = Channels(in_channels, classes, tuple(regions), tuple(modalities))
    try:
        return system(channels, checked)
    except UsageError:
        raise
    except (TypeError, ValueError) as error:
        raise UsageError(f"model: {error}") from error


def options(name: str) -> type[Options]:
    """Return the class of a system's options: its fields have types, defaults and help.

    >>> options("fno")().width
    16
    """
    return _system(name).Options


def check(name: str, values: Mapping[str, Any]) -> None:
    """Raise UsageError, one line that begins with `model.NAME`, unless the system takes `values`.

    >>> check("fno", {"width": 16, "blocks": 2})
    """
    options(name).from_dict(values)


def sampling_options(name: str) -> frozenset[str]:
    """Return the names of the system's options that only change how it predicts.

    >>> sorted(sampling_options("segresnet"))
    ['flips']
    """
    return for_sampling(options(name))


def task(name: str) -> str:
    """Return what the system does: "segmentation" or "synthesis".

    >>> task("fno")
    'segmentation'
    """
    return _system(name).task


def _system(name: str) -> type[System]:
    if name not in SYSTEMS:
        raise UsageError(f"system: is {name!r}, wanted one of {', '.join(sorted(SYSTEMS))}")
    module, _, found = SYSTEMS[name].partition(":")
    return getattr(importlib.import_module(module), found or "System")
