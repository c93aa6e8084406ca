"""Conditioning on the step of a diffusion: embedding, shift and FiLM."""

import math

import pytest
import torch
from torch.nn import functional as F

from fastseg import nn
from fastseg.nn.time import sinusoid

pytestmark = pytest.mark.usefixtures("seeded", "poisoned_memory", "one_thread")


@pytest.mark.parametrize("layer", [nn.TimeShift, nn.TimeFiLM])
@pytest.mark.parametrize("sizes", [(), (5,), (4, 3), (2, 3, 4)], ids=str)
def test_time_conditioning_is_of_any_rank(layer, sizes):
    layer = layer(6, 4)
    torch.nn.init.normal_(layer.project.weight)
    x, temb = torch.randn(2, 4, *sizes), torch.randn(2, 6)
    values = layer.project(F.silu(temb)).view(2, -1, *[1] * len(sizes))
    shift = isinstance(layer, nn.TimeShift)
    exact = x + values if shift else x * (1 + values[:, :4]) + values[:, 4:]
    torch.testing.assert_close(layer(x, temb), exact)
    assert layer(x, None) is x


@pytest.mark.parametrize("layer", [nn.TimeShift, nn.TimeFiLM])
@pytest.mark.parametrize("wrong", [(2, 5), (3, 6), (6,), (2, 6, 1)], ids=str)
def test_a_wrong_time_embedding_is_named_with_the_features(layer, wrong):
    with pytest.raises(ValueError, match="time embedding") as error:
        layer(6, 4)(torch.randn(2, 4, 8, 9), torch.randn(wrong))
    assert str(wrong) in str(error.value)
    assert "(2, 4, 8, 9)" in str(error.value)


def test_film_starts_as_the_identity():
    x = torch.randn(2, 4, 3)
    assert torch.equal(nn.TimeFiLM(6, 4)(x, torch.randn(2, 6)), x)


def test_sinusoid_is_sines_then_cosines():
    exact = [f(7 * 10000 ** (-i / 63)) for f in (math.sin, math.cos) for i in range(64)]
    torch.testing.assert_close(sinusoid(torch.tensor([7]), 128)[0], torch.tensor(exact))
    assert nn.TimeEmbedding()(torch.tensor([0, 999])).shape == (2, 512)
    with pytest.raises(ValueError, match="channels"):
        sinusoid(torch.tensor([7]), 5)
