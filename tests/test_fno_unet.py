"""The gated successor: parameters, arms, placements, fusion, sizes; and what all systems of the
three-decoder scheme do as networks.
"""

import warnings

import pytest
import torch

import fastseg
from fastseg import models
from fastseg.errors import UsageError
from fastseg.models.fno_unet import Fused
from fastseg.models.parts.fusion import FUSIONS

pytestmark = [
    pytest.mark.usefixtures("seeded", "poisoned_memory", "one_thread"),
    pytest.mark.filterwarnings("ignore:modes"),
]

C, K = 2, 3
EVERYWHERE = ("encoder", "bottleneck", "decoder")
SYSTEMS = {
    "B": ("diffusion-unet", {}),
    "C-fixed": ("fno-diffusion", {"modes": 3}),
    "C-legacy": ("fno-diffusion", {"modes": 3, "two_sided": False, "legacy_init": True}),
    "C'": ("fno-unet", {"modes": (3, 3, 2, 2, 1)}),
    "C' spectral": ("fno-unet", {"modes": (3, 3, 2, 2, 1), "arm": "spectral"}),
}


def build(name, **options):
    torch.manual_seed(0)
    return models.build(name, in_channels=C, classes=K, **{"width": 4} | options)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(sizes=(32, 16), step=0):
    given = {"generator": generator(step)}
    image = torch.randn(2, C, *sizes, **given)
    label = (image[:, 0] > 0.5).byte() + (image[:, 1] > 1)
    other = torch.randn(2, C, *sizes, **given)
    return {"image": image, "label": label, "unlabelled": other, "progress": 0.5}


def loss_of(net, sizes=(32, 16)):
    torch.manual_seed(1)
    return net.training_loss(batch(sizes), generator())[0]


def count(module):
    return sum(p.numel() for p in module.parameters())


def on_paper(name, **options):
    with torch.device("meta"):
        return models.build(name, in_channels=4, classes=4, **options)


def spectral_reals(net):
    names = ("spectral", "block.weight")
    found = [p.numel() for n, p in net.named_parameters() if n.endswith(names) and p.dim() == 5]
    return sorted(found)


def test_spectral_parameters_of_each_level():
    bottleneck, full = on_paper("fno-unet"), on_paper("fno-unet", reduction=1)
    small = [65_536, 147_456, 262_144, 589_824, 1_048_576]
    large = [1_048_576, 2_359_296, 4_194_304, 9_437_184, 16_777_216]
    # the finest level has a branch in either embedding
    assert spectral_reals(bottleneck) == sorted([small[0], *small])
    assert spectral_reals(full) == sorted([large[0], *large])
    arm = on_paper("fno-unet", arm="spectral")
    assert spectral_reals(arm) == sorted([large[0], *large, *3 * large[:4]])
    shared = on_paper("fno-unet", weights="shared")
    assert spectral_reals(shared) == sorted([2 * 8**2, *(2 * (8 * 2**i) ** 2 for i in range(5))])
    depthwise = on_paper("fno-unet", weights="depthwise")
    counts = [8 * 2**i * 4 * m**2 for i, m in enumerate((16, 12, 8, 6, 4))]
    assert spectral_reals(depthwise) == sorted([counts[0], *counts])


def test_local_is_the_u_shape():
    local, unet = build("fno-unet", arm="local"), build("diffusion-unet")
    assert local.state_dict().keys() == unet.state_dict().keys()
    assert all(map(torch.equal, local.parameters(), unet.parameters()))


def test_local_wide_has_as_many_parameters_as_fused():
    fused, wide = on_paper("fno-unet"), on_paper("fno-unet", arm="local-wide")
    assert count(wide) == pytest.approx(count(fused), rel=0.02)


@pytest.mark.parametrize(
    ("fusion", "path"),
    [
        *((fusion, "both") for fusion in sorted(FUSIONS)),
        ("gate", "denoiser"),
        ("mlp", "supervised"),
    ],
)
def test_fused_starts_as_local(fusion, path):
    options = {"fusion": fusion, "path": path, "placement": EVERYWHERE}
    nets = build("fno-unet", arm="local"), build("fno-unet", **options)
    with torch.no_grad():
        losses = [loss_of(net, (16, 16)).item() for net in nets]
        assert losses[1] == pytest.approx(losses[0], abs=1e-6)
        local, fused = (net.eval().predict(batch()["image"]) for net in nets)
    torch.testing.assert_close(fused, local, rtol=0, atol=1e-6)


@pytest.mark.parametrize("arm", ["local", "local-wide", "spectral", "fused"])
def test_every_arm_runs_at_every_size(arm):
    net = build("fno-unet", arm=arm, width=2).eval()
    for sizes in ((192, 192), (224, 224), (240, 240), (160, 192)):
        with torch.no_grad():
            assert net.predict(torch.randn(1, C, *sizes)).shape == (1, K, *sizes)


@pytest.mark.parametrize("fusion", sorted(FUSIONS))
def test_every_fusion_runs_at_every_size(fusion):
    net = build("fno-unet", fusion=fusion, width=2).eval()
    for sizes in ((192, 192), (224, 224), (240, 240), (160, 192)):
        with torch.no_grad():
            assert net.predict(torch.randn(1, C, *sizes)).shape == (1, K, *sizes)


def places(net):
    return {name for name, module in net.named_modules() if isinstance(module, Fused)}


@pytest.mark.parametrize(
    ("place", "path", "expected"),
    [
        ("encoder", "both", ["embed_joint.block", "embed_image.block"]
         + [f"encoder.blocks.{i}" for i in range(3)]),
        ("encoder", "supervised", ["embed_image.block"]
         + [f"encoder.blocks.{i}" for i in range(3)]),
        ("bottleneck", "denoiser", ["encoder.blocks.3"]),
        ("decoder", "denoiser", [f"xi.blocks.{i}" for i in range(4)]),
        ("decoder", "supervised", [f"{d}.blocks.{i}" for d in ("psi", "theta") for i in range(4)]),
    ],
)  # fmt: skip
def test_branches_are_where_they_are_asked_for(place, path, expected):
    net = build("fno-unet", placement=(place,), path=path)
    assert places(net) == set(expected)
    calls = []
    for module in net.modules():
        if isinstance(module, Fused):
            module.branch.register_forward_hook(lambda module, args, y: calls.append(args[1]))
    loss_of(net)
    assert calls
    if path != "both":
        assert all((temb is None) == (path == "supervised") for temb in calls)


@pytest.mark.parametrize("fusion", sorted(FUSIONS))
def test_what_starts_silent_learns(fusion):
    net = build("fno-unet", fusion=fusion)
    optimiser = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(2):
        optimiser.zero_grad()
        loss_of(net, (16, 16)).backward()
        optimiser.step()
    branches = [module.branch for module in net.modules() if isinstance(module, Fused)]
    weights = [branch.block.weight.grad for branch in branches]
    assert all(weight.abs().max() > 0 for weight in weights)


@pytest.mark.parametrize("weights", ["dense", "shared", "depthwise"])
def test_small_maps_keep_fewer_modes_and_say_so_once(weights):
    net = build("fno-unet", weights=weights).eval()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(2):
            net.predict(torch.randn(1, C, 32, 16))
    said = [str(warning.message) for warning in said if "modes" in str(warning.message)]
    assert said
    assert len(said) == len(set(said))


@pytest.mark.parametrize(
    "options",
    [{"arm": "wide"}, {"fusion": "sum"}, {"path": "xi"}, {"placement": ("neck",)},
     {"weights": "full"}, {"modes": (3, 3)}, {"reduction": 0}],
    ids=str,
)  # fmt: skip
def test_bad_options_are_usage_errors(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        build("fno-unet", **options)


# --- all


@pytest.mark.parametrize("mode", ["supervised", "ssl"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_step_reaches_every_parameter_that_can_be_trained(system, mode):
    name, options = SYSTEMS[system]
    net = build(name, mode=mode, sampling_steps=1, **options)
    loss_of(net).backward()
    for parameter, p in net.named_parameters():
        assert (p.grad is not None) == p.requires_grad, parameter


@pytest.mark.parametrize("system", SYSTEMS)
def test_volumes(system):
    name, options = SYSTEMS[system]
    net = build(name, axes=3, width=2, decoder="diffusion", sampling_steps=2, **options)
    loss_of(net, (16, 16, 32)).backward()
    with torch.no_grad():
        found = net.eval().predict(batch((16, 16, 32))["image"])
    torch.testing.assert_close(found.sum(1), torch.ones(2, 16, 16, 32))


@pytest.mark.parametrize("system", SYSTEMS)
def test_half_precision(system):
    name, options = SYSTEMS[system]
    net = build(name, mode="ssl", sampling_steps=1, **options)
    exact = loss_of(net).item()
    net = build(name, mode="ssl", sampling_steps=1, **options)
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(net)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=0.05)
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.requires_grad)
    with torch.autocast("cpu", torch.float16), torch.no_grad():
        assert net.eval().predict(batch()["image"]).isfinite().all()


def training(name, options, sizes, backend="auto", aside=None, steps=25):
    """The losses of a run; with `aside` also those that this backend finds in the run's states."""
    net, found, others = build(name, **options), [], []
    optimiser = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 1e-2, 0.9)
    for step in range(steps):

        def loss(step=step):
            torch.manual_seed(step)
            return net.training_loss(batch(sizes, step), generator(step))[0]

        if aside:
            buffers = [(buffer, buffer.clone()) for buffer in net.buffers()]
            with fastseg.use_backend(aside), torch.no_grad():
                others.append(loss().item())
            for buffer, before in buffers:
                buffer.copy_(before)
        with fastseg.use_backend(backend):
            value = loss()
            optimiser.zero_grad()
            value.backward()
        optimiser.step()
        net.after_step()
        found.append(value.item())
    return found, others


@pytest.mark.parametrize("system", ["C-fixed", "C-legacy"])
def test_a_run_is_the_same_with_reference_kernels(system):
    name, options = SYSTEMS[system]
    fast, _ = training(name, options, (16, 20))
    exact, _ = training(name, options, (16, 20), backend="reference")
    assert fast == pytest.approx(exact, abs=1e-4)
    assert fast[-1] < fast[0] - 0.1


@pytest.mark.parametrize(
    ("options", "steps"),
    [({}, 50), ({"arm": "spectral"}, 20), ({"mode": "ssl", "sampling_steps": 1}, 10)],
    ids=str,
)
def test_losses_of_a_run_are_the_same_with_reference_kernels(options, steps):
    # in equal states: batch norm after ReLU, over few values, makes rounding grow tenfold a step;
    # relative where a pseudo-label may flip
    options = {"modes": (3, 3, 2, 2, 1)} | options
    fast, exact = training("fno-unet", options, (32, 16), aside="reference", steps=steps)
    assert fast == pytest.approx(exact, abs=1e-4, rel=1e-4 if "mode" in options else 0)
    assert fast[-1] < fast[0] - 0.1


def test_a_seed_gives_the_same_run():
    options = {"mode": "ssl", "sampling_steps": 1}
    runs = [training("fno-unet", options, (16, 16), steps=3) for _ in range(2)]
    assert runs[0] == runs[1]
