"""Settings of published runs, one file a recipe: each value with its reason and, where it differs,
that of its source.

`python -m fastseg.recipes` writes the table of all differences into fastseg/models/README.md.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from fastseg import config
from fastseg.config import Recipe, shown
from fastseg.data.pipeline import LoaderConfig
from fastseg.fields import help_of
from fastseg.pictures.tables import Table

HEAD = "key", "here", "source", "why"
SAME = object()  # as the source has it, or nothing is known of what it has


@dataclass(frozen=True)
class Setting:
    """One value of a recipe.

    why: the reason for it, or who has it so; source: what the recipe's source has in its place,
    where that is another value, or words for it.
    """

    value: Any
    why: str
    source: Any = SAME


Settings = Mapping[str, Setting]  # by keys of `config.option_types`


def make(module: str, system: str, settings: Settings) -> Recipe:
    """Make the recipe of a file.

    Args:
        module: the file's `__name__`, the last part of which becomes the recipe's name.
        system: one of `fastseg.models.SYSTEMS`.
        settings: by dotted key; other fields have the defaults of `Recipe` and `LoaderConfig`.

    >>> settings = {"epochs": Setting(3, "a look"), "data.patch": Setting((8, 8), "small")}
    >>> recipe = make("fastseg.recipes.tiny", "fno", settings)
    >>> recipe.name, recipe.epochs, recipe.data.patch
    ('tiny', 3, (8, 8))
    """
    groups: dict[str, dict[str, Any]] = {"": {}, "data": {}, "model": {}}
    for key, setting in settings.items():
        group, _, name = key.rpartition(".")
        groups[group][name] = setting.value
    return Recipe(
        name=module.rpartition(".")[2],
        system=system,
        model=groups["model"],
        data=LoaderConfig(**groups["data"]),
        **groups[""],
    )


def without(settings: Settings, *keys: str) -> dict[str, Setting]:
    """Return the settings but for some keys, or whole groups of them, such as "model."."""
    groups = tuple(key for key in keys if key.endswith("."))
    left = (key for key in settings if key not in keys and not key.startswith(groups))
    return {key: settings[key] for key in left}


def describe(name: str) -> str:
    """Write every key of a recipe with its value, meaning and reason, a line each.

    >>> print(describe("fno").splitlines()[1].replace("  ", ""))
    lr=0.0003 learning rate at the start; source
    """
    module = config.recipe_module(name)
    recipe = module.recipe()
    values = _values(recipe).items()
    rows = [(f"{key}={shown(value)}", _note(recipe, module, key)) for key, value in values]
    return aligned(rows)


def deviations(name: str) -> list[tuple[str, str, str, str]]:
    """List where a recipe differs from its source: key, value here, value there, why.

    >>> deviations("fno")[-1][:3]
    ('grad_clip', '12.0', 'null')
    """
    settings = config.recipe_module(name).SETTINGS
    return [
        (key, shown(setting.value), shown(setting.source), setting.why)
        for key, setting in settings.items()
        if setting.source is not SAME
    ]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Write rows of texts as columns, all left-aligned, two blanks before each.

    >>> print(aligned([("lr", "1"), ("epochs", "2")]))
      lr      1
      epochs  2
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("".join(f"  {text:<{n}}" for text, n in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(map(str.rstrip, lines))


def all_deviations() -> Table:
    """Tabulate the deviations of all recipes; one built on another shows its own alone."""
    rows: dict[tuple, list[str]] = {}
    for name in config.recipe_names():
        module = config.recipe_module(name)
        bases = [value.SETTINGS for value in vars(module).values() if _is_recipe(value)]
        for row in deviations(name):
            if not any(module.SETTINGS[row[0]] is base.get(row[0]) for base in bases):
                rows.setdefault(row, []).append(f"`{name}`")
    found = [(", ".join(names), f"`{row[0]}`", *row[1:]) for row, names in rows.items()]
    return Table("", ("recipes", *HEAD), found)


def _is_recipe(value: Any) -> bool:
    return inspect.ismodule(value) and value.__name__.startswith("fastseg.recipes.")


def _values(recipe: Recipe) -> dict[str, Any]:
    """Return the values of all keys, in the order of `config.option_types`."""
    from fastseg import models

    flat = config.flatten(config.to_dict(recipe))
    default = models.options(recipe.system)()
    keys = config.option_types(recipe)
    return {key: flat[key] if key in flat else getattr(default, key[6:]) for key in keys}


def _note(recipe: Recipe, module: ModuleType, key: str) -> str:
    from fastseg import models

    setting = module.SETTINGS.get(key)
    group, _, name = key.rpartition(".")
    kinds = {"": Recipe, "data": LoaderConfig, "model": models.options(recipe.system)}
    texts = [help_of(kinds[group])[name], setting.why if setting else "the default"]
    if setting and setting.source is not SAME:
        texts.append(f"the source has {shown(setting.source)}")
    return "; ".join(filter(None, texts))
