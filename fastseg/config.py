"""The typed description of one training run, and `name=value` overrides of it.

A recipe is a Python function in `fastseg.recipes` that returns a `Recipe`. Overrides are parsed
and checked by jsonargparse, which knows the types of dataclass fields, null and `1e-3`.
"""

import dataclasses
import difflib
import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

from fastseg.data.pipeline import LoaderConfig
from fastseg.errors import UsageError, offered
from fastseg.fields import help_of

Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]
Kernels = Literal["auto", "reference", "matmul", "cpu", "cuda", "triton"]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a run computes. Trailing comments are the keys' help texts."""

    name: str  # the recipe this came from
    system: str  # which model of fastseg.models
    model: dict[str, Any]  # the system's own options
    data: LoaderConfig  # how samples are drawn
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"  # update rule
    lr: float = 3e-4  # learning rate at the start
    betas: tuple[float, ...] = (0.9, 0.999)  # Adam's averages; SGD's momentum is the first
    amsgrad: bool = False  # Adam divides by the largest average so far
    nesterov: bool = False  # SGD's momentum looks ahead; Adam has no such thing
    weight_decay: float = 0.0  # L2 penalty (Adam, SGD), decoupled decay (AdamW)
    schedule: Literal["constant", "cosine", "poly"] = "constant"  # learning rate over the whole run
    lr_min: float = 1e-6  # where the cosine schedule ends
    grad_clip: float | None = 12.0  # largest gradient norm, null for none
    epochs: int = 50  # passes over the training cases
    patience: int | None = None  # epochs without a better validation that end the run, null: none
    ema: float | None = None  # decay of the averaged weights, null for none
    precision: Precision = "fp32"  # arithmetic; auto: bf16, on GPUs below 8.0 fp16, on a CPU fp32
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: a GPU when there is one
    devices: int = 1  # processes on this machine; under torchrun its own number holds
    strategy: Literal["ddp", "fsdp"] = "ddp"  # each process has all weights, or a share of them
    loader: Literal["auto", "dali", "torch"] = "auto"  # auto: DALI on a GPU, torch on a CPU
    kernels: Kernels = "auto"  # backend of the spectral ops, as fastseg.use_backend has them
    seed: int = 0  # of split, initial weights, sample order and noise
    modalities: tuple[str, ...] | None = None  # channels by name, null for all the data set has
    region: str | None = None  # to segment alone, its classes merged; null for all classes
    fractions: tuple[float, ...] = (0.7, 0.2, 0.1)  # share of patients for train, val, test
    labelled_fraction: float | None = None  # share of training patients with labels, null for all
    val_every: int = 1  # epochs between validations, 0 for never
    val_cases: int = 32  # at most so many validation patients, the first of the split
    save_every: int = 500  # steps between checkpoints besides the one after each epoch
    log_every: int = 10  # steps between lines of metrics.jsonl
    max_skipped: int = 10  # non-finite steps in a row that end the run

    def __post_init__(self):
        folder = None if self.data.cache_dir is None else str(self.data.cache_dir)
        data = dataclasses.replace(self.data, seed=self.seed, cache_dir=folder)
        object.__setattr__(self, "data", data)
        for name, low in _LOWEST.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise UsageError(f"{name}: is {value}, wanted at least {low}")
        if self.lr <= 0 or (self.ema is not None and self.ema >= 1):
            raise UsageError(f"lr: is {self.lr}, wanted more than 0; ema: {self.ema}, less than 1")
        if len(self.fractions) != 3 or abs(sum(self.fractions) - 1) > 1e-6:
            raise UsageError(f"fractions: is {self.fractions}, wanted three numbers with sum 1")
        if len(self.betas) != 2 or not all(0 <= b < 1 for b in self.betas):
            raise UsageError(f"betas: is {self.betas}, wanted two numbers from 0 to below 1")
        if self.labelled_fraction is not None and not 0 < self.labelled_fraction < 1:
            raise UsageError(
                f"labelled_fraction: is {self.labelled_fraction}, wanted between 0 and 1, or null"
            )
        if self.amsgrad and self.optimizer == "sgd":
            raise UsageError("amsgrad: is true, wanted with optimizer adam or adamw only")
        if self.nesterov and not self.betas[0]:
            raise UsageError(f"betas: is {self.betas}, nesterov wants a momentum above 0")


_LOWEST = {"epochs": 1, "grad_clip": 0, "ema": 0, "lr_min": 0, "weight_decay": 0, "devices": 1}
_LOWEST |= {
    "patience": 1,
    "val_every": 0,
    "val_cases": 1,
    "save_every": 1,
    "log_every": 1,
    "max_skipped": 1,
}
# data.seed follows seed; name, system and the two groups are not values
_FIXED = {"name", "system", "model", "data", "data.seed"}


# names of the systems' configurations in the comparisons they come from
ALIASES = {"A": "fno", "B-supervised": "diffusion_unet", "B-ssl": "diffusion_unet_ssl"}
ALIASES |= {"C-legacy": "fno_diffusion_legacy", "C-fixed": "fno_diffusion"}
ALIASES |= {"E-baseline": "segresnet", "E-bezier": "segresnet_bezier", "E-vffc": "segresnet_vffc"}
ALIASES |= {"E-grl": "segresnet_grl", "E-full": "segresnet_full"}
ALIASES |= {"F-v1": "medsegdiff_v1", "F-v2": "medsegdiff_v2", "F-v2-small": "medsegdiff_v2_small"}


def recipe_names() -> list[str]:
    """The recipes that `load_recipe` accepts."""
    package = importlib.import_module("fastseg.recipes")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe called `name`, or one of `ALIASES`, with `name=value` overrides, names dotted.

    UsageError for an unknown recipe or key, with the nearest known one, and for a wrong type.
    """
    recipe = _recipe_module(name).recipe()
    types = option_types(recipe)
    changes: dict[str, dict[str, Any]] = {"": {}, "data": {}, "model": {}}
    for key, text in map(split_override, overrides):
        if key not in types:
            raise UsageError(f"{key}: recipe {name} has no such key{did_you_mean(key, types)}")
        group, _, field = key.rpartition(".")
        changes[group][field] = _parse(key, types[key], text)
    return dataclasses.replace(
        recipe,
        model=recipe.model | changes["model"],
        data=_checked(dataclasses.replace, recipe.data, **changes["data"]),
        **changes[""],
    )


def override_sampling(recipe: Recipe, allowed: Set[str], overrides: Sequence[str]) -> Recipe:
    """`recipe` with `name=value` changes of options of its model, those in `allowed`, and of
    `device`.

    UsageError for any other name, with what there is, and for a wrong type.
    """
    types = {key: _type_of(value) for key, value in recipe.model.items() if key in allowed}
    types["device"] = option_types(recipe)["device"]
    changes = {}
    for key, text in map(split_override, overrides):
        if key not in types:
            there = offered(key, types)
            raise UsageError(f"{key}: is no sampling option of system {recipe.system}{there}")
        changes[key] = _parse(key, types[key], text)
    device = changes.pop("device", recipe.device)
    return dataclasses.replace(recipe, model=recipe.model | changes, device=device)


def split_override(item: str) -> tuple[str, str]:
    """Name and value of `name=value`. UsageError when it is not written so."""
    key, equals, text = item.partition("=")
    if not equals:
        raise UsageError(f"{item!r}: an override is written name=value")
    return key, text


def option_types(recipe: Recipe) -> dict[str, Any]:
    """Every key that may be overridden, nested ones dotted, with its type."""
    types = {}
    for prefix, cls in (("", Recipe), ("data.", LoaderConfig)):
        hints = typing.get_type_hints(cls)
        types |= {prefix + f.name: hints[f.name] for f in dataclasses.fields(cls)}
    types |= {f"model.{key}": _type_of(value) for key, value in recipe.model.items()}
    return {key: kind for key, kind in types.items() if key not in _FIXED}


def describe(name: str) -> str:
    """Every key of a recipe with its value and meaning: the text of `fastseg train NAME --help`."""
    module = _recipe_module(name)
    recipe = module.recipe()
    flat = flatten(to_dict(recipe))
    meaning, reasons = _comments(Recipe), _reasons(module)
    rows = []
    for key in option_types(recipe):
        notes = [meaning.get(key), reasons.get(key.rpartition(".")[2])]
        rows.append((f"{key}={shown(flat[key])}", "; ".join(filter(None, notes))))
    width = max(len(setting) for setting, _ in rows)
    lines = [f"  {setting:<{width}}  {note}".rstrip() for setting, note in rows]
    keys = [f"  data.{key}: {text}" for key, text in help_of(LoaderConfig).items()]
    return "\n".join([*lines, "", *keys])


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON-able values; `from_dict` gives an equal recipe back."""
    return dataclasses.asdict(recipe)


def from_dict(values: dict[str, Any]) -> Recipe:
    """A recipe from `to_dict`, also after JSON. UsageError for unknown or missing keys."""
    values = from_json(values)
    data = _checked(LoaderConfig, **values.get("data", {}))
    return _checked(Recipe, **values | {"data": data})


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one with dotted names."""
    flat = {}
    for key, value in values.items():
        nested = isinstance(value, dict)
        flat |= flatten(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return flat


def _recipe_module(name: str):
    name = ALIASES.get(name, name)
    if name not in recipe_names():
        raise UsageError(f"{name}: no such recipe{did_you_mean(name, recipe_names())}")
    return importlib.import_module(f"fastseg.recipes.{name}")


def _parse(key: str, kind: Any, text: str) -> Any:
    from jsonargparse import ArgumentError, ArgumentParser

    if "tuple" in str(kind) and text not in ("null", "None"):
        text = f"[{text.strip('()[] ')}]"
    if text == "None":
        text = "null"
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    try:
        value = parser.parse_args([f"--value={text}"]).value
    except ArgumentError:
        raise UsageError(f"{key}: is {text!r}, wanted {_type_name(kind)}") from None
    if isinstance(value, float) and value - value != 0:
        raise UsageError(f"{key}: is {text!r}, wanted a finite number")
    return value


def _type_of(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple[type(value[0]), ...]
    return type(value)


def _type_name(kind: Any) -> str:
    if isinstance(kind, type) and not typing.get_args(kind):
        return {"int": "a whole number", "float": "a number", "bool": "true or false"}.get(
            kind.__name__, kind.__name__
        )
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    return str(kind).replace("typing.", "").replace("NoneType", "null").replace("None", "null")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ "; did you mean …?" with the nearest of `known`, or all of them: the end of an error."""
    field = word.rpartition(".")[2]
    near = [key for key in known if key.rpartition(".")[2] == field]
    near = near or difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; it has {', '.join(sorted(known))}"


def _reasons(module) -> dict[str, str]:
    """Comments of a recipe's file, and of those recipes that it starts from."""
    found: dict[str, str] = {}
    for base in filter(inspect.ismodule, vars(module).values()):
        found |= _reasons(base) if base.__name__.startswith("fastseg.recipes.") else {}
    return found | _comments(module)


def _comments(source) -> dict[str, str]:
    """Trailing comments of `name: type`, `name=value,` and `"name": value,` lines."""
    pattern = r'^\s*"?(\w+)"?\s*[:=][^#\n]*#\s*(.+)$'
    return dict(re.findall(pattern, inspect.getsource(source), re.MULTILINE))


def shown(value: Any) -> str:
    """A value as an override would give it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def from_json(value: Any) -> Any:
    """Lists as tuples, at any depth: JSON has no tuples, recipes have no lists."""
    if isinstance(value, dict):
        return {key: from_json(item) for key, item in value.items()}
    return tuple(from_json(item) for item in value) if isinstance(value, (list, tuple)) else value


def _checked(build, *args, **values):
    try:
        return build(*args, **values)
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, UsageError) else UsageError(str(error)) from None
