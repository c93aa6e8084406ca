"""Layers of the original code of the Fourier neural operator become ours."""

import pytest
import torch
from tolerances import F64, FORWARD, assert_near

from fastseg import nn

pytestmark = pytest.mark.usefixtures("seeded", "poisoned_memory", "one_thread")


class Classic(torch.nn.Module):
    """The layer of fourier_{1,2,3}d.py, `modes` of each axis: corners in the order of its files."""

    def __init__(self, inputs, outputs, modes, real=False):
        super().__init__()
        self.modes, self.outputs = modes, outputs
        for number in range(2 ** (len(modes) - 1)):
            weight = torch.rand(inputs, outputs, *modes, dtype=torch.cdouble)
            weight = torch.view_as_real(weight) if real else weight
            self.register_parameter(f"weights{number + 1}", torch.nn.Parameter(weight))

    def forward(self, x):
        dims, modes = tuple(range(2, x.dim())), self.modes
        spectrum = torch.fft.rfftn(x, dim=dims)
        out = torch.zeros(len(x), self.outputs, *spectrum.shape[2:], dtype=spectrum.dtype)
        for number, weight in enumerate(self.parameters()):
            weight = weight if weight.is_complex() else torch.view_as_complex(weight)
            # weights2 is the negative corner of the first axis, weights3 that of the second
            corner = tuple(
                slice(-m, None) if axis < len(modes) - 1 and number >> axis & 1 else slice(m)
                for axis, m in enumerate(modes)
            )
            place = (slice(None), slice(None), *corner)
            out[place] = torch.einsum("bi...,io...->bo...", spectrum[place], weight)
        return torch.fft.irfftn(out, s=x.shape[2:], dim=dims)


@pytest.mark.parametrize(
    ("modes", "sizes"), [((5,), (16,)), ((3, 4), (9, 12)), ((2, 3, 2), (6, 7, 8))], ids=str
)
@pytest.mark.parametrize("real", [False, True])
def test_from_classic_equals_the_original(modes, sizes, real):
    theirs = Classic(3, 2, modes, real)
    ours = nn.SpectralConv.from_classic(theirs).double()
    with torch.no_grad():  # the conversion keeps parameters in float32
        for weight in theirs.parameters():
            if weight.is_complex():
                weight.copy_(weight.to(torch.cfloat))
            else:
                weight.copy_(weight.float())
    assert ours.modes == (*(2 * m for m in modes[:-1]), modes[-1])
    assert ours.norm == "backward"
    assert ours.bias is None
    x = torch.randn(2, 3, *sizes, dtype=F64)
    assert_near(ours(x), theirs(x), FORWARD, "layer")


def test_from_classic_refuses_other_layers():
    with pytest.raises(ValueError, match=r"module: got 0 weights1"):
        nn.SpectralConv.from_classic(torch.nn.Linear(2, 2))
    odd = Classic(3, 2, (3, 4))
    odd.weights2 = torch.nn.Parameter(odd.weights2[..., :2])
    with pytest.raises(ValueError, match=r"module: got weights of shapes .*want equal"):
        nn.SpectralConv.from_classic(odd)
