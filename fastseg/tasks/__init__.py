"""What a trained network is for: segmentation, or the synthesis of missing modalities."""

import importlib
from typing import TYPE_CHECKING

from fastseg.errors import UsageError

if TYPE_CHECKING:  # numpy loads with it, and the command's help needs the names alone
    from fastseg.tasks.base import Task

_HOMES = {"segmentation": "segmentation", "synthesis": "modality_synthesis"}
NAMES = tuple(_HOMES)


def named(name: str) -> "Task":
    """Give the task of a name. UsageError where there is none."""
    if name not in _HOMES:
        raise UsageError(f"task: is {name!r}, wanted {' or '.join(NAMES)}")
    return importlib.import_module(f"fastseg.tasks.{_HOMES[name]}").TASK


def of(system: str) -> "Task":
    """Give the task that a system of `fastseg.models` does."""
    from fastseg import models

    return named(models.task(system))
