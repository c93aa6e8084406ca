"""Export to ONNX: modules and a system find the way by themselves; onnxruntime agrees."""

import pytest
import torch
from modules import MODULES, PLANE, drawn
from operators import outputs_of
from tolerances import relative_error

from fastseg import nn, ops, reference

pytest.importorskip("onnx", reason="the export writes onnx")
pytest.importorskip("onnxscript", reason="torch.onnx.export needs it")
onnxruntime = pytest.importorskip("onnxruntime", reason="it runs the exported graph")

# of float32: what an exported graph and ours may differ by
EXPORTED = 1e-5
# one for each way that a module takes; what the others are made of is torch's own
PARTS = {
    "FNOBlock": (lambda: nn.FNOBlock(4, 4, (6, 4)), [PLANE]),
    "FourierUnit": (lambda: nn.FourierUnit(4, 4, dims=2), [PLANE]),
    **{name: MODULES[name] for name in ("NBPFilter", "FFParser", "AnchorGate", "a whole system")},
    "GaussianFilter": MODULES["GaussianFilter"],
}


class Together(torch.nn.Module):
    """Modules side by side, so that there is one export for all of them."""

    def __init__(self, counts: list, parts):
        super().__init__()
        self.counts, self.parts = counts, torch.nn.ModuleList(parts)

    def forward(self, *given):
        found, given = [], iter(given)
        for module, count in zip(self.parts, self.counts, strict=True):
            found.extend(outputs_of(module(*(next(given) for _ in range(count)))))
        return tuple(found)


def exported(module, given, path):
    """What runs an exported module, and takes other tensors than those of the export."""
    torch.onnx.export(module, given, path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(*other):
        numbers = {name: t.numpy() for name, t in zip(names, other, strict=True)}
        return [torch.from_numpy(y) for y in session.run(None, numbers)]

    return run


def test_exported_modules_are_the_modules(seeded, tmp_path):
    counts = [len(shapes) for _, shapes in PARTS.values()]
    module = Together(counts, [make() for make, _ in PARTS.values()]).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    first, other = (
        [t for name, (_, shapes) in PARTS.items() for t in drawn(name, shapes, generator)]
        for _ in range(2)
    )
    run = exported(module, tuple(first), tmp_path / "modules.onnx")
    names = [*PARTS, "GaussianFilter, high"]
    for name, one, wanted in zip(names, run(*other), module(*other), strict=True):
        assert relative_error(one, wanted) < EXPORTED, name


def test_an_exported_layer_equals_the_reference(tmp_path):
    layer = nn.SpectralConv(2, 4, (4, 6, 5)).requires_grad_(False).eval()
    generator = torch.Generator().manual_seed(0)
    layer.bias.normal_(generator=generator)
    x, other = (torch.randn(1, 2, 10, 12, 9, generator=generator) for _ in "xy")
    (y,) = exported(layer, (x,), tmp_path / "layer.onnx")(other)
    double = (t.double() for t in (other, layer.weight, layer.bias))
    assert relative_error(y, reference.spectral_conv(*double, norm="ortho")) < EXPORTED


def test_a_forced_kernel_refuses_to_be_exported(tmp_path):
    layer, x = nn.SpectralConv(2, 2, (4, 3)), torch.randn(1, 2, 8, 8)
    with ops.use_backend("cpu"), pytest.raises(Exception, match="ONNX has no such operator"):
        torch.onnx.export(layer, (x,), tmp_path / "layer.onnx", dynamo=True, verbose=False)
