"""Export to ONNX: a layer on the matmul backend under onnxruntime."""

import pytest
import torch

from fastseg import nn, ops, reference

pytest.importorskip("onnx", reason="the export writes onnx")
pytest.importorskip("onnxscript", reason="torch.onnx.export needs it")
onnxruntime = pytest.importorskip("onnxruntime", reason="it runs the exported graph")


@pytest.mark.parametrize(
    ("shape", "modes"),
    [((2, 3, 17, 20), (6, 5)), ((1, 2, 10, 12, 9), (4, 6, 5))],
    ids=["2-D", "3-D"],
)
def test_exported_layer_equals_the_reference(shape, modes, tmp_path):
    generator = torch.Generator().manual_seed(0)
    layer = nn.SpectralConv(shape[1], 4, modes).requires_grad_(False).eval()
    layer.bias.normal_(generator=generator)
    x, path = torch.randn(shape, generator=generator), tmp_path / "layer.onnx"
    with ops.use_backend("matmul"):
        torch.onnx.export(layer, (x,), path, input_names=["x"], dynamo=True, verbose=False)

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    other = torch.randn(shape, generator=generator)  # not the tensor the export traced
    (y,) = session.run(None, {"x": other.numpy()})
    double = (t.double() for t in (other, layer.weight, layer.bias))
    wanted = reference.spectral_conv(*double, norm="ortho")
    error = (torch.from_numpy(y).double() - wanted).norm() / wanted.norm()
    assert error < 1e-5
