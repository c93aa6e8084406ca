"""Fields of dataclasses that carry their own help and limits, and dataclasses that check them."""

import dataclasses
import math
import types
import typing
from dataclasses import MISSING, dataclass
from functools import cache
from numbers import Integral, Real
from typing import Any, Literal

from fastseg.errors import UsageError


def documented(
    help: str, default: Any = MISSING, *, sampling: bool = False, least: float | None = None,
    most: float | None = None,
) -> Any:  # fmt: skip
    """Make a dataclass field with a help line, and optionally a default.

    Args:
        help: one line, what the field means and in which unit.
        default: the field's value where none is given; without it the field is required.
        sampling: mark the field as one that only changes how a trained network predicts.
        least, most: the smallest and the largest value that a `Checked` dataclass lets the field
            have.

    Returns:
        what stands right of the `=` in the class.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Options:
    ...     width: int = documented("channels of the finest level", 16)
    >>> Options().width, help_of(Options)
    (16, {'width': 'channels of the finest level'})
    """
    metadata = {"help": help, "sampling": sampling, "least": least, "most": most}
    return dataclasses.field(default=default, metadata=metadata)


def inherited(cls: type, name: str, default: Any) -> Any:
    """Make the field `name` of dataclass `cls` anew for a subclass, with another default."""
    field = cls.__dataclass_fields__[name]
    return dataclasses.field(default=default, metadata=field.metadata)


def help_of(cls: type) -> dict[str, str]:
    """Return the help line of each field of dataclass `cls`, "" for one that has none."""
    return {field.name: field.metadata.get("help", "") for field in dataclasses.fields(cls)}


def for_sampling(cls: type) -> frozenset[str]:
    """Return the names of the fields of dataclass `cls` that `documented` marks `sampling`."""
    marked = (field for field in dataclasses.fields(cls) if field.metadata.get("sampling"))
    return frozenset(field.name for field in marked)


@cache
def types_of(cls: type) -> dict[str, Any]:
    """Return the type of each field of dataclass `cls`."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


@dataclass(frozen=True)
class Checked:
    """Base of dataclasses that refuse wrong values when they are made.

    Each field's value is held against its type, its `least` and `most`, and what a machine's
    numbers hold; then `check` is called.
    Raises UsageError, one line that begins with the field's name.

    >>> @dataclass(frozen=True)
    ... class Options(Checked):
    ...     width: int = documented("channels of the finest level", 16, least=1)
    >>> Options(width=0)
    Traceback (most recent call last):
    fastseg.errors.UsageError: width: is 0, wanted at least 1
    """

    def __post_init__(self):
        kinds = types_of(type(self))
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            least, most = field.metadata.get("least"), field.metadata.get("most")
            self.want(fits(value, kinds[name]), name, type_name(kinds[name]))
            self.want(holdable(value), name, "numbers that int64 and float32 hold")
            if least is not None and value is not None:
                self.want(value >= least, name, f"at least {least}")
            if most is not None and value is not None:
                self.want(value <= most, name, f"at most {most:g}")
        self.check()

    def check(self) -> None:
        """Raise UsageError for values that do not go together; a subclass calls super's."""

    def want(self, good: bool, name: str, wanted: str) -> None:
        """Raise UsageError about the field `name` unless `good`."""
        if not good:
            raise UsageError(f"{name}: is {getattr(self, name)!r}, wanted {wanted}")


def fits(value: Any, kind: Any) -> bool:
    """Tell whether `value` is of the type `kind`: int, float (finite, or an int), bool, str, a
    Literal, a union, a dictionary or a tuple of one type (a list will do), any other class.

    >>> fits(3, float), fits(True, int), fits([4, 3], tuple[int, ...]), fits("a", Literal["b"])
    (True, False, True, False)
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in inner)
    if origin is tuple:
        return isinstance(value, (tuple, list)) and all(fits(item, inner[0]) for item in value)
    if kind in (int, float):
        number = isinstance(value, Integral if kind is int else Real)
        return number and not isinstance(value, bool) and math.isfinite(value)
    return kind is Any or isinstance(value, origin or kind)


def holdable(value: Any) -> bool:
    """Tell whether all numbers in `value`, at any depth, are such as int64 and float32 hold.

    >>> holdable((3, 1e-40, "a")), holdable(2**63), holdable((0.5, 1e300))
    (True, False, False)
    """
    if isinstance(value, (tuple, list)):
        return all(map(holdable, value))
    if isinstance(value, Integral):
        return -(2**63) <= value < 2**63
    return not isinstance(value, Real) or abs(value) <= 3e38


def type_name(kind: Any) -> str:
    """Say in words what values of a type are.

    >>> type_name(int), type_name(float | None), type_name(Literal["mean", "staple"])
    ('a whole number', 'a number or null', 'one of mean, staple')
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if set(inner) == {int, float}:
            return "a number"
        return " or ".join(map(type_name, inner))
    if origin is Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin is tuple:
        plain = type_name(inner[0]).removeprefix("a ")
        return f"a list, each {plain}" if plain.startswith("one of") else f"{plain}s"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
    return names.get(kind) or ("null" if kind is types.NoneType else kind.__name__)


def parse(name: str, text: str, kind: Any) -> Any:
    """Read a value of type `kind` from what somebody wrote for `name`.

    Lists need no brackets; null is None. Raises UsageError, one line that begins with the name.

    >>> parse("modes", "8,4", tuple[int, ...]), parse("lr", "1e-3", float)
    ((8, 4), 0.001)
    """
    from jsonargparse import ArgumentError, ArgumentParser

    text = "null" if text == "None" else text
    if "tuple" in str(kind) and text != "null":
        text = f"[{text.strip('()[] ')}]"
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    try:
        value = parser.parse_args([f"--value={text}"]).value
    except ArgumentError:
        raise UsageError(f"{name}: is {text!r}, wanted {type_name(kind)}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{name}: is {text!r}, wanted a finite number")
    return value
