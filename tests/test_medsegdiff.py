"""MedSegDiff-V2 and V1: sizes, parts, what trains what, label maps, ensembles, learning."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from fastseg import backends, diffusion, models, use_backend
from fastseg.config import load_recipe
from fastseg.data.cases.labels import BRATS
from fastseg.models.parts import medsegdiff
from fastseg.models.parts.condition_net import ConditionNet
from fastseg.models.parts.ss_former import SSFormer

pytestmark = pytest.mark.usefixtures("seeded", "poisoned_memory", "one_thread")

TINY = {"width": 4, "multipliers": (1, 2, 2), "blocks": 1, "attention_levels": (2,),
        "condition_width": 4, "timesteps": 100, "sampling_steps": 3, "ensemble": 2}  # fmt: skip
SMALL_FORMER = {"ssformer_channels": 8, "ssformer_blocks": 1, "ssformer_heads": 2}
SYSTEMS = ("medsegdiff-v2", "medsegdiff-v1")


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def tiny(name: str = "medsegdiff-v2", classes: int = 2, regions=None, **options):
    own = SMALL_FORMER if name == "medsegdiff-v2" else {"size": (16, 16)}
    regions = regions or BRATS.region_indices()
    return models.build(
        name, in_channels=2, classes=classes, regions=regions, **TINY | own | options
    )


def batch(classes: int = 2, size=(16, 16), count: int = 2) -> dict:
    """Discs of class 1 and up, bright in their own channel."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in size], indexing="ij")
    labels = []
    for _ in range(count):
        cx, cy = torch.rand(2) - 0.5
        radius = torch.hypot(x - cx, y - cy)
        labels.append(sum((radius < 0.75 / k).long() for k in range(1, classes)))
    label = torch.stack(labels)
    image = torch.stack([(label > 0).float(), label / classes], 1)
    return {"image": image + 0.1 * torch.randn_like(image), "label": label.byte(), "progress": 0.0}


def moved(net):
    """The network with no weights at zero, as after some training."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


def on_paper(recipe: str, **options):
    chosen = load_recipe(recipe)
    with torch.device("meta"):
        net = models.build(chosen.system, in_channels=4, classes=2, **chosen.model | options)
    return net


# --- sizes


def test_parameters_of_v2():
    net = on_paper("F-v2")
    assert count(net.unet) == 113_674_370
    assert count(net.condition) == 17_788_449
    assert count(net.gate) == 2 * 96 + 1
    assert count(net.ssformer) == 27_913_280


def test_parameters_of_v1():
    net = on_paper("F-v1")
    assert [count(highway.parser) for highway in net.highways] == [
        532_480,
        270_336,
        139_264,
        73_728,
    ]
    assert count(net.unet) == 113_674_370
    assert count(net) == 132_835_971


def test_parameters_of_the_small_v2():
    net = on_paper("F-v2-small")
    assert [module.widths for module in (net.unet, net.condition)] == [
        [64, 64, 128, 128, 256, 256], [32, 64, 128, 256, 480, 480],
    ]  # fmt: skip
    assert count(net) == 53_807_139


def test_arms_have_the_parts_of_the_ablation():
    parts = {}
    for anchor in ("none", "sa", "usa"):
        for former in ("off", "nofilter", "nbp"):
            net = tiny(anchor=anchor, ssformer=former)
            parts[anchor, former] = [
                part is not None for part in (net.condition, net.gate, net.ssformer)
            ]
    assert parts["none", "off"] == [False, False, False]
    assert parts["sa", "off"] == parts["usa", "off"] == [True, True, False]
    assert parts["none", "nbp"] == [True, False, True]
    assert parts["usa", "nbp"] == [True, True, True]
    assert hasattr(tiny(anchor="usa").gate, "s")
    assert not hasattr(tiny(anchor="sa").gate, "s")
    blocks = [tiny(ssformer=kind).ssformer.into_noise[0].attention for kind in ("nofilter", "nbp")]
    assert [block.filter is None for block in blocks] == [True, False]


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("size", [(32, 32), (64, 96), (96, 32)])
def test_any_size_divisible_by_32(name, size):
    own = {"size": (64, 64)} if name == "medsegdiff-v1" else {}
    net = tiny(name, multipliers=(1,) * 6, attention_levels=(), **own)
    loss, _ = net.training_loss(batch(size=size), torch.Generator().manual_seed(0))
    loss.backward()
    assert all(p.grad is not None for p in net.parameters())
    with torch.no_grad():
        p = net.eval().predict(batch(size=size)["image"])
    assert p.shape == (2, 2, *size)
    torch.testing.assert_close(p.sum(1), torch.ones(2, *size))


@pytest.mark.parametrize("name", SYSTEMS)
def test_sizes_that_do_not_halve_are_named(name):
    with pytest.raises(ValueError, match=r"\(16, 18\).*multiples of 4"):
        tiny(name).training_loss(batch(size=(16, 18)), torch.Generator())


# --- what trains what


def test_noise_trains_no_condition_net_through_the_anchor():
    net = moved(tiny(ssformer="off", anchor_weight=0.0))
    net.training_loss(batch(), torch.Generator().manual_seed(0))[0].backward()
    assert not any(p.grad.any() for p in net.condition.parameters())
    assert all(p.grad.any() for p in net.gate.parameters())


def test_noise_trains_the_condition_net_through_the_transformer():
    net = moved(tiny(anchor_weight=0.0))
    net.training_loss(batch(), torch.Generator().manual_seed(0))[0].backward()
    assert all(p.grad.any() for p in net.condition.encoder.parameters())
    assert not any(p.grad.any() for p in net.condition.decoder.parameters())


@pytest.mark.parametrize("every", [1, 7, 10**6])
def test_the_anchor_loss_counts_at_its_steps(every):
    net = tiny(anchor_every=every, ssformer="off")
    found = batch(count=6)
    parts = net.training_loss(found, torch.Generator().manual_seed(1))[1]
    generator = torch.Generator().manual_seed(1)
    t = torch.randint(100, (6,), generator=generator)
    target = net.head.target(found["label"])
    due, cal = t % every == 0, net.condition(found["image"]).cal
    expected = torch.zeros(())
    if due.any():
        expected = due.float().mean() * medsegdiff.dice_ce(net.head, cal[due], target[due], 10.0)
    torch.testing.assert_close(parts["anchor"], expected)


def test_the_anchor_loss_of_the_published_code_is_the_squared_error():
    net = tiny(anchor_every=1, anchor_loss="mse", ssformer="off")
    found = batch(count=3)
    parts = net.training_loss(found, torch.Generator())[1]
    p = net.head.probabilities(net.condition(found["image"]).cal)
    expected = F.mse_loss(p, net.head.target(found["label"]))
    torch.testing.assert_close(parts["anchor"], expected)


def test_dice_and_cross_entropy_are_those_of_the_batch():
    net = tiny(classes=4)
    logits, label = torch.randn(3, 4, 8, 8), torch.randint(3, (3, 8, 8))
    found = medsegdiff.dice_ce(net.head, logits, net.head.target(label), 0.5)
    p, one = logits.softmax(1), F.one_hot(label, 4).movedim(-1, 1)
    dice = []
    for k in range(4):
        overlap, total = (p[:, k] * one[:, k]).sum(), p[:, k].sum() + one[:, k].sum()
        dice.append((2 * overlap + 1) / (total + 1))
    expected = 1 - sum(dice) / 4 + 0.5 * F.cross_entropy(logits, label)
    torch.testing.assert_close(found, expected)


def test_the_variance_learns_what_is_left_and_nothing_else_does():
    """With x̂_0 exact the best variance is the posterior's, v = −1; and x̂_0 gets no gradient."""
    schedule = diffusion.linear_schedule(100, scaled=True)
    clean, t = torch.randn(4, 1, 6, 6).sign(), torch.tensor([1, 20, 50, 99])
    x_t = diffusion.add_noise(schedule, clean, torch.randn_like(clean), t)

    def bound(x0, level):
        return medsegdiff.variational_bound(
            schedule, x0, torch.full_like(clean, level), clean, x_t, t
        )

    torch.testing.assert_close(bound(clean, -1.0), torch.zeros(4), atol=1e-6, rtol=0)
    assert (bound(clean, 0.0)[:2] > 1e-4).all()  # further on the two ends of the range are one
    assert (bound(clean + 0.5, -1.0) > bound(clean + 0.5, 1.0))[:2].all()
    for parameterisation in ("epsilon", "v"):
        net = moved(tiny(parameterisation=parameterisation))
        output = torch.randn(4, 2, 6, 6, requires_grad=True)
        noise = torch.randn_like(clean)
        net._noise_loss(output, clean, noise, x_t, t)[0].backward()
        wanted = diffusion.target(net.schedule, clean, noise, t, parameterisation)
        exact = 2 * (output[:, :1].detach() - wanted) / clean.numel()
        torch.testing.assert_close(output.grad[:, :1], exact)
        assert output.grad[:, 1:].any()


# --- label maps


@pytest.mark.parametrize("kind", ["binary", "softmax", "regions"])
@pytest.mark.parametrize("parameterisation", ["epsilon", "v", "x0"])
def test_sampling_a_network_that_knows_gives_the_label_back(kind, parameterisation):
    classes = 2 if kind == "binary" else 4
    net = tiny(classes=classes, head="regions" if kind == "regions" else "softmax",
               parameterisation=parameterisation, ssformer="off", anchor="none")  # fmt: skip
    label = torch.randint(classes, (2, 8, 8))
    clean = 2 * net.head.target(label) - 1
    assert clean.shape[1] == {"binary": 1, "softmax": 4, "regions": 3}[kind]

    def denoise(image, x_t, t, known):
        rows = clean[image[:, 0, 0, 0].long()]
        if parameterisation == "x0":
            return 20 * rows, None
        noise = diffusion.to_noise(net.schedule, rows, x_t, t, "x0")
        found = diffusion.target(net.schedule, rows, noise, t, parameterisation)
        return torch.cat([found, torch.zeros_like(found)], 1), None

    net.denoise = denoise
    image = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 2, 8, 8)
    for fuse in ("mean", "staple"):
        net.options = dataclasses.replace(net.options, fuse=fuse)
        p, variance = net.predict_with_variance(image)
        assert torch.equal(net.decide(p), label)
        torch.testing.assert_close(p.sum(1), torch.ones(2, 8, 8))
        assert variance.max() < 1e-4


def test_members_are_averaged_then_decided():
    net = tiny()
    members = torch.tensor([0.9, 0.9, 0.1, 0.45, 0.3]).view(5, 1, 1, 1, 1).expand(5, 1, 1, 4, 4)
    net.sample = lambda image, generator: members
    p, variance = net.predict_with_variance(torch.zeros(1, 2, 4, 4))
    torch.testing.assert_close(p[0, 1], torch.full((4, 4), members.mean().item()))
    torch.testing.assert_close(variance, members.var(0, unbiased=False))
    assert (net.decide(p) == 1).all()


# --- ensembles


def test_the_condition_net_sees_an_image_once(monkeypatch):
    net = moved(tiny(sampling_steps=4, ensemble=3, max_batch=2)).eval()
    seen, steps, gates = [], [], []
    net.condition.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    net.unet.register_forward_pre_hook(lambda module, args: steps.append(len(args[0])))
    net.gate.register_forward_pre_hook(lambda module, args: gates.append(1))
    net.predict(batch(count=2)["image"])
    assert seen == [2]
    assert gates == [1]
    assert steps == [2] * 12  # of at most max_batch rows: 6 rows, 4 steps


@pytest.mark.parametrize("anchor", ["sa", "usa", "none"])
def test_what_is_known_before_changes_nothing(anchor):
    net = moved(tiny(anchor=anchor)).eval()
    image, x_t, t = batch()["image"], torch.randn(2, 1, 16, 16), torch.tensor([3, 70])
    exact = net.denoise(image, x_t, t, None)[0]
    torch.testing.assert_close(net.denoise(image, x_t, t, net.known(image))[0], exact)


@pytest.mark.parametrize("name", SYSTEMS)
def test_an_ensemble_does_not_depend_on_its_batches(name):
    image, found = batch()["image"], []
    for max_batch in (1, 3, 64):
        torch.manual_seed(0)
        net = moved(tiny(name, max_batch=max_batch)).eval()
        found.append(net.predict(image, torch.Generator().manual_seed(3)))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-4, rtol=0)


def test_the_checkpoint_knows_whether_variance_is_learnt():
    """Nothing repeated when sampling: the option is the model's, and samplers follow it."""
    for parameterisation in ("epsilon", "v", "x0"):
        for sampler in ("ddpm", "ddim", "dpm++"):
            net = moved(tiny(parameterisation=parameterisation, sampler=sampler)).eval()
            assert net.predict(batch()["image"]).isfinite().all()
    assert "parameterisation" not in models.sampling_options("medsegdiff-v2")


# --- parts


def test_the_transformer_starts_as_nothing_and_serves_any_size():
    former = SSFormer(6, 10, time_channels=16, channels=8, blocks=2, heads=2)
    temb = torch.randn(2, 16)
    for size in ((8, 8), (5, 3), (1, 1)):
        noise, semantic = torch.randn(2, 6, *size), torch.randn(2, 10, *size)
        torch.testing.assert_close(former(noise, semantic, temb), noise)
    moved(former)
    for size in ((8, 8), (5, 3), (1, 1)):
        noise, semantic = torch.randn(2, 6, *size), torch.randn(2, 10, *size)
        first = former(noise, semantic, temb)
        assert first.shape == noise.shape
        assert not torch.allclose(first, former(noise, semantic, temb + 1), atol=1e-4)  # the filter
        assert not torch.allclose(first, former(noise, semantic + 1, temb), atol=1e-4)
    with pytest.raises(ValueError, match="semantic"):
        former(torch.randn(2, 6, 8, 8), torch.randn(2, 10, 4, 4), temb)


def test_affinities_are_real_parts_of_complex_products():
    attention = moved(SSFormer(8, 8, time_channels=16, channels=8, heads=2)).into_noise[0].attention
    x, other, temb = torch.randn(2, 8, 4, 6), torch.randn(2, 8, 4, 6), torch.randn(2, 16)
    q, k, v = (
        torch.fft.rfft2(part, norm="ortho").flatten(2).unflatten(1, (2, 4)).transpose(-1, -2)
        for part in (attention.query(x), attention.key(other), attention.value(other))
    )
    affinity = torch.sin(attention.omega * (q @ k.mH).real / 4**0.5)
    found = (affinity.to(v.dtype) @ v) / v.shape[-2] ** 0.5
    spectrum = found.transpose(-1, -2).flatten(1, 2).unflatten(2, (4, 4))
    spectrum = spectrum * attention.filter.gain((4, 6), temb)
    exact = attention.out(torch.fft.irfft2(spectrum, (4, 6), norm="ortho"))
    torch.testing.assert_close(attention(x, other, temb), exact, atol=1e-5, rtol=1e-5)


def test_the_condition_net_gives_full_size_anchors_and_the_deepest_feature():
    net = ConditionNet(3, 2, width=4, levels=4, anchor_levels=2)
    known = net(torch.randn(2, 3, 16, 24))
    assert known.cal.shape == (2, 2, 16, 24)
    assert known.anchor.shape == (2, 4 + 8, 16, 24)
    assert known.deepest.shape == (2, 32, 2, 3)
    assert ConditionNet(4, 1).widths == [32, 64, 128, 256, 480, 480]
    assert ConditionNet(4, 1).anchor_channels == 32 + 64


def test_the_highway_trains_its_convolution_and_repeats_itself():
    """The repository makes that convolution anew in every pass, of random weights."""
    net = moved(tiny("medsegdiff-v1")).eval()
    found = batch()
    args = found["image"], torch.randn(2, 1, 16, 16), torch.tensor([3, 70]), None
    assert torch.equal(net.denoise(*args)[0], net.denoise(*args)[0])
    net.train().training_loss(found, torch.Generator().manual_seed(0))[0].backward()
    assert all(p.grad.any() for highway in net.highways for p in highway.parameters())


@pytest.mark.parametrize("enhance", [True, False])
def test_the_highway_is_the_product(enhance):
    net = tiny("medsegdiff-v1", enhance=enhance)
    highway, x, feature = net.highways[0], torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    f = highway.match(feature)
    passed = torch.fft.irfft2(torch.fft.rfft2(f) * highway.parser.gain((8, 8)), (8, 8))
    norm = lambda y: F.layer_norm(y, y.shape[1:])  # noqa: E731
    exact = norm(x) * norm(passed) * x if enhance else x * passed * f.mean((2, 3), keepdim=True)
    torch.testing.assert_close(highway(x, feature), exact, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"anchor": "add"}, "model.anchor: is 'add', wanted one of none, sa, usa"),
        ({"ssformer": "on"}, "ssformer: is 'on', wanted one of off, nofilter, nbp"),
        ({"parameterisation": "eps"}, "parameterisation.*epsilon"),
        ({"fuse": "vote"}, "fuse.*mean, staple"),
        ({"sampler": "euler"}, "sampler"),
        ({"anchor_every": 0}, "anchor_every: is 0"),
        ({"ensemble": 0}, "ensemble: is 0"),
        ({"sampling_steps": 101}, "sampling_steps: is 101, wanted at most timesteps, 100"),
        ({"anchor_levels": 3}, "anchor_levels: is 3, wanted 1 to 2"),
        ({"head": "region"}, "head: is 'region', wanted one of softmax, regions"),
        ({"ssformer_heads": 3}, "heads: is 3"),
    ],
)
def test_wrong_options_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        tiny(classes=4, **options)


def test_v1_refuses_sizes_its_levels_do_not_fit():
    with pytest.raises(ValueError, match=r"size: is \(18, 16\), wanted two multiples of 4"):
        tiny("medsegdiff-v1", size=(18, 16))


# --- learning


@pytest.mark.parametrize(("name", "steps"), [("medsegdiff-v2", 20), ("medsegdiff-v1", 10)])
def test_kernels_give_the_losses_of_the_reference(name, steps):
    if not backends()["cpu"]:
        pytest.skip("no CPU kernels in this build")
    losses = {}
    for kernels in ("reference", "cpu"):
        torch.manual_seed(0)
        net, generator = tiny(name), torch.Generator().manual_seed(0)
        optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
        with use_backend(kernels):
            losses[kernels] = []
            for _ in range(steps):
                loss, _ = net.training_loss(batch(), generator)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses[kernels].append(loss.item())
    assert losses["cpu"] == pytest.approx(losses["reference"], abs=1e-4)


def trained(net, steps: int, rate: float, draw):
    optimizer, generator = torch.optim.Adam(net.parameters(), rate), torch.Generator()
    for _ in range(steps):
        loss, _ = net.training_loss(draw(), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


@torch.no_grad()
def class_dice(net, found: dict) -> list[float]:
    chosen = net.decide(net.predict(found["image"]))
    scores = []
    for k in range(1, net.head.classes):
        mine, true = chosen == k, found["label"] == k
        scores.append(float(2 * (mine & true).sum() / (mine.sum() + true.sum())))
    return scores


def test_multiclass_training_is_as_good_as_that_of_regions():
    """On images it has not seen, of three nested discs; mean class Dice within 0.05."""
    scores = {}
    for head in ("softmax", "regions"):
        torch.manual_seed(0)
        net = tiny(classes=4, regions=((1, 2, 3), (2, 3), (3,)), head=head, width=8,
                   parameterisation="x0")  # fmt: skip
        trained(net, 120, 4e-3, lambda: batch(4, count=4))
        scores[head] = class_dice(net, batch(4, count=16))
    assert min(scores["softmax"] + scores["regions"]) > 0.85
    means = {head: sum(found) / 3 for head, found in scores.items()}
    assert abs(means["softmax"] - means["regions"]) < 0.05


def test_four_slices_are_learnt_by_their_noise():
    found = batch(count=4)
    net = tiny("medsegdiff-v1", width=8, sampling_steps=5)
    assert min(class_dice(trained(net, 120, 4e-3, lambda: found), found)) > 0.9
