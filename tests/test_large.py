"""Tensors beyond 2³¹ elements, where 32-bit offsets wrap: `pytest -m large tests/test_large.py`
(needs 16 GB of memory). Channels do not mix, so that single planes can be checked.
"""

import pytest
import torch
from operators import LIVE, device_of
from tolerances import BACKWARD, BF16, FORWARD, assert_near, wide

import fastseg
from fastseg import ops, reference

pytestmark = pytest.mark.large

SHAPE = (2, 33, 5800, 5800)
PLANES = [(0, 0), (1, 30), (1, 32)]  # the first, the one that crosses 2³¹ and the last
KERNELS = [name for name in LIVE if name not in ("reference", "matmul")]


@pytest.fixture(scope="module")
def x():
    assert torch.Size(SHAPE).numel() > 2**31
    return torch.empty(SHAPE, dtype=BF16).normal_(generator=torch.Generator().manual_seed(0))


def planes(tensor, plane):
    batch, channel = plane
    return wide(tensor[batch : batch + 1, channel : channel + 1])


@pytest.mark.parametrize("backend", KERNELS)
def test_spectral_conv(x, backend):
    weight = torch.randn(1, SHAPE[1], 4, 3, 2, generator=torch.Generator().manual_seed(1))
    device, leaf = device_of(backend), weight.to(device_of(backend)).requires_grad_()
    with fastseg.use_backend(backend):
        y = ops.spectral_conv(x.to(device), leaf, groups=SHAPE[1])
        (dw,) = torch.autograd.grad(y, leaf, y)
    exact_dw = torch.zeros(4, 3, 2, dtype=torch.float64)
    for batch, channel in PLANES:
        exact = wide(weight[:, channel : channel + 1]).requires_grad_()
        want = reference.spectral_conv(planes(x, (batch, channel)), exact)
        assert_near(y[batch, channel], want[0, 0], FORWARD, (batch, channel))
        if channel == PLANES[0][1]:
            grads = [
                torch.autograd.grad(
                    reference.spectral_conv(planes(x, (b, channel)), exact),
                    exact,
                    planes(y, (b, channel)),
                )[0][0, 0]
                for b in range(SHAPE[0])
            ]
            exact_dw = sum(grads)
    assert_near(dw[0, PLANES[0][1]], exact_dw, BACKWARD, "weight")


@pytest.mark.parametrize("backend", [name for name in KERNELS if name != "triton"])
def test_gaussian_filter(x, backend):
    with fastseg.use_backend(backend):
        low = ops.gaussian_filter(x.to(device_of(backend)), 1.0, padding="reflect", radius=2)
    for plane in PLANES:
        want = reference.gaussian_filter(planes(x, plane), 1.0, padding="reflect", radius=2)
        assert_near(low[plane], want[0, 0], FORWARD, plane)
