"""Traces of every module and of a whole system: torch.jit.trace records torch's operators alone."""

import io

import pytest
import torch
from tolerances import NEURALOP, relative_error

import fastseg
from fastseg import models, nn

PLANE, VOLUME = (2, 4, 16, 18), (1, 8, 8, 10, 12)
WIDE = (1, 16, 8, 10, 12)
FEATURES = (2, 8)  # of an embedded time
# how to make a module, and the shapes of what it takes
MODULES = {
    "SpectralConv": (lambda: nn.SpectralConv(4, 4, (6, 4)), [PLANE]),
    "NeuralopSpectralConv": (lambda: nn.NeuralopSpectralConv(4, 4, (6, 6)), [PLANE]),
    "FNOBlock": (lambda: nn.FNOBlock(8, 8, (4, 4, 3)), [VOLUME]),
    "FourierUnit": (lambda: nn.FourierUnit(8, 8), [VOLUME]),
    "LocalFourierUnit": (lambda: nn.LocalFourierUnit(8), [VOLUME]),
    "SpectralTransform": (lambda: nn.SpectralTransform(8, 8), [VOLUME]),
    "VFFC": (lambda: nn.VFFC(16, 16), [WIDE]),
    "VFFCLayer": (lambda: nn.VFFCLayer(16, 16), [WIDE]),
    "VFFCBlock": (lambda: nn.VFFCBlock(16), [WIDE]),
    "VFFCBottleneck": (lambda: nn.VFFCBottleneck(16, 1), [WIDE]),
    "GaussianFilter": (lambda: nn.GaussianFilter(2.0, mode="both"), [PLANE]),
    "NBPFilter": (lambda: nn.NBPFilter(4, time_channels=8), [PLANE, FEATURES]),
    "FFParser": (lambda: nn.FFParser(4, (16, 18)), [PLANE]),
    "AnchorGate": (lambda: nn.AnchorGate(4), [PLANE, PLANE]),
    "TimeEmbedding": (lambda: nn.TimeEmbedding(8, 8), [(2,)]),
    "TimeShift": (lambda: nn.TimeShift(8, 4), [PLANE, FEATURES]),
    "TimeFiLM": (lambda: nn.TimeFiLM(8, 4), [PLANE, FEATURES]),
    "FrequencyGuide": (lambda: nn.FrequencyGuide(), [PLANE]),  # and what the test adds
    "a whole system": (
        lambda: models.build("fno", in_channels=4, classes=3, modes=(6, 4), width=4),
        [PLANE],
    ),
}


def drawn(name: str, shapes, generator) -> tuple:
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    if name == "FrequencyGuide":  # which channels are there, and the step
        tensors += [torch.tensor([[True, True, False, True]] * 2), torch.tensor([3, 150])]
    return tuple(tensors)


def test_every_module_has_a_row():
    assert MODULES.keys() >= {name for name in nn.__all__ if isinstance(getattr(nn, name), type)}


# torch says that it deprecates traces, and that the arguments' checks are not in them
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning"
)


# statistics and gradients differ in training, transforms do not
TRAINED = ("FNOBlock", "FourierUnit", "VFFC", "a whole system")
CALLS = [(name, False) for name in MODULES] + [(name, True) for name in TRAINED]


@pytest.mark.parametrize(("name", "training"), CALLS)
def test_a_saved_trace_is_the_module_on_another_input(name, training, seeded):
    make, shapes = MODULES[name]
    generator = torch.Generator().manual_seed(0)
    module = make().train(training).requires_grad_(training)
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(module, drawn(name, shapes, generator), check_trace=False), file)
    file.seek(0)
    traced, given = torch.jit.load(file), drawn(name, shapes, generator)
    wanted, found = module(*given), traced(*given)
    if isinstance(wanted, torch.Tensor):
        wanted, found = (wanted,), (found,)
    for one, other in zip(found, wanted, strict=True):
        assert relative_error(one, other) < NEURALOP


def test_a_forced_kernel_refuses_to_be_traced():
    layer = nn.SpectralConv(4, 4, (6, 4))
    with fastseg.use_backend("cpu"), pytest.raises(RuntimeError, match=r"torch\.jit\.trace"):
        torch.jit.trace(layer, torch.randn(PLANE))
