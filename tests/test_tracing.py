"""Traces of every module and of a whole system: torch.jit.trace records torch's operators alone."""

import io

import pytest
import torch
from modules import MODULES, PLANE, drawn
from tolerances import NEURALOP, relative_error

import fastseg
from fastseg import nn


def test_every_module_has_a_row():
    assert MODULES.keys() >= {name for name in nn.__all__ if isinstance(getattr(nn, name), type)}


# torch says that it deprecates traces, and that the arguments' checks are not in them
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning"
)


# statistics and gradients differ in training, transforms do not
TRAINED = ("FNOBlock", "HNOBlock", "FourierUnit", "VFFC", "a whole system")
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
