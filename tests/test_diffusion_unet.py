"""The diffusion U-shape: its parameters, the order of its layers, and training in every mode."""

import pytest
import torch

from fastseg import models
from fastseg.models.diffusion_unet import Decoder, Encoder, Unit, conv_blocks

pytestmark = pytest.mark.usefixtures("seeded", "poisoned_memory", "one_thread")


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def on_paper(**options):
    with torch.device("meta"):
        return models.build("diffusion-unet", **options)


@pytest.mark.parametrize(("channels", "total"), [(1, 22_609_484), (4, 22_611_212)])
def test_parameters_in_2d(channels, total):
    net = on_paper(in_channels=channels, classes=4)
    assert count(net) == total
    assert count(net.encoder) == 12_008_192
    assert count(net.xi) == 3_915_908
    assert count(net.psi) == count(net.theta) == 2_996_612
    assert count(net.embed_image, net.encoder, net.theta) == pytest.approx(15.35e6, abs=5e3)


def test_parameters_in_3d():
    net = on_paper(in_channels=1, classes=2, axes=3)
    assert count(net) == pytest.approx(57.89e6, abs=5e3)
    assert count(net.embed_image, net.encoder, net.theta) == pytest.approx(40.06e6, abs=5e3)


def test_time_projections_nothing_depends_on_are_frozen():
    net = on_paper(in_channels=1, classes=4, mode="ssl")
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    assert {name.split(".")[0] for name in frozen} == {
        "embed_image",
        "embed_joint",
        "encoder",
        "xi",
    }
    assert all(".shift." in name or name.startswith("embed_image.time") for name in frozen)
    last = [block.units[-1].shift for block in [*net.encoder.blocks, *net.xi.blocks]]
    assert not any(p.requires_grad for shift in last for p in shift.parameters())
    assert len(frozen) == 2 * (len(last) + 2) + 4


def test_a_unit_normalises_after_its_activation():
    unit = Unit(2, torch.nn.Conv2d(2, 8, 3, padding=1), timed=True, dropout=0.5)
    x, temb = torch.randn(2, 2, 8, 8), torch.randn(2, 512)
    torch.nn.init.normal_(unit.norm.running_mean)
    unit.eval()
    exact = unit.norm(torch.relu(unit.conv(x)))
    assert torch.equal(unit(x, None), exact)
    torch.testing.assert_close(unit(x, temb), unit.shift(exact, temb))
    unit.train()
    dropped = (unit(x, None) == 0).flatten(2).all(2)
    assert 0 < dropped.float().mean() < 1  # whole channels
    assert ((unit(x, temb) != 0).flatten(2).any(2)).all()  # the shift comes after


def test_dropout_has_its_places():
    net = on_paper(in_channels=1, classes=4)
    rates = {name: m.p for name, m in net.named_modules() if type(m).__name__ == "Dropout2d"}
    for name, rate in rates.items():
        part = name.split(".")
        if "units" in part:
            assert rate == 0.1
        else:
            assert rate == (0.0 if {"downs", "ups"} & set(part) else 0.5), name
    assert sum(rate == 0.5 for rate in rates.values()) == 4  # one encoder, three decoders


@pytest.mark.parametrize("axes", [2, 3])
def test_skips_are_added(axes):
    widths, block = [2, 4, 8, 16, 32], conv_blocks(axes)
    encoder, decoder = Encoder(axes, widths, block), Decoder(axes, widths, 3, block, False)
    encoder.eval(), decoder.eval()
    features = encoder(torch.randn(1, 2, *[16] * axes), None)
    assert [tuple(f.shape) for f in features] == [
        (1, w, *[16 // 2**i] * axes) for i, w in enumerate(widths)
    ]
    given, raised = [], []
    for up, inner in zip(decoder.ups, decoder.blocks, strict=True):
        up.register_forward_hook(lambda module, args, y: raised.append(y))
        inner.register_forward_pre_hook(lambda module, args: given.append(args[0]))
    assert decoder(features, None).shape == (1, 3, *[16] * axes)
    for x, up, skip in zip(given, raised, features[3::-1], strict=True):
        torch.testing.assert_close(x, up + skip)


def test_sizes_that_do_not_halve_are_named():
    net = models.build("diffusion-unet", in_channels=1, classes=2, width=2).eval()
    with pytest.raises(ValueError, match=r"\(48, 40\).*16"):
        net.predict(torch.randn(1, 1, 48, 40))
    with pytest.raises(ValueError, match=r"multiples of 16"):
        net.training_loss(
            {"image": torch.randn(1, 1, 24, 32), "label": torch.zeros(1, 24, 32)}, torch.Generator()
        )
