"""One file a system. Every system is a module with two methods, which the driver calls:

`training_loss(batch, generator) -> (loss, parts)`: a scalar and a dictionary of scalars to log;
`predict(image, generator=None) -> (B, K, *S)`: class probabilities.
"""

import importlib

from fastseg.errors import UsageError

SYSTEMS = {"fno": "fastseg.models.fno"}


def build(name: str, *, in_channels: int, classes: int, **options):
    """The system `name` for images of `in_channels` modalities and `classes` label classes,
    background included.

    Raises UsageError for an unknown name or an option the system does not have.
    """
    if name not in SYSTEMS:
        raise UsageError(f"system: got {name!r}, want one of {', '.join(sorted(SYSTEMS))}")
    system = importlib.import_module(SYSTEMS[name]).System
    try:
        return system(in_channels, classes, **options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"model: {error}") from error
