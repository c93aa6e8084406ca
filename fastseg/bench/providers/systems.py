"""Whole systems, on our kernels and on the reference: prediction, and the loss of a training step
with its gradients.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fastseg import models, ops, reference
from fastseg.bench.cases import SystemCase
from fastseg.bench.layers import Family, Inputs, leaves, normal, outputs

_CLASSES, _SEED = 4, 0
_MODALITIES = ("t1", "t1ce", "t2", "flair")
_SHAKE = 0.02  # added to all weights: errors in front of one that starts at zero would not show


class _System(nn.Module):
    """image (B, C, *S), label (B, *S) → the loss of a training step; in evaluation, class
    probabilities, or the images without their first channel and that channel synthesised. Every
    call draws the same numbers.
    """

    def __init__(self, case: SystemCase):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(_SEED)
            self.system = models.build(
                case.system, in_channels=case.shape[1], classes=_CLASSES,
                modalities=_MODALITIES[: case.shape[1]], **case.model,
            )  # fmt: skip

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        generator = torch.Generator(image.device).manual_seed(_SEED)
        if not self.training and isinstance(self.system, models.SynthesisSystem):
            available = torch.ones(image.shape[:2], dtype=torch.bool, device=image.device)
            available[:, 0] = False
            return self.system.synthesise(image, available, generator)
        if not self.training:
            return self.system.predict(image, generator)
        torch.manual_seed(_SEED)  # of dropout
        batch = {"image": image, "label": label, "progress": 0.5}
        loss, _ = self.system.training_loss(batch, generator)
        return loss.unsqueeze(0)


def _trained(module: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _draw(case: SystemCase, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    image = normal(case.shape, generator, dtype)
    label = torch.randint(_CLASSES, (case.shape[0], *case.sizes), generator=generator)
    weights = tuple(
        p.detach() + normal(p.shape, generator, p.dtype, _SHAKE)
        for p in _trained(_System(case)).values()
    )
    return Inputs((image,), weights, (torch.ones(1),), (label.to(torch.uint8),))


def _operator(namespace, case: SystemCase, constants):
    (label,) = constants
    module = _System(case).to(label.device)
    names = list(_trained(module))

    def run(x, weights, training):
        (image,), values = x, dict(zip(names, weights, strict=True))
        half = image.dtype.itemsize == 2
        with torch.autocast(image.device.type, image.dtype if half else None, enabled=half):
            return functional_call(module.train(training), values, (image, label))

    def on_reference(x, weights, training):
        with ops.use_backend("reference"):
            return run(x, weights, training)

    return on_reference if namespace is reference else run


def _truth(case: SystemCase, inputs: Inputs):
    """By the reference in the case's own dtype: networks have float32 weights."""
    x, weights = leaves(inputs.x), leaves(inputs.weights)
    run = _operator(reference, case, inputs.constants)
    loss = run(x, weights, True)
    gradients = torch.autograd.grad(loss, (*x, *weights), inputs.dy)
    with torch.no_grad():
        inferred = _operator(reference, case, inputs.constants)(x, weights, False)
    return outputs(loss.detach()), gradients[:1], gradients[1:], outputs(inferred)


def _picks(setting: str, case: SystemCase, device: str, dtype: torch.dtype) -> str:
    return setting  # every operator in it picks for itself


# Images moved by 1e-7 already move the gradients of these networks by 3e-3: ReLUs and maxima flip.
SYSTEM = Family(
    _operator, _draw, _picks, lambda case: {}, _truth, two_modes=True, tolerance=(100.0, 25000.0)
)
