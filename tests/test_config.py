"""Recipes and their overrides."""

import dataclasses
import json

import pytest

from fastseg import config, models, recipes
from fastseg.config import Recipe, load_recipe
from fastseg.data.pipeline import LoaderConfig
from fastseg.errors import UsageError
from fastseg.fields import help_of

RECIPES = config.recipe_names()


def test_both_recipes_are_found():
    assert {"fno", "fno3d"} <= set(RECIPES)


def test_fno_has_the_settings_of_its_source():
    recipe = load_recipe("fno")
    assert recipe.model == {
        "modes": (20, 10),
        "width": 16,
        "blocks": 3,
        "branches": "per_class",
        "two_sided": True,
    }
    assert (recipe.data.batch_size, recipe.data.patch, recipe.data.flip) == (8, (192, 192), True)
    assert (recipe.optimizer, recipe.lr, recipe.schedule) == ("adam", 3e-4, "constant")
    assert recipe.epochs == 50


def test_diffusion_unet_has_the_settings_of_its_source():
    for recipe in (load_recipe("B-supervised"), load_recipe("B-ssl")):
        assert (recipe.model["width"], recipe.model["timesteps"]) == (32, 1000)
        assert recipe.model["sampling_steps"] == 10
        assert (recipe.data.batch_size, recipe.data.patch) == (32, (192, 192))
        assert (recipe.optimizer, recipe.lr, recipe.betas[0]) == ("sgd", 1e-2, 0.9)
        assert (recipe.nesterov, recipe.weight_decay, recipe.schedule) == (True, 3e-5, "poly")
        assert (recipe.epochs, recipe.patience) == (300, 50)
    assert (recipe.model["mode"], recipe.labelled_fraction) == ("ssl", 0.1)
    assert (recipe.model["unsupervised_weight"], recipe.model["theta_decay"]) == (10, 0.99)
    assert load_recipe("B-supervised", ["optimizer=adam", "lr=1e-2"]).optimizer == "adam"


def test_fno_diffusion_has_the_settings_of_its_source():
    fixed, legacy = (load_recipe(name) for name in ("C-fixed", "C-legacy"))
    assert (fixed.model["modes"], fixed.model["width"], fixed.model["blocks"]) == (16, 32, 3)
    assert (fixed.model["dropout"], fixed.model["timesteps"]) == (0.5, 1000)
    assert (fixed.optimizer, fixed.lr, fixed.betas[0]) == ("sgd", 1e-3, 0.9)
    assert (fixed.ema, fixed.weight_decay, fixed.data.batch_size) == (0.99, 3e-5, 32)
    differing = {
        key
        for key, value in config.flatten(config.to_dict(legacy)).items()
        if config.flatten(config.to_dict(fixed))[key] != value
    }
    assert differing == {"name", "model.two_sided", "model.legacy_init"}


def test_help_of_a_derived_recipe_has_the_reasons_of_its_base():
    text = recipes.describe("fno_unet")
    assert "both sources, linear betas" in text
    assert "decides by place and channel" in text
    assert recipes.describe("B-ssl") == recipes.describe("diffusion_unet_ssl")


@pytest.mark.parametrize("name", RECIPES)
def test_every_value_has_its_reason_and_every_key_its_meaning(name):
    settings = config.recipe_module(name).SETTINGS
    recipe = load_recipe(name)
    models.check(recipe.system, recipe.model)
    assert {f"model.{key}" for key in recipe.model} <= settings.keys()
    assert settings.keys() <= config.option_types(recipe).keys()
    assert "grad_clip" in settings
    assert all(setting.why for setting in settings.values())
    helps = {kind: help_of(kind) for kind in (Recipe, LoaderConfig, models.options(recipe.system))}
    assert all(text for meanings in helps.values() for text in meanings.values())
    lines = recipes.describe(name).splitlines()
    assert all(len(line.split("  ")[1:]) > 1 for line in lines)


def test_deviations_are_listed_with_the_sources_values():
    rows = {key: rest for key, *rest in recipes.deviations("fno")}
    assert rows["model.two_sided"][:2] == ["true", "false"]
    for name in ("A", "B-supervised", "C-fixed", "E-baseline"):
        found = {key: (here, source) for key, here, source, _ in recipes.deviations(name)}
        assert found["grad_clip"] == ("12.0", "null")
    assert "data.legacy_bezier" in {row[0] for row in recipes.deviations("E-full")}
    assert "model.two_sided" not in {row[0] for row in recipes.deviations("C-legacy")}
    assert all(len(set(row[1:3])) == 2 for name in RECIPES for row in recipes.deviations(name))


@pytest.mark.parametrize("name", RECIPES)
def test_round_trip_through_json_is_exact(name):
    overrides = ["lr=1.1e-3", "ema=0.9", "data.patch=16,16", "model.width=8", "modalities=t2,t1"]
    recipe = load_recipe(name, overrides)
    stored = json.loads(json.dumps(config.to_dict(recipe)))
    assert config.from_dict(stored) == recipe
    assert config.from_dict(stored) != load_recipe(name)


@pytest.mark.parametrize("name", RECIPES)
def test_help_shows_every_key_with_a_value_that_can_be_given_back(name):
    recipe = load_recipe(name)
    settings = [line.split()[0] for line in recipes.describe(name).splitlines()]
    assert [setting.partition("=")[0] for setting in settings] == list(config.option_types(recipe))
    given = load_recipe(name, settings)
    assert dataclasses.replace(given, model=recipe.model) == recipe
    made = models.options(recipe.system)
    assert made(**given.model) == made(**recipe.model)


def test_help_gives_meaning_and_reason():
    text = recipes.describe("fno")
    assert "learning rate at the start; source" in text
    assert "model.blocks=3" in text
    assert "source: three a branch" in text


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("lr=1e-3", "lr", 1e-3),
        ("lr=1", "lr", 1.0),
        ("ema=null", "ema", None),
        ("schedule=poly", "schedule", "poly"),
        ("nesterov=true", "nesterov", True),
        ("patience=50", "patience", 50),
        ("labelled_fraction=0.1", "labelled_fraction", 0.1),
        ("data.foreground_fraction=null", "data.foreground_fraction", None),
        ("grad_clip=None", "grad_clip", None),
        ("data.batch_size=4", "data.batch_size", 4),
        ("data.flip=false", "data.flip", False),
        ("data.patch=64,96,96", "data.patch", (64, 96, 96)),
        ("data.patch=(32, 32)", "data.patch", (32, 32)),
        ("model.modes=[8,4]", "model.modes", (8, 4)),
        ("model.two_sided=false", "model.two_sided", False),
        ("modalities=t2", "modalities", ("t2",)),
        ("precision=bf16", "precision", "bf16"),
        ("data.cache_dir=/some/where", "data.cache_dir", "/some/where"),
        ("batch_size=4", "data.batch_size", 4),
        ("two_sided=false", "model.two_sided", False),
        ("kernels=reference", "kernels", "reference"),
    ],
)
def test_override_changes_that_value_and_no_other(override, key, value):
    before = config.flatten(config.to_dict(load_recipe("fno")))
    after = config.flatten(config.to_dict(load_recipe("fno", [override])))
    assert after == before | {key: value}
    assert type(after[key]) is type(value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learnrate=1", "learnrate: recipe fno has no such key"),
        ("epoch=1", "did you mean epochs?"),
        ("data.batchsize=1", "did you mean data.batch_size?"),
        ("batch_sise=1", "did you mean data.batch_size?"),
        ("model.widht=1", "did you mean model.width?"),
        ("data.seed=1", "data.seed: recipe fno has no such key; did you mean seed?"),
        ("lr", "written name=value"),
        ("lr=", "lr: is '', wanted a number"),
        ("lr=fast", "lr: is 'fast', wanted a number"),
        ("lr=nan", "lr"),
        ("lr=inf", "lr"),
        ("lr=0", "lr: is 0.0"),
        ("epochs=1.5", "epochs: is '1.5', wanted a whole number"),
        ("epochs=0", "epochs: is 0, wanted at least 1"),
        ("epochs=true", "epochs"),
        (f"epochs={2**63}", "wanted numbers that int64"),
        (f"seed={10**40}", "seed"),
        ("weight_decay=1e300", "weight_decay: is 1e+300, wanted numbers that int64"),
        ("weight_decay=1e30", "weight_decay: is 1e+30, wanted at most 1e+06"),
        ("lr=1e30", "lr: is 1e+30, wanted at most 1e+06"),
        ("data.percentiles=99,1", "percentiles is (99.0, 1.0); wanted two rising numbers"),
        ("data.percentiles=5", "percentiles is (5.0,); wanted two rising numbers"),
        ("data.batch_size=18446744073709551616", "batch_size is"),
        ("data.threads=1e9", "threads"),
        ("data.flip=2", "data.flip: is '2', wanted true or false"),
        ("data.patch=a,b", "data.patch: is '[a,b]', wanted"),
        ("data.patch=1,2,3,4", "patch"),
        ("precision=fp8", "wanted one of auto, fp32, tf32, bf16, fp16"),
        ("kernels=fast", "wanted one of auto, reference"),
        ("model.width=wide", "model.width: is 'wide', wanted a whole number"),
        ("width=0", "model.width: is 0, wanted at least 1"),
        ("branches=both", "model.branches: is 'both', wanted one of per_class, shared"),
        ("model.sampling_steps=3", "no such key"),
        ("ema=1", "ema"),
        ("fractions=0.5,0.5", "fractions"),
        ("betas=0.9,1", "betas"),
        ("patience=0", "patience: is 0, wanted at least 1"),
        ("labelled_fraction=1", "labelled_fraction: is 1.0, wanted between 0 and 1"),
    ],
)
def test_wrong_override_names_the_key(override, message):
    with pytest.raises(UsageError) as caught:
        load_recipe("fno", [override])
    assert message in str(caught.value)


def test_nesterov_wants_momentum():
    with pytest.raises(UsageError, match="wanted a momentum above 0, for nesterov"):
        load_recipe("fno", ["nesterov=true", "betas=0,0.9"])


def test_unknown_recipe_suggests_the_nearest():
    with pytest.raises(UsageError, match="fno2: no such recipe; did you mean fno"):
        load_recipe("fno2")


def test_one_seed_serves_the_loader_too():
    assert load_recipe("fno", ["seed=7"]).data.seed == 7


def test_stored_recipe_with_a_foreign_key_is_refused():
    stored = config.to_dict(load_recipe("fno")) | {"warp": 9}
    with pytest.raises(UsageError, match="warp"):
        config.from_dict(stored)


def test_recipe_is_frozen():
    recipe = load_recipe("fno")
    with pytest.raises(AttributeError):
        recipe.lr = 1.0
    assert isinstance(recipe, Recipe)


def test_a_setting_has_one_name_when_training_and_when_sampling():
    for key in ("sampling_steps", "model.sampling_steps"):
        trained = load_recipe("diffusion_unet", [f"{key}=20", "decoder=diffusion"])
        assert (trained.model["sampling_steps"], trained.model["decoder"]) == (20, "diffusion")
        allowed = models.sampling_options("diffusion-unet")
        sampled = config.override_sampling(trained, allowed, [f"{key}=5", "kernels=matmul"])
        assert (sampled.model["sampling_steps"], sampled.kernels) == (5, "matmul")
        assert config.override_sampling(sampled, allowed, ["device=cpu"]).kernels == "auto"
    with pytest.raises(UsageError, match=r"width: could be data\.width or model\.width"):
        config.full_key("width", {"data.width", "model.width", "lr"})


@pytest.mark.parametrize("name", ["diffusion_unet", "C-fixed", "fno_unet", "F-v2", "F-v1", "D"])
def test_more_sampling_steps_than_timesteps_are_refused(name):
    name = "fgc2f_udiff" if name == "D" else name
    message = "^model.sampling_steps: is 40, wanted at most timesteps, 30$"
    with pytest.raises(UsageError, match=message):
        load_recipe(name, ["timesteps=30", "sampling_steps=40"])
    recipe = load_recipe(name, ["timesteps=30", "sampling_steps=3"])
    allowed = models.sampling_options(recipe.system)
    with pytest.raises(UsageError, match=message):
        config.override_sampling(recipe, allowed, ["sampling_steps=40"])


def test_runs_from_before_that_rule_are_read():
    """One of three copies of this check was missing: such runs may exist."""
    old = config.to_dict(load_recipe("diffusion_unet", ["timesteps=50"]))
    old["model"] |= {"timesteps": 5}
    recipe = config.from_dict(json.loads(json.dumps(old)))
    assert recipe.model["sampling_steps"] == 5
    allowed = models.sampling_options(recipe.system)
    assert config.override_sampling(recipe, allowed, []).model == recipe.model
