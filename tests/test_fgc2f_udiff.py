"""FgC2F-UDiff: masks, guides, the masked loss and its sampler, each by hand."""

import itertools

import pytest
import torch

from fastseg import diffusion, models, use_backend
from fastseg.config import load_recipe
from fastseg.fields import types_of
from fastseg.models.fgc2f_udiff import Options, all_masks

pytestmark = pytest.mark.usefixtures("seeded", "one_thread")

BRATS = ("t1", "t1ce", "t2", "flair")
SMALL = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention_levels": (1,),
         "sampling_steps": 4, "sampler": "ddim"}  # fmt: skip


def build(modalities=BRATS, **options):
    torch.manual_seed(0)
    return models.build("fgc2f-udiff", in_channels=len(modalities), classes=0,
                        modalities=modalities, **SMALL | options)  # fmt: skip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(batch=2, size=16, modalities=4):
    return torch.rand(batch, modalities, size, size, generator=generator(9)) * 2 - 1


def mask(*names, modalities=BRATS):
    return torch.tensor([[name in names for name in modalities]])


def test_parameters_of_the_recipe():
    options = load_recipe("fgc2f_udiff").model
    with torch.device("meta"):
        net = models.build("fgc2f-udiff", in_channels=4, classes=4, modalities=BRATS, **options)
        strict = models.build("fgc2f-udiff", in_channels=4, classes=4, modalities=BRATS,
                              **options | {"availability_code": False})  # fmt: skip
    count = sum(p.numel() for p in net.parameters())
    # attention at the coarsest of four levels in the place of the third: 256 channels, not 192
    at_third, at_fourth = (5 * (2 * c + 4 * (c * c + c)) for c in (192, 256))
    assert count == 21_717_636 - at_third + at_fourth + (4 * 256 + 256)
    assert count - sum(p.numel() for p in strict.parameters()) == 4 * 256 + 256
    assert net.unet.first.in_channels == 5
    assert net.unet.last.out_channels == 4


def test_the_schedule_ends_in_noise():
    bars = build().schedule.alphas_cumprod
    assert len(bars) == 200
    assert bars[-1].item() == pytest.approx(3.0e-5, rel=0.02)
    assert diffusion.linear_schedule(200).alphas_cumprod[-1].item() == pytest.approx(
        0.132, rel=0.01
    )
    for timesteps in (50, 100, 500):
        assert build(timesteps=timesteps).schedule.alphas_cumprod[-1] < 1e-4


@pytest.mark.parametrize(
    ("available", "low", "high"),
    [
        (("t2", "t1ce"), "t2", "t1ce"),
        (("flair",), "flair", "flair"),
        (("t1", "t2"), "t1", "t2"),
        (("t1", "t1ce", "flair"), "t1", "t1ce"),
    ],
)
@pytest.mark.parametrize("modalities", [BRATS, ("flair", "t2", "t1", "t1ce")])
def test_guides_come_by_name_from_the_scan_order(available, low, high, modalities):
    net = build(modalities)
    found = [
        modalities[index] for index in net.guide.sources(mask(*available, modalities=modalities))
    ]
    assert found == [low, high]


def test_three_modalities_have_their_own_order():
    ixi = ("pd", "t1", "t2")
    net = build(ixi)
    assert net.unet.first.in_channels == 4
    for available, low, high in ((("t1", "pd"), "t1", "pd"), (("t2", "pd"), "t2", "pd")):
        found = net.guide.sources(mask(*available, modalities=ixi))
        assert [ixi[index] for index in found] == [low, high]
    assert len(net.masks()) == 6
    drawn = net.draw_masks(200, 0.9, generator())
    assert set((~drawn).sum(1).tolist()) == {1, 2}


def test_every_mask_is_served_once():
    masks = all_masks(4)
    assert masks.shape == (14, 4)
    assert len({tuple(row) for row in masks.tolist()}) == 14
    assert (~masks).sum(1).tolist() == [1] * 4 + [2] * 6 + [3] * 4


@pytest.mark.parametrize(
    ("progress", "chances"),
    [(0.0, (1, 0, 0)), (0.33, (1, 0, 0)), (0.34, (0.3, 0.7, 0)), (0.67, (0.2, 0.3, 0.5))],
)
def test_curriculum_takes_away_more_and_more(progress, chances):
    drawn = build().draw_masks(4000, progress, generator())
    missing = (~drawn).sum(1)
    for count, chance in enumerate(chances, 1):
        assert (missing == count).float().mean().item() == pytest.approx(chance, abs=0.03)
    assert (~drawn).float().mean(0).std() < 0.02  # each modality as often as any other
    without = (~build(curriculum=False).draw_masks(4000, progress, generator())).sum(1)
    assert (without == 3).float().mean().item() == pytest.approx(0.5, abs=0.03)


def test_one_task_has_one_mask():
    net = build(missing="t1ce, flair")
    assert net.masks().tolist() == mask("t1", "t2").tolist()
    assert net.draw_masks(3, 0.0, generator()).tolist() == mask("t1", "t2").tolist() * 3


@pytest.mark.parametrize("guide", types_of(Options)["guide"].__args__)
@pytest.mark.parametrize("selection", ["dynamic", "fixed"])
def test_sampling_sees_the_guides_of_training(guide, selection):
    net, x = build(guide=guide, selection=selection, timesteps=24), images(1, 24)
    available = mask("t1", "t2", "flair")
    coarse, fine = net.guides(x, available)
    for t in range(24):
        found = net.guide_at(x, available, torch.tensor([t]))
        torch.testing.assert_close(found, coarse if t >= 12 else fine)
    t1, flair = x[:, :1], x[:, 3:]
    low, high = net.guide.filter(t1)[0], (2 * net.guide.filter(flair)[1]).clamp(-1, 1)
    if selection == "fixed":
        high = (2 * net.guide.filter(t1)[1]).clamp(-1, 1)
    exact = {"both": (low, high), "swapped": (high, low), "low": (low, low), "high": (high, high),
             "none": (0 * t1, 0 * t1), "unfiltered": (t1, t1)}[guide]  # fmt: skip
    for one, other in zip((coarse, fine), exact, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", ["epsilon", "x0", "v"])
def test_loss_is_that_of_the_missing_ones(kind, monkeypatch):
    net, x, seen = build(parameterisation=kind), images(3), {}

    def denoise(images, available, noisy, guide, t):
        seen.update(available=available, noisy=noisy, t=t)
        return torch.zeros_like(images)

    monkeypatch.setattr(net, "denoise", denoise)
    loss, parts = net.training_loss({"image": x, "progress": 0.9}, generator())
    signal, noise = (net.schedule.at(name, seen["t"], x) for name in ("signal", "noise"))
    epsilon = (seen["noisy"] - signal * x) / noise
    target = {"epsilon": epsilon, "x0": x, "v": signal * epsilon - noise * x}[kind]
    missing = ~seen["available"]
    assert loss.item() == pytest.approx(target[missing].square().mean().item(), rel=1e-4)
    assert set(parts) == {"coarse", "fine"}


def test_the_network_gets_available_images_clean_and_no_others(monkeypatch):
    net, x, seen = build(), images(), {}
    monkeypatch.setattr(net.unet, "forward", lambda x, t, code: seen.update(x=x, code=code) or x)
    available, noisy, guide = mask("t1", "flair").expand(2, -1), images(2) + 3, images(2)[:, :1]
    net.denoise(x, available, noisy, guide, torch.tensor([1, 2]))
    exact = torch.stack([x[:, 0], noisy[:, 1], noisy[:, 2], x[:, 3], guide[:, 0]], 1)
    assert torch.equal(seen["x"], exact)
    assert torch.equal(seen["code"], net.code(available.float()))


@pytest.mark.parametrize("kind", ["epsilon", "x0", "v"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++"])
def test_an_oracle_is_followed(kind, sampler, monkeypatch):
    truth = images()
    net = build(parameterisation=kind, sampler=sampler, sampling_steps=20, ensemble=2)

    def oracle(images, available, noisy, guide, t):
        signal, noise = (net.schedule.at(name, t, noisy) for name in ("signal", "noise"))
        x0 = truth.repeat(len(noisy) // len(truth), 1, 1, 1)
        epsilon = (noisy - signal * x0) / noise
        return {"epsilon": epsilon, "x0": x0, "v": signal * epsilon - noise * x0}[kind]

    monkeypatch.setattr(net, "denoise", oracle)
    available = torch.cat([mask("t1"), mask("t1ce", "t2", "flair")])
    found = net.synthesise(truth, available, generator())
    torch.testing.assert_close(found, truth, rtol=1e-3, atol=1e-3)


def test_hidden_images_are_not_looked_at_and_given_ones_not_changed():
    net, x = build(parameterisation="x0"), images()
    torch.nn.init.normal_(net.unet.last.weight, std=0.1)
    available = torch.cat([mask("t1", "t1ce"), mask("flair")])
    poisoned = x.masked_fill(~available[:, :, None, None], float("nan"))
    found = net.synthesise(poisoned, available, generator())
    assert torch.equal(found, net.synthesise(x, available, generator()))
    assert torch.equal(found[available], x[available])
    hidden = found[~available]
    assert hidden.abs().max() <= 1
    assert not torch.equal(hidden, net.synthesise(x, available, generator(1))[~available])


def test_guides_are_filtered_once_an_image(monkeypatch):
    net, calls = build(ensemble=3, sampling_steps=10, max_batch=2), []
    original = net.guide.filter.forward
    monkeypatch.setattr(net.guide.filter, "forward", lambda x: calls.append(len(x)) or original(x))
    net.synthesise(images(), mask("t1").expand(2, -1), generator())
    assert calls == [2, 2]  # the low-pass and the high-pass source


def test_sampling_options_change_the_answer():
    x, available = images(1), mask("t1", "t2")
    changes = ({}, {"eta": 1.0}, {"sampler": "dpm++"}, {"sampling_steps": 3}, {"ensemble": 2},
               {"sampler": "ddpm"})  # fmt: skip
    found = []
    for change in changes:
        net = build(parameterisation="x0", **change)
        torch.nn.init.normal_(net.unet.last.weight, std=0.1, generator=generator())
        found.append(net.synthesise(x, available, generator()))
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(found, 2))


def test_kernels_and_reference_train_alike():
    losses = {}
    for backend in ("reference", "cpu"):
        net = build(timesteps=24)
        adam, draws, losses[backend] = torch.optim.Adam(net.parameters(), 1e-3), generator(), []
        for step in range(50):
            with use_backend(backend):
                loss, _ = net.training_loss({"image": images(), "progress": step / 50}, draws)
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses[backend].append(loss.item())
    torch.testing.assert_close(*map(torch.tensor, losses.values()), rtol=0, atol=1e-4)
    assert losses["cpu"][-1] < losses["cpu"][0]


def test_four_slices_are_learned_by_heart():
    base = torch.nn.functional.interpolate(images(4, 4)[:, :1], size=16, mode="bilinear")
    smooth = torch.cat([base, -base, 2 * base.abs() - 1, base.square()], 1)
    net = build(parameterisation="x0", curriculum=False)
    adam, draws = torch.optim.Adam(net.parameters(), 4e-3), generator()
    for _ in range(200):
        loss, _ = net.training_loss({"image": smooth, "progress": 0.0}, draws)
        adam.zero_grad()
        loss.backward()
        adam.step()
    available = mask("t1", "t2").expand(4, -1)
    found = net.eval().synthesise(smooth, available, generator())
    hidden = ~available
    error = (found - smooth)[hidden].square().mean()
    assert error < 0.1 * (smooth[hidden] - smooth[hidden].mean()).square().mean()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"guide": "median"}, "guide"),
        ({"selection": "random"}, "selection"),
        ({"parameterisation": "score"}, "parameterisation"),
        ({"sampling_steps": 300}, "sampling_steps"),
        ({"timesteps": 20, "sampling_steps": 5}, "timesteps"),
        ({"ensemble": 0}, "ensemble"),
        ({"missing": "pd"}, "missing"),
        ({"missing": "t1,t1ce,t2,flair"}, "missing"),
        ({"order": ("t1", "t2")}, "order.*t1ce, flair too, or modalities=t1,t2$"),
        ({"modalities": ("t1",)}, "modalities"),
    ],
)
def test_wrong_options_are_named(options, name):
    with pytest.raises(ValueError, match=name):
        build(**options)
