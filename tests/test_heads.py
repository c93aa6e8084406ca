"""What outputs mean: classes and nested regions, and one region alone."""

import numpy as np
import pytest
import torch
from torch import nn

from fastseg.data.cases.labels import BRATS, BRATS_2024
from fastseg.models.parts.heads import Head


def head(kind: str) -> Head:
    return Head(kind, 4, BRATS.region_indices())


@pytest.mark.parametrize("kind", ["softmax", "regions"])
def test_certain_outputs_give_the_label_back(kind):
    label = torch.randint(4, (2, 5, 6, 7), dtype=torch.uint8)
    one = head(kind)
    target = one.target(label)
    assert target.shape == (2, one.outputs, 5, 6, 7)
    classes = one.classes_of(one.probabilities(100 * (2 * target - 1)))
    torch.testing.assert_close(classes.sum(1), torch.ones(2, 5, 6, 7))
    assert torch.equal(one.decide(classes), label.long())


@pytest.mark.parametrize("kind", ["softmax", "regions"])
def test_outputs_start_at_their_prior(kind):
    one, layer = head(kind), nn.Conv3d(2, head(kind).outputs, 1)
    before = layer.bias.clone()
    one.start_at(0.0, layer)
    assert torch.equal(layer.bias, before)
    one.start_at(0.02, layer)
    p = one.probabilities(layer(torch.zeros(1, 2, 1, 1, 1))).flatten()
    foreground = p if kind == "regions" else p[1:]
    torch.testing.assert_close(foreground, torch.full_like(foreground, 0.02))


@pytest.mark.parametrize(("kind", "prior"), [("regions", 1.0), ("softmax", 0.4), ("softmax", -0.1)])
def test_priors_that_are_no_shares_are_named(kind, prior):
    with pytest.raises(ValueError, match=f"prior: got {prior}, want a share"):
        head(kind).start_at(prior, nn.Conv3d(2, head(kind).outputs, 1))


def test_regions_are_those_of_the_scheme():
    target = head("regions").target(torch.tensor([[0, 1, 2, 3]]))
    assert target[0].tolist() == [[0, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]]  # WT, TC, ET


def test_each_region_is_decided_at_one_half():
    # the most probable class is the background here, yet WT is likelier than not
    p = torch.tensor([0.55, 0.3, 0.2]).view(1, 3, 1)
    classes = head("regions").classes_of(p)
    assert classes[0, :, 0].tolist() == pytest.approx([0.45, 0.1, 0.25, 0.2])
    assert head("regions").decide(classes).item() == 2


def test_an_inner_region_is_never_larger_than_its_outer_one():
    classes = head("regions").classes_of(torch.tensor([0.2, 0.9, 0.95]).view(1, 3, 1))
    assert classes[0, :, 0].tolist() == pytest.approx([0.8, 0, 0, 0.2])


@pytest.mark.parametrize(
    ("regions", "classes"),
    [((), 3), (((1, 2), (2, 3)), 4), (((1, 2, 3), (3,)), 4), (BRATS_2024.region_indices(), 5)],
)
def test_regions_that_cannot_tell_classes_apart(regions, classes):
    with pytest.raises(ValueError, match="head regions: got regions"):
        Head("regions", classes, regions)


def test_unknown_kind():
    with pytest.raises(ValueError, match="head: got 'sigmoid', want one of softmax, regions"):
        Head("sigmoid", 4)


@pytest.mark.parametrize(
    ("region", "inside"), [("WT", (1, 2, 4, 3)), ("TC", (1, 4, 3)), ("ET", (4, 3)), ("ED", (2,))]
)
def test_one_region_alone(region, inside):
    alone = BRATS.alone(region)
    values = np.array([0, 1, 2, 3, 4], np.uint8)
    classes = alone.to_classes(values)
    assert set(values[classes == 1]) == set(inside)
    assert alone.classes == ("background", region)
    assert alone.regions == {region: (region,)}
    again = alone.from_dict(alone.to_dict())
    assert again == alone
    assert np.array_equal(again.to_classes(again.to_values(classes)), classes)


def test_no_such_region():
    with pytest.raises(ValueError, match="region 'tumour' is not among NCR, ED, ET, WT, TC"):
        BRATS.alone("tumour")
