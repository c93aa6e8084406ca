"""Fields of dataclasses that carry their own help: the source of every `--help` text of a key."""

import dataclasses
from dataclasses import MISSING
from typing import Any


def documented(help: str, default: Any = MISSING, *, sampling: bool = False) -> Any:
    """Make a dataclass field with a help line, and optionally a default.

    Args:
        help: one line, what the field means and in which unit.
        default: the field's value where none is given; without it the field is required.
        sampling: mark the field as one that only changes how a trained network predicts.

    Returns:
        what stands right of the `=` in the class.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Options:
    ...     width: int = documented("channels of the finest level", 16)
    >>> Options().width, help_of(Options)
    (16, {'width': 'channels of the finest level'})
    """
    return dataclasses.field(default=default, metadata={"help": help, "sampling": sampling})


def help_of(cls: type) -> dict[str, str]:
    """Return the help line of each field of dataclass `cls`, "" for one that has none."""
    return {field.name: field.metadata.get("help", "") for field in dataclasses.fields(cls)}


def for_sampling(cls: type) -> frozenset[str]:
    """Return the names of the fields of dataclass `cls` that `documented` marks `sampling`."""
    marked = (field for field in dataclasses.fields(cls) if field.metadata.get("sampling"))
    return frozenset(field.name for field in marked)
