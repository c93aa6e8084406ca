"""What state.json says of a run, checked: whoever made it, its values are of their types."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastseg import config, models
from fastseg.config import Recipe
from fastseg.data.cases import LabelScheme
from fastseg.errors import CheckpointError
from fastseg.fields import documented, fits, type_name, types_of

_PARTS = ("train", "val", "test")
_MOST = 2**53  # of numbers; a float, as other programs' JSON has them, holds these


@dataclass
class Position:
    """Where a run is; state.json holds all of it. Older runs lack some keys, not the first three.

    `step` counts batches, skipped ones included.
    """

    step: int = documented("batches", 0, least=0)
    epoch: int = documented("epochs that are done", 0, least=0)
    batch: int = documented("batches of the one at hand", 0, least=0)
    batches_per_epoch: int = documented("0: not known", 0, least=0)
    validated: int = documented("epochs whose end was dealt with", 0, least=0)
    best: float = documented("validation score", -1.0)
    best_epoch: int = documented("when that was", 0, least=0)
    skipped: int = documented("non-finite steps", 0, least=0)
    in_a_row: int = documented("of these, the last ones", 0, least=0)
    time_s: float = documented("of training", 0.0, least=0)
    metrics_bytes: int = documented(
        "of metrics.jsonl: lines after it are of steps to be done again", 0, least=0
    )

    @classmethod
    def restored(cls, values: Any) -> "Position":
        """Make it of what state.json holds. CheckpointError names the key that is wrong."""
        kinds = types_of(cls)
        known = _want(values, dict, "position")
        for key in [*known, *list(kinds)[:3]]:
            if key not in known or key not in kinds:
                raise CheckpointError(f"position.{key}: is missing, or unknown")
            _number(known[key], kinds[key], cls.__dataclass_fields__[key].metadata["least"], key)
        made = cls(**known)
        for key, most in (("batch", made.batches_per_epoch), ("skipped", made.step),
                          ("in_a_row", made.skipped), ("validated", made.epoch),
                          ("best_epoch", made.epoch), ("epoch", made.step)):  # fmt: skip
            if getattr(made, key) > most and not (key == "batch" and most == 0):
                raise CheckpointError(f"position.{key}: is {getattr(made, key)}, wanted ≤ {most}")
        return made

    def advance(self, finite: bool) -> None:
        """Count one batch."""
        self.step, self.batch = self.step + 1, self.batch + 1
        if self.batch == self.batches_per_epoch:
            self.epoch, self.batch = self.epoch + 1, 0
        self.skipped += not finite
        self.in_a_row = 0 if finite else self.in_a_row + 1

    def finished(self, recipe: Recipe) -> bool:
        """Tell whether all epochs are done, or the last `recipe.patience` were no better."""
        if self.validated >= recipe.epochs or recipe.patience is None:
            return self.validated >= recipe.epochs
        # epochs whose end was not validated say nothing yet
        latest = recipe.val_every and self.validated // recipe.val_every * recipe.val_every
        return self.best >= 0 and latest - self.best_epoch >= recipe.patience


@dataclass(frozen=True)
class State:
    """All of state.json but its format. sha256: of the files beside it; scaler: of sixteen bits.

    Weights that were never trained here lack what comes after `split`.
    """

    recipe: Recipe
    modalities: tuple[str, ...]
    scheme: LabelScheme
    split: dict[str, list[str]]
    position: Position | None = None
    rng: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] | None = None
    precision: str | None = None
    sha256: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, values: dict[str, Any], path: Path) -> "State":
        """Make it of what a checkpoint holds. CheckpointError names the checkpoint and the key."""
        try:
            return cls(**{key: _READ[key](values.get(key)) for key in _READ})
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None

    def check_goes_on(self, path: Path) -> None:
        """Raise CheckpointError, naming a key, where no training can go on from it."""
        if self.position is None:
            raise CheckpointError(f"{path}: position is missing")
        for part in _PARTS:
            if part not in self.split:
                raise CheckpointError(f"{path}: split.{part} is missing")

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able values, of which `of` makes an equal state; no checksums."""
        found = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        found |= {"recipe": config.to_dict(self.recipe), "scheme": self.scheme.to_dict()}
        found |= {"modalities": list(self.modalities)}
        found |= {"position": dataclasses.asdict(self.position)}
        return {key: value for key, value in found.items() if key != "sha256"}


def _want(value: Any, kind: Any, key: str) -> Any:
    if not fits(value, kind):
        wanted = f"a {kind.__name__}" if kind in (dict, list) else type_name(kind)
        raise CheckpointError(f"{key} is {value!r:.80}, wanted {wanted}")
    return value


def _number(value: Any, kind: type, least: float | None, key: str) -> None:
    if type(value) not in (int, float) or abs(value) > _MOST or not fits(value, kind):
        raise CheckpointError(f"position.{key}: is {value!r:.80}, wanted {type_name(kind)}")
    if least is not None and value < least:
        raise CheckpointError(f"position.{key}: is {value}, wanted at least {least}")


def _made(value: Any, key: str, make: Callable[[dict], Any]) -> Any:
    """Make a thing of a dictionary, whatever is wrong with it."""
    try:
        return make(_want(value, dict, key))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{key} is damaged: {error}") from None


def _recipe(values: dict) -> Recipe:
    recipe = config.from_dict(values)
    models.check(recipe.system, recipe.model)
    return recipe


def _names(value: Any) -> tuple[str, ...]:
    names = _want(value, list, "modalities")
    if not names or not all(isinstance(name, str) and name for name in names):
        raise CheckpointError(f"modalities is {names!r:.80}, wanted names")
    if len(set(names)) < len(names):
        raise CheckpointError(f"modalities is {names!r:.80}, wanted different names")
    return tuple(names)


def _split(value: Any) -> dict[str, list[str]]:
    split = _want(value, dict, "split")
    for part, ids in split.items():
        if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
            raise CheckpointError(f"split.{part} is {ids!r:.80}, wanted a list of ids")
    return split


_READ: dict[str, Callable[[Any], Any]] = {
    "recipe": lambda value: _made(value, "recipe", _recipe),
    "modalities": _names,
    "scheme": lambda value: _made(value, "scheme", LabelScheme.from_dict),
    "split": _split,
    "position": lambda value: None if value is None else Position.restored(value),
    "rng": lambda value: _want(value or {}, dict, "rng"),
    "optimizer": lambda value: _want(value or {}, dict, "optimizer"),
    "scaler": lambda value: _want(value, dict[str, Any] | None, "scaler"),
    "precision": lambda value: _want(value, config.Precision | None, "precision"),
    "sha256": lambda value: _want(value or {}, dict, "sha256"),
}
