"""What every system has in common: typed options, defaults in one place, one contract."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from fastseg import config, models
from fastseg.diffusion import Sampling
from fastseg.errors import UsageError
from fastseg.fields import documented, for_sampling, help_of, inherited
from fastseg.recipes.__main__ import README, renewed
from fastseg.studies.arms import STUDIES

PACKAGE = Path(models.__file__).parents[1]
DIFFUSIONS = sorted(name for name in models.SYSTEMS if issubclass(models.options(name), Sampling))


@pytest.mark.parametrize("name", models.SYSTEMS)
def test_every_option_has_its_type_its_help_and_a_default_that_fits(name):
    kind = models.options(name)
    assert issubclass(kind, models.Options)
    made = kind()
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.width = 1
    assert all(text and text == text.strip() for text in help_of(kind).values())
    assert kind.from_dict(dataclasses.asdict(made)) == made
    assert models.sampling_options(name) == for_sampling(kind) <= help_of(kind).keys()


@pytest.mark.parametrize("name", models.SYSTEMS)
def test_a_wrong_option_is_named_with_what_there_is(name):
    with pytest.raises(UsageError, match=r"^model\.widht: the system has no .* mean (width|modes)"):
        models.check(name, {"widht": 8})
    for value in ("wide", True, 1.5j, float("nan"), (4,)):
        with pytest.raises(UsageError, match=r"^model\.width: is .*, wanted a (whole )?number$"):
            models.check(name, {"width": value})


def test_all_systems_of_diffusion_have_the_options_of_sampling():
    assert DIFFUSIONS == ["diffusion-unet", "fgc2f-udiff", "fno-diffusion", "fno-unet",
                          "medsegdiff-v1", "medsegdiff-v2"]  # fmt: skip
    for name in DIFFUSIONS:
        assert for_sampling(Sampling) <= models.sampling_options(name)


@pytest.mark.parametrize("name", DIFFUSIONS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timesteps": 30, "sampling_steps": 31}, "sampling_steps: is 31, wanted at most timest"),
        ({"sampling_steps": -1}, "sampling_steps: is -1, wanted at least 0"),
        ({"sampler": "euler"}, "sampler: is 'euler', wanted one of ddpm, ddim, dpm++"),
        ({"sampler": "ddpm", "eta": 0.5}, "eta: is 0.5"),
        ({"ensemble": 0}, "ensemble: is 0, wanted at least 1"),
        ({"max_batch": 0}, "max_batch: is 0, wanted at least 1"),
        ({"timesteps": 0}, "timesteps: is 0, wanted at least 1"),
    ],
    ids=str,
)
def test_sampling_is_checked_alike_in_every_system(name, options, message):
    with pytest.raises(UsageError) as caught:
        models.check(name, options)
    assert str(caught.value).startswith(f"model.{message}")


def test_drawing_is_the_ensemble_of_the_options():
    sampling = Sampling(timesteps=8, sampling_steps=0, ensemble=3, max_batch=2)
    calls = []

    def model_for(rows):
        calls.append(len(rows))
        return lambda x, t: torch.zeros_like(x)

    found = sampling.draw(model_for, (2, 1, 4), sampling.schedule(), torch.Generator())
    assert found.shape == (3, 2, 1, 4)
    assert calls == [2, 2, 2]


def test_the_contract_has_a_default_for_all_that_a_driver_asks():
    net = models.build("fno", in_channels=1, classes=3, modes=(4, 3), width=4, blocks=1)
    assert isinstance(net, models.System)
    assert (net.axes, net.multiple, net.on_step, net.predicts_variance) == (2, 1, None, False)
    assert net.after_step() is None
    p = torch.rand(2, 3, 5, 5)
    assert torch.equal(net.decide(p), p.argmax(1))
    assert models.System(models.Options()).axes is None


def test_an_inherited_field_keeps_its_help_and_marks():
    @dataclasses.dataclass(frozen=True)
    class Base(models.Options):
        steps: int = documented("of one draw", 3, sampling=True, least=1)

    @dataclasses.dataclass(frozen=True)
    class More(Base):
        steps: int = inherited(Base, "steps", 5)

    assert (More().steps, help_of(More), for_sampling(More)) == (5, {"steps": "of one draw"},
                                                                 {"steps"})  # fmt: skip
    with pytest.raises(UsageError, match="steps: is 0"):
        More(steps=0)


def test_the_readme_has_all_systems_recipes_and_deviations():
    text = README.read_text()
    assert renewed(text) == text, "python -m fastseg.recipes writes the table"
    assert len(text.splitlines()) <= 150
    listed = text.partition("## One system")[0]
    assert all(f"| `{name}` |" in listed for name in models.SYSTEMS)
    assert all(f"`{name}`" in listed for name in config.recipe_names())
    assert all(f"`{name}`" in text for name in [*config.ALIASES, *STUDIES])


def test_nobody_looks_whether_a_system_has_what_all_have():
    probe = re.compile(r'\b(hasattr|getattr)\((self\.)?(net|module|run\.module|encoder), ?"')
    found = [path for path in PACKAGE.rglob("*.py") if probe.search(path.read_text())]
    assert not found
