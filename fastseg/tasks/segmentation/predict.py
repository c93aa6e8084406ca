"""What a network says of whole volumes, window by window."""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fastseg.data.geometry import bounding_box

_OVERLAP = 0.5  # of neighbouring windows; Gaussian weights hide their seams


@torch.no_grad()
def predict_volume(
    net: nn.Module,
    image: Tensor,
    patch: Sequence[int],
    batch_size: int,
    generator: torch.Generator | None = None,
    on_windows: Callable[[int, int], None] | None = None,
    variance: np.ndarray | None = None,
    background: float = 0.0,
) -> np.ndarray:
    """Segment a volume (C, D, H, W) on the network's device: class indices uint8 (D, H, W).

    Only the box around what is not `background` is looked at, the rest is class 0. A network
    trained on slices gets its slices in batches, whole where the training patch holds them, else in
    windows of that size; a volume network gets windows of its patch. Overlapping windows are
    blended with Gaussian weights. `generator` is what a sampling network draws from; `on_windows`
    is told before each batch how many windows of how many are done; `variance`, float32
    (D, H, W), receives what the network's `predict_with_variance` gives with the probabilities.
    """
    done = 0

    def predict(windows: Tensor) -> Tensor:
        nonlocal done
        if on_windows is not None:
            on_windows(done, total)
        done += len(windows)
        if variance is None:
            return net.predict(windows, generator)
        return torch.cat(net.predict_with_variance(windows, generator), 1)

    def decide(found: Tensor) -> tuple[np.ndarray, np.ndarray]:
        p = found if variance is None else found[:, :-1]
        return net.decide(p).to(torch.uint8).cpu().numpy(), found[:, -1].cpu().numpy()

    classes = np.zeros(image.shape[1:], np.uint8)
    box = bounding_box((image != background).any(0).cpu().numpy())
    if box is None:
        return classes
    windows = functools.partial(_windows, predict, patch, batch_size, background)
    brain = image[(slice(None), *box)]
    total = math.prod(map(_window_count, brain.shape[1:], (1, *patch)[-3:]))
    if len(patch) == 3:
        found = decide(windows(brain[None]))
        chosen, last = (array[0] for array in found)
    else:
        batches = brain.movedim(1, 0).split(min(batch_size, brain.shape[1]))
        found = [decide(windows(batch)) for batch in batches]
        chosen, last = map(np.concatenate, zip(*found, strict=True))
    classes[box] = chosen
    if variance is not None:
        variance[box] = last
    return classes


def _window_count(size: int, window: int) -> int:
    """Of `_windows` along one axis."""
    return -(-max(0, size - window) // max(1, int(window * (1 - _OVERLAP)))) + 1


def _windows(
    predict: Callable, patch: Sequence[int], windows: int, background: float, batch: Tensor
) -> Tensor:
    from monai.inferers import sliding_window_inference

    return sliding_window_inference(
        batch, tuple(patch), windows, predict, overlap=_OVERLAP, mode="gaussian", cval=background
    )
