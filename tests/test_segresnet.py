"""SegResNet with its Fourier bottleneck and domain head, and the 3-D U-Net."""

import dataclasses
import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastseg import config, models
from fastseg.data.cases.labels import BRATS
from fastseg.errors import UsageError
from fastseg.models.parts.domain import DomainHead, dann_curve, reverse_gradient
from fastseg.models.parts.segmenter import flipped_mean
from fastseg.train import lr_at

pytestmark = pytest.mark.usefixtures("seeded", "poisoned_memory", "one_thread")

SYSTEMS = ("segresnet", "segresnet-vffc", "unet3d")
E_RECIPES = ("segresnet", "segresnet_bezier", "segresnet_vffc", "segresnet_grl", "segresnet_full")


def system(name="segresnet-vffc", channels=1, **options):
    regions = {"head": "regions", "regions": BRATS.region_indices()}
    return models.build(name, in_channels=channels, classes=4, **regions | options)


def tiny(name="segresnet-vffc", **options):
    return system(name, width=8, **({} if name == "unet3d" else {"dropout": 0.0}) | options)


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def batch(size=16, samples=2, **more):
    label = torch.zeros(samples, size, size, size, dtype=torch.uint8)
    label[:, 3:12, 4:13, 2:11] = 2
    label[:, 4:10, 6:11, 4:9] = 3
    label[:, 5:8, 7:9, 5:8] = 1
    image = 0.1 * torch.rand(samples, 1, size, size, size) + label[:, None].float() / 4
    return {"image": image, "label": label, "progress": 0.5, "domain": torch.tensor([2, 0])} | more


# --- parameters


def test_parameters_are_those_of_the_source():
    with torch.device("meta"):
        assert count(system("segresnet")) == 18_796_035
        vffc = system("segresnet-vffc")
        assert count(vffc) == 27_060_483
        assert count(vffc.bottleneck) == 8_264_448
        assert count(system("segresnet-vffc", domains=3).domain) == 16_643
        assert count(system("unet3d")) == 19_072_899
        wide = system("unet3d", vffc_blocks=3)
        assert count(wide.bottom[1]) == 33_043_968
        assert count(wide.bottom[0]) == 256 * 512 + 512


def test_segresnet_without_bottleneck_is_monais():
    from monai.networks.nets import SegResNet

    ours = tiny("segresnet", dropout=0.2).eval()
    theirs = SegResNet(3, 8, 1, 3, 0.2, blocks_down=(1, 2, 2, 4), blocks_up=(1, 1, 1)).eval()
    theirs.load_state_dict(ours.net.state_dict())
    image = torch.randn(1, 1, 24, 16, 8)
    assert torch.equal(ours(image), theirs(image))


@pytest.mark.parametrize("name", E_RECIPES)
def test_one_volume_a_process_meets_no_batch_norm(name):
    recipe = config.load_recipe(name)
    with torch.device("meta"):
        net = system(recipe.system, **recipe.model)
        synced = system(recipe.system, **recipe.model | {"vffc_norm": "sync", "vffc_blocks": 1})
    kinds = [type(module) for module in net.modules()]
    assert not [kind for kind in kinds if issubclass(kind, nn.modules.batchnorm._BatchNorm)]
    norms = {type(m) for m in synced.bottleneck.modules() if hasattr(m, "running_mean")}
    assert norms == {nn.SyncBatchNorm}


# --- the networks at work


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SYSTEMS)
def test_sizes_that_are_no_powers_of_two_in_sixteen_bits(name, dtype):
    net = tiny(name, channels=2, **({"vffc_blocks": 1} if name != "segresnet" else {}))
    image = torch.randn(1, 2, 24, 16, 40)
    with torch.autocast("cpu", dtype):
        logits = net(image)
        loss, _ = net.training_loss(batch(image=torch.randn(2, 2, 16, 16, 16)), torch.Generator())
        p = net.eval().predict(image)
    loss.backward()
    assert all(torch.isfinite(q.grad).all() for q in net.parameters())
    assert logits.shape == (1, 3, 24, 16, 40)
    assert torch.isfinite(logits.float()).all()
    assert p.dtype == torch.float32
    torch.testing.assert_close(p.sum(1), torch.ones(1, 24, 16, 40))
    with pytest.raises(ValueError, match=r"\(20, 16, 16\), wanted three multiples of 8"):
        net(image[:, :, :20, :, :16])


@pytest.mark.parametrize("name", SYSTEMS)
def test_checkpointing_gives_the_same_gradients(name):
    gradients = []
    for again in (False, True):
        torch.manual_seed(1)
        net = tiny(name, checkpointing=again)
        net.training_loss(batch(), torch.Generator())[0].backward()
        gradients.append([p.grad for p in net.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_loss_is_one_minus_dice_of_regions():
    net, given = tiny("segresnet"), batch()
    loss, parts = net.training_loss(given, torch.Generator())
    p = net(given["image"]).detach().sigmoid().double()
    terms = []
    for sample, (region, classes) in itertools.product(
        range(2), enumerate(((1, 2, 3), (1, 3), (3,)))
    ):
        truth = torch.isin(given["label"][sample], torch.tensor(classes)).double()
        q = p[sample, region]
        terms.append(1 - (2 * (q * truth).sum() + 1e-5) / (q.sum() + truth.sum() + 1e-5))
    assert loss.item() == pytest.approx(float(sum(terms)) / 6, abs=1e-5)
    assert parts.keys() == {"dice"}


@pytest.mark.parametrize("name", SYSTEMS)
def test_regions_start_as_small_as_told(name):
    image = torch.rand(2, 1, 16, 16, 16)
    means = [tiny(name, prior=prior)(image).sigmoid().mean() for prior in (0.0, 0.01)]
    assert means[0] > 0.2
    assert means[1] < 0.05


SHALLOW = {
    "segresnet-vffc": {"blocks_down": (1, 1), "blocks_up": (1,)},
    "unet3d": {"levels": 3},
}


@pytest.mark.parametrize("name", SHALLOW)
def test_a_few_steps_learn_a_volume(name):
    net = tiny(name, domains=3, vffc_blocks=1, **SHALLOW[name])
    given = batch(samples=1, domain=torch.tensor([1]))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05, amsgrad=True)
    for _ in range(40):
        loss, parts = net.training_loss(given, torch.Generator())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert parts["dice"] < 0.3
    decided = net.decide(net.predict(given["image"]))
    assert (decided == given["label"]).float().mean() > 0.95


# --- the domain head


def test_curve_of_the_reversal():
    shares = (0, 0.1, 0.33, 0.5, 1)
    values = [dann_curve(p) for p in shares]
    assert values == pytest.approx([math.tanh(5 * p) for p in shares])
    assert [round(value, 2) for value in values] == [0, 0.46, 0.93, 0.99, 1]


def test_gradients_are_reversed_and_values_are_not():
    x = torch.randn(3, 4, requires_grad=True)
    y = reverse_gradient(x, 0.25)
    assert torch.equal(x, y)
    (y**2).sum().backward()
    torch.testing.assert_close(x.grad, -0.25 * 2 * x.detach())


@pytest.mark.parametrize("schedule", ["dann", "constant"])
def test_gradient_that_enters_the_network_is_reversed_and_logged(schedule):
    head = DomainHead(6, 3, weight=0.3, schedule=schedule)
    features = torch.randn(4, 6, 2, 3, 2, requires_grad=True)
    domain, progress = torch.tensor([0, 2, 1, 2]), 0.2
    loss, parts = head(features, domain, progress)
    loss.backward()
    pooled = features.detach().mean((2, 3, 4)).requires_grad_()
    logits = head.classifier(F.layer_norm(pooled, (6,)))
    ce = F.cross_entropy(logits, domain)
    [plain] = torch.autograd.grad(ce, pooled)
    weight = 0.3 * (dann_curve(0.2) if schedule == "dann" else 1)
    entered = -weight * dann_curve(0.2) * plain
    torch.testing.assert_close(features.grad.sum((2, 3, 4)), entered)
    assert float(parts["domain_gradient"]) == pytest.approx(float(entered.norm()), rel=1e-5)
    assert float(parts["domain_gradient"]) > 0
    assert loss.item() == pytest.approx(weight * ce.item())
    assert float(parts["domain_weight"]) == pytest.approx(weight)
    assert float(parts["reversal"]) == pytest.approx(dann_curve(0.2))
    hits = (logits.argmax(1) == domain).float().mean()
    assert float(parts["domain_accuracy"]) == float(hits)


def test_features_cannot_outgrow_the_classifier():
    """Domains that nothing tells apart: growing is all that the encoder can do against it."""
    torch.manual_seed(0)
    head, encoder = DomainHead(6, 3, weight=1.0, schedule="constant"), nn.Conv3d(4, 6, 1)
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=0.05)
    for _ in range(200):
        loss, parts = head(encoder(torch.randn(8, 4, 1, 1, 1)), torch.randint(3, (8,)), 1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(parts["domain_ce"]) < 5


def test_system_adds_the_domain_loss_and_logs_it():
    net, given = tiny("segresnet-vffc", domains=3, domain_weight=0.2), batch()
    loss, parts = net.training_loss(given, torch.Generator())
    share = 0.2 * dann_curve(0.5)
    assert loss.item() == pytest.approx(float(parts["dice"] + share * parts["domain_ce"]))
    assert parts.keys() == {"dice", "domain_ce", "domain_accuracy", "domain_gradient", "reversal",
                            "domain_weight"}  # fmt: skip
    assert parts["domain_gradient"] > 0
    early = net.training_loss(given | {"progress": 0.05}, torch.Generator())[1]
    assert early["domain_gradient"] < parts["domain_gradient"]


def test_domains_that_do_not_fit_are_named():
    net = tiny("segresnet", domains=2)
    with pytest.raises(ValueError, match=r"domain: is \[1, 2\], wanted one of 0 … 1"):
        net.training_loss(batch(domain=torch.tensor([1, 2])), torch.Generator())
    given = batch()
    del given["domain"]
    with pytest.raises(ValueError, match=r"set data\.bezier_domains"):
        net.training_loss(given, torch.Generator())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("segresnet", {"domains": 3, "domain_weight": 0.0}, "model.domain_weight: is 0.0"),
        ("segresnet", {"domains": 1}, "model.domains: is 1"),
        ("segresnet", {"domains": 2, "domain_schedule": "off"}, "domain_schedule"),
        ("segresnet", {"width": 12}, "model.width: is 12, wanted a multiple of 8"),
        ("segresnet", {"blocks_up": (1, 1)}, "model.blocks_up: is \\(1, 1\\), wanted 3"),
        ("segresnet", {"vffc_norm": "layer"}, "model.vffc_norm: is 'layer', wanted one of group"),
        ("segresnet-vffc", {"vffc_blocks": 0}, "model.vffc_blocks: is 0"),
        ("unet3d", {"levels": 1}, "model.levels: is 1, wanted at least 2"),
        ("unet3d", {"head": "mask"}, "model.head: is 'mask'"),
        ("segresnet", {"prior": 1.5}, "model.prior: is 1.5"),
    ],
)
def test_wrong_options_are_named(name, options, message):
    with pytest.raises(UsageError, match=message):
        system(name, **options)


# --- mirrored predictions and the schedule


def test_mean_over_mirror_images_of_what_knows_no_sides_is_one_pass():
    blur = torch.rand(1, 1, 1, 1, 1).expand(1, 1, 3, 3, 3)
    predict = lambda x: F.conv3d(x, blur, padding=1).sigmoid()  # noqa: E731
    image = torch.randn(2, 1, 5, 6, 7)
    torch.testing.assert_close(flipped_mean(predict, image), predict(image))
    once = flipped_mean(lambda x: x + torch.arange(7.0), image)
    torch.testing.assert_close(once, image + 3)


def test_flips_change_a_networks_prediction_and_are_a_sampling_option():
    net, image = tiny("segresnet").eval(), torch.randn(1, 1, 8, 8, 16)
    assert models.sampling_options("segresnet-vffc") == {"flips"}
    plain = net.predict(image)
    net.options = dataclasses.replace(net.options, flips=True)
    both = net.predict(image)
    assert not torch.allclose(plain, both, atol=1e-4)
    torch.testing.assert_close(net.predict(image.flip(2, 4)).flip(2, 4), both)


@pytest.mark.parametrize("name", ["E-baseline", "E-bezier", "E-vffc", "E-grl", "E-full", "unet3d"])
def test_rate_falls_with_every_step_to_the_end(name):
    recipe = config.load_recipe(name)
    assert (recipe.optimizer, recipe.amsgrad, recipe.lr, recipe.weight_decay, recipe.epochs) == (
        ("adam", True, 1e-4, 1e-5, 100)
    )  # fmt: skip
    rates = [lr_at(recipe, step, 1000) for step in range(1001)]
    assert all(a > b for a, b in itertools.pairwise(rates))
    assert rates[500] == pytest.approx(5e-5)
    assert rates[1000] == pytest.approx(0, abs=1e-12)
    assert rates[100] == pytest.approx(5e-5 * (1 + math.cos(math.pi / 10)))


def test_configurations_differ_in_what_they_are_named_after():
    flat = {
        name: config.flatten(config.to_dict(config.load_recipe(name)))
        for name in ("E-baseline", "E-bezier", "E-vffc", "E-grl", "E-full")
    }

    def differing(a: str, b: str) -> set[str]:
        return {key for key in flat[a] if flat[a][key] != flat[b][key]} - {"name", "system"}

    assert differing("E-baseline", "E-bezier") == {"data.bezier_domains"}
    assert differing("E-bezier", "E-vffc") == {"model.vffc_blocks"}
    assert differing("E-bezier", "E-grl") == {"model.domains"}
    assert differing("E-vffc", "E-full") == {"model.domains"}
    for name in ("E-grl", "E-full"):
        assert len(flat[name]["data.bezier_domains"]) == flat[name]["model.domains"] == 3
        assert flat[name]["model.domain_weight"] == 0.1
