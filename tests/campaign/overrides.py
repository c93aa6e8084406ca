"""Recipe overrides, parsed for every recipe and trained with for a small one: typed errors."""

from collections import Counter
from pathlib import Path

import numpy as np
import torch

from campaign.child import SMALL, command, small_run
from fastseg import config
from fastseg.data.cases.labels import BRATS
from fastseg.data.cases.layouts import BRATS_ORDER
from fastseg.errors import UsageError
from fastseg.fields import parse
from fastseg.tasks.network import build_network, input_channels

PARSED = 40  # of a round, and then one command
# 1: no memory; 2: the override; 3: not in the data; 4: losses that are not finite
CODES = {0, 1, 2, 3, 4}
_NUMBERS = ["0", "-1", "1", "2", "3", "0.5", "1.0", "-0.0", "1e-300", "1e30", "1e300", "1e999",
            "nan", "inf", "-inf", str(2**31), str(2**63), str(2**64), "1" + "0" * 40,
            "9" * 5000, "1_0", "0x10", "1e", ".", "٣"]  # fmt: skip
_WORDS = ["", " ", "null", "None", "true", "yes", "a", "é", "\udc80", "$\\frac$", "\n", "\0", "[",
          "{}", "[]", "[[1]]", "{a: 1}", "!!python/object:os.system", "&a [*a]", "auto", "cpu",
          "cuda", "torch", "sgd", "ddim", "dpm++", "WT", "t1", "../x", "/dev/full", "-", "--help",
          "1,2", "99,1", "5", ",", "1,,2", "1,2,3,4", "0.7,0.2,0.1", "nan,1", "-1,-1", "0,0",
          "null,1", "true,false"]  # fmt: skip
VALUES = _NUMBERS + _WORDS
# what only says how much is computed; a large one is no mistake, but takes for ever
_LARGE = 512
_AMOUNTS = {"epochs", "data.samples_per_case"}


class Part:
    """Keys and values that nobody checked together."""

    def __init__(self, scratch: Path):
        self.data, _ = small_run(scratch)
        self.recipes = config.recipe_names()

    def round(self, rng: np.random.Generator, folder: Path) -> Counter:
        did = Counter(parsed=PARSED, commands=1)
        for _ in range(PARSED):
            name = self.recipes[rng.integers(len(self.recipes))]
            overrides = drawn(name, rng)
            (folder / "overrides.txt").write_text(f"{name} {overrides!a}")
            try:
                recipe = config.load_recipe(name, overrides)
                did["accepted"] += 1
                did["built"] += _build(recipe)
            except UsageError as error:
                assert "\n" not in str(error) or any("\n" in item for item in overrides)  # noqa: PT017
        self._train(_taken(rng), folder, did)
        return did

    def _train(self, overrides: list[str], folder: Path, did: Counter) -> None:
        key = {item.partition("=")[0] for item in overrides}
        few = [item for item in SMALL if item.partition("=")[0] not in key - _AMOUNTS]
        overrides = [item for item in overrides if item.partition("=")[0] not in _AMOUNTS]
        overrides = [item.replace("\0", "") for item in overrides]  # no command line has one
        (folder / "overrides.txt").write_text(f"fno {few + overrides!a}")
        out = folder / "run"
        code = command(
            ["train", "fno", "--data", self.data, "--out", out, *few, *overrides], folder
        )
        assert code in CODES, (code, (folder / "said.txt").read_text(errors="replace"))
        did[f"exit {code}"] += 1


def _taken(rng: np.random.Generator) -> list[str]:
    """Overrides of which most are such as the recipe takes: then it is trained."""
    for _ in range(rng.integers(1, 9)):
        overrides = drawn("fno", rng)[:2]
        try:
            config.load_recipe("fno", overrides)
        except UsageError:
            continue
        break
    return overrides


def _build(recipe: config.Recipe) -> bool:
    """Make the network, without memory; not one of thousands of channels or blocks."""
    if any(isinstance(n, int) and n > _LARGE for n in _numbers(recipe.model)):
        return False
    with torch.device("meta"):
        build_network(recipe, input_channels(recipe, BRATS_ORDER), BRATS, BRATS_ORDER)
    return True


def _numbers(value):
    if isinstance(value, dict | tuple | list):
        inner = value.values() if isinstance(value, dict) else value
        return [number for item in inner for number in _numbers(item)]
    return [value]


def drawn(name: str, rng: np.random.Generator) -> list[str]:
    """One to three overrides of a recipe's keys, most of a type that the key takes."""
    types = config.option_types(config.load_recipe(name))
    chosen = [list(types)[i] for i in rng.integers(0, len(types), rng.integers(1, 4))]
    return [f"{key}={_value(key, types[key], rng)}" for key in chosen]


def _value(key: str, kind, rng: np.random.Generator) -> str:
    for _ in range(rng.integers(0, 12)):
        value = VALUES[rng.integers(len(VALUES))]
        try:
            parse(key, value, kind)
        except UsageError:
            continue
        return value
    return VALUES[rng.integers(len(VALUES))]
