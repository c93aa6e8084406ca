"""What somebody who gave a recipe's keys as flags, `--epochs 3`, should write: `epochs=3`."""

import argparse
import difflib
from collections.abc import Collection, Iterator, Sequence


def as_overrides(given: argparse.Namespace, words: Sequence[str]) -> str:
    """The end of an error about `words` that a verb does not know; empty where nothing is meant."""
    keys = _keys(given)
    found = [(_meant(name, keys), value) for name, value in _flags(words)]
    if not found or any(key is None for key, _ in found):
        return ""
    return "; a setting is written " + " ".join(f"{key}={value}" for key, value in found)


def _flags(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    left = list(words)
    while left:
        word = left.pop(0)
        if word.startswith("-"):
            name, equals, value = word.lstrip("-").partition("=")
            if not equals:
                own = left and not left[0].startswith("-") and "=" not in left[0]
                value = left.pop(0) if own else "VALUE"
            yield name.replace("-", "_"), value


def _keys(given: argparse.Namespace) -> Collection[str] | None:
    """Those that the verb may take; None where only a checkpoint tells."""
    if given.verb == "sample":
        return None
    from fastseg import config

    name = getattr(given, "recipe", None)
    known = name in config.recipe_names() or name in config.ALIASES
    types = config.option_types(config.load_recipe(name if known else "fno"))
    return [key for key in types if known or not key.startswith("model.")]


def _meant(name: str, keys: Collection[str] | None) -> str | None:
    if keys is None:
        return name
    same = [key for key in keys if name in (key, key.rpartition(".")[2])]
    near = same or difflib.get_close_matches(name, keys, 1, 0.8)
    return near[0] if near else None
