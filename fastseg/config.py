"""Describe one training run, typed, and read `name=value` overrides of it.

A recipe is a file of `fastseg.recipes`: data from which a `Recipe` is made. Overrides are parsed by
jsonargparse, which knows the types of dataclass fields, null and `1e-3`, and checked before any
data is read: a system's options by the system's own `Options`.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from fastseg.data.pipeline import LoaderConfig
from fastseg.errors import UsageError, did_you_mean, offered
from fastseg.fields import Checked, documented, parse, types_of

Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]
Kernels = Literal["auto", "reference", "matmul", "cpu", "cuda", "triton"]


@dataclass(frozen=True)
class Recipe(Checked):
    """Everything that decides what a run computes; a field's help says what it means.

    Raises UsageError naming a wrong field. `model` is checked where overrides are read and where
    the network is built, not here, so that what an older version wrote can still be loaded.
    """

    name: str = documented("the recipe that this came from")
    system: str = documented("which system of fastseg.models")
    model: dict[str, Any] = documented("the system's own options")
    data: LoaderConfig = documented("how samples are drawn")
    optimizer: Literal["adam", "adamw", "sgd"] = documented("update rule", "adam")
    lr: float = documented("learning rate at the start", 3e-4, most=1e6)
    betas: tuple[float, ...] = documented(
        "decay of Adam's two averages; SGD's momentum is the first", (0.9, 0.999)
    )
    amsgrad: bool = documented("Adam divides by the largest average so far", False)
    nesterov: bool = documented("SGD's momentum looks ahead; Adam has no such thing", False)
    weight_decay: float = documented(
        "L2 penalty (Adam, SGD) or decoupled decay (AdamW)", 0.0, least=0, most=1e6
    )
    schedule: Literal["constant", "cosine", "poly"] = documented(
        "learning rate over the whole run", "constant"
    )
    lr_min: float = documented("where the cosine schedule ends", 1e-6, least=0, most=1e6)
    grad_clip: float | None = documented("largest norm of a gradient, null for any", 12.0, least=0)
    epochs: int = documented("passes over the training cases", 50, least=1)
    patience: int | None = documented(
        "epochs without a better validation that end the run, null: none do", None, least=1
    )
    ema: float | None = documented(
        "decay of the averaged weights, below 1, null for no average", None, least=0
    )
    precision: Precision = documented(
        "arithmetic; auto: bf16, on GPUs below 8.0 fp16, on a CPU fp32", "fp32"
    )
    device: Literal["auto", "cpu", "cuda"] = documented("auto: a GPU where there is one", "auto")
    devices: int = documented(
        "processes on this machine; under torchrun its own number holds", 1, least=1
    )
    strategy: Literal["ddp", "fsdp"] = documented(
        "each process has all weights, or a share of them", "ddp"
    )
    loader: Literal["auto", "dali", "torch"] = documented("auto: DALI on a GPU, else torch", "auto")
    kernels: Kernels = documented("backend of the spectral ops, as fastseg.use_backend", "auto")
    seed: int = documented("of the split, initial weights, sample order and noise", 0)
    modalities: tuple[str, ...] | None = documented(
        "channels by name, null for all that the data set has", None
    )
    region: str | None = documented(
        "to segment alone, its classes merged; null for all classes", None
    )
    fractions: tuple[float, ...] = documented(
        "share of the patients for train, val, test", (0.7, 0.2, 0.1)
    )
    labelled_fraction: float | None = documented(
        "share of the training patients with labels, null for all", None
    )
    val_every: int = documented("epochs between validations, 0 for never", 1, least=0)
    val_cases: int = documented(
        "at most so many validation patients, the first of the split", 32, least=1
    )
    save_every: int = documented(
        "steps between checkpoints besides the one after each epoch", 500, least=1
    )
    log_every: int = documented("steps between lines of metrics.jsonl", 10, least=1)
    max_skipped: int = documented("non-finite steps in a row that end the run", 10, least=1)

    def __post_init__(self):
        super().__post_init__()
        folder = None if self.data.cache_dir is None else str(self.data.cache_dir)
        data = dataclasses.replace(self.data, seed=self.seed, cache_dir=folder)
        object.__setattr__(self, "data", data)

    def check(self) -> None:
        """Raise UsageError for values beyond their range, or that do not go together."""
        self.want(self.lr > 0, "lr", "more than 0")
        self.want(self.seed < 2**63, "seed", "less than 2^63")
        self.want(self.ema is None or self.ema < 1, "ema", "less than 1")
        whole = len(self.fractions) == 3 and abs(sum(self.fractions) - 1) <= 1e-6
        self.want(whole, "fractions", "three numbers with sum 1")
        decays = len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas)
        self.want(decays, "betas", "two numbers from 0 to below 1")
        share = self.labelled_fraction is None or 0 < self.labelled_fraction < 1
        self.want(share, "labelled_fraction", "between 0 and 1, or null")
        adam = not self.amsgrad or self.optimizer != "sgd"
        self.want(adam, "amsgrad", "with optimizer adam or adamw only")
        moving = not self.nesterov or self.betas[0] > 0
        self.want(moving, "betas", "a momentum above 0, for nesterov")


# data.seed follows seed; name, system and the two groups are not values
_FIXED = {"name", "system", "model", "data", "data.seed"}


# names of the systems' configurations in the comparisons they come from
ALIASES = {"A": "fno", "B-supervised": "diffusion_unet", "B-ssl": "diffusion_unet_ssl"}
ALIASES |= {"C-legacy": "fno_diffusion_legacy", "C-fixed": "fno_diffusion"}
ALIASES |= {"E-baseline": "segresnet", "E-bezier": "segresnet_bezier", "E-vffc": "segresnet_vffc"}
ALIASES |= {"E-grl": "segresnet_grl", "E-full": "segresnet_full"}
ALIASES |= {"F-v1": "medsegdiff_v1", "F-v2": "medsegdiff_v2", "F-v2-small": "medsegdiff_v2_small"}


def recipe_names() -> list[str]:
    """List the recipes that `load_recipe` accepts."""
    package = importlib.import_module("fastseg.recipes")
    names = (module.name for module in pkgutil.iter_modules(package.__path__))
    return sorted(name for name in names if not name.startswith("_"))


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Load the recipe called `name`, or one of `ALIASES`, and change it.

    Args:
        name: one of `recipe_names()`.
        overrides: `key=value` each, keys as `option_types` has them; the last part of a dotted key
            will do where there is one such key.

    Raises:
        UsageError: an unknown recipe, or a key that it does not have, with the nearest known one;
            a value of a wrong type, or one that the system does not take.

    >>> recipe = load_recipe("fno", ["epochs=3", "model.width=8", "batch_size=4"])
    >>> recipe.epochs, recipe.model["width"], recipe.data.batch_size
    (3, 8, 4)
    >>> load_recipe("fno", ["model.widht=8"])
    Traceback (most recent call last):
    fastseg.errors.UsageError: model.widht: recipe fno has no such key; did you mean model.width?
    """
    recipe = recipe_module(name).recipe()
    if not overrides:
        return recipe
    types = option_types(recipe)
    changes: dict[str, dict[str, Any]] = {"": {}, "data": {}, "model": {}}
    for given, text in map(split_override, overrides):
        key = full_key(given, types)
        if key not in types:
            raise UsageError(f"{key}: recipe {name} has no such key{did_you_mean(key, types)}")
        group, _, field = key.rpartition(".")
        changes[group][field] = parse(key, text, types[key])
    data = _checked(dataclasses.replace, recipe.data, **changes["data"])
    return _with_options(dataclasses.replace(recipe, data=data, **changes[""]), changes["model"])


def override_sampling(recipe: Recipe, allowed: Set[str], overrides: Sequence[str]) -> Recipe:
    """Change how a trained recipe predicts.

    Args:
        recipe: that of a run. Its `kernels` were those of training: the result has "auto" unless
            the overrides name others.
        allowed: names of the options of its model that may change.
        overrides: `key=value` each: one of `allowed`, with or without `model.` before it, device
            or kernels.

    Raises:
        UsageError: any other name, with what there is; a wrong type or value.
    """
    options = {key: kind for key, kind in _model_types(recipe).items() if key in allowed}
    own = {key: types_of(Recipe)[key] for key in ("device", "kernels")}
    changes: dict[str, Any] = {}
    for given, text in map(split_override, overrides):
        key = given.removeprefix("model.")
        if key not in options | own:
            there = offered(key, options | own)
            raise UsageError(f"{given}: is no sampling option of system {recipe.system}{there}")
        changes[key] = parse(given, text, (options | own)[key])
    mine = {"kernels": "auto"} | {key: changes.pop(key) for key in own if key in changes}
    return _with_options(dataclasses.replace(recipe, **mine), changes)


def full_key(name: str, keys: Collection[str]) -> str:
    """Find which of `keys` a name means: itself, or the only dotted one of which it is the last
    part; where there is none, the name itself. UsageError where there are several.

    >>> full_key("width", ["lr", "model.width"])
    'model.width'
    """
    if name in keys:
        return name
    same = sorted(key for key in keys if key.rpartition(".")[2] == name)
    if len(same) > 1:
        raise UsageError(f"{name}: could be {' or '.join(same)}; wanted one of these")
    return same[0] if same else name


def split_override(item: str) -> tuple[str, str]:
    """Return name and value of `name=value`. UsageError when it is not written so."""
    key, equals, text = item.partition("=")
    if not equals:
        raise UsageError(f"{item!r}: an override is written name=value")
    return key, text


def option_types(recipe: Recipe) -> dict[str, Any]:
    """Return every key that may be overridden, nested ones dotted, with its type."""
    types = dict(types_of(Recipe))
    types |= {f"data.{key}": kind for key, kind in types_of(LoaderConfig).items()}
    types |= {f"model.{key}": kind for key, kind in _model_types(recipe).items()}
    return {key: kind for key, kind in types.items() if key not in _FIXED}


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as JSON-able values; `from_dict` gives an equal recipe back."""
    return dataclasses.asdict(recipe)


def from_dict(values: dict[str, Any]) -> Recipe:
    """Make a recipe of what `to_dict` gave, also after JSON. UsageError for unknown or missing
    keys; the system's options are left to where they are used.
    """
    values = from_json(values)
    data = _checked(LoaderConfig, **values.get("data", {}))
    model = _as_now(values.get("model", {}))
    return _checked(Recipe, **values | {"data": data, "model": model})


def _as_now(model: Any) -> Any:
    """Bring the options of a run from before a rule in line with it: no more sampling steps than
    timesteps. What is no such option is left to the checks that follow.
    """
    if not isinstance(model, dict):
        return model
    steps, most = model.get("sampling_steps"), model.get("timesteps")
    if isinstance(steps, int) and isinstance(most, int) and steps > most:
        return model | {"sampling_steps": most}
    return model


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dictionaries as one with dotted names.

    >>> flatten({"lr": 0.1, "data": {"patch": (8, 8)}})
    {'lr': 0.1, 'data.patch': (8, 8)}
    """
    flat = {}
    for key, value in values.items():
        nested = isinstance(value, dict)
        flat |= flatten(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return flat


def recipe_module(name: str) -> ModuleType:
    """Import the file of a recipe, or of one of `ALIASES`. UsageError for an unknown name."""
    name = ALIASES.get(name, name)
    if name not in recipe_names():
        raise UsageError(f"{name}: no such recipe{did_you_mean(name, recipe_names())}")
    return importlib.import_module(f"fastseg.recipes.{name}")


def _model_types(recipe: Recipe) -> dict[str, Any]:
    """Return types of the system's options, those that the recipe sets first."""
    from fastseg import models

    types = types_of(models.options(recipe.system))
    return {key: types[key] for key in recipe.model if key in types} | types


def _with_options(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    from fastseg import models

    models.check(recipe.system, recipe.model | changes)
    return dataclasses.replace(recipe, model=recipe.model | changes)


def shown(value: Any) -> str:
    """Write a value as an override would give it.

    >>> shown((8, 4)), shown(None), shown(True)
    ('8,4', 'null', 'true')
    """
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def from_json(value: Any) -> Any:
    """Return lists as tuples, at any depth: JSON has no tuples, recipes have no lists."""
    if isinstance(value, dict):
        return {key: from_json(item) for key, item in value.items()}
    return tuple(from_json(item) for item in value) if isinstance(value, (list, tuple)) else value


def _checked(build, *args, **values):
    try:
        return build(*args, **values)
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, UsageError) else UsageError(str(error)) from None
