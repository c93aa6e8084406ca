"""Draw the random parameters of a sample, and apply them to a batch in torch.

The DALI graph in `dali.py` does the same with the same parameters.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

# np.rot90 by k quarter turns as (transpose, then flip rows, flip columns).
_QUARTER_TURNS = (
    (False, False, False),
    (True, True, False),
    (False, True, True),
    (True, False, True),
)
_FIXED_POINT = 4096


@dataclass(frozen=True)
class Transform:
    """Hold the in-plane change of one sample: transpose H and W, flip H, flip W, then rotate.

    matrix: float32 (2, 3), from an output position (x, y, 1) to its source position, in voxels,
    with voxel centres at halves.
    """

    transpose: bool
    flip_h: bool
    flip_w: bool
    matrix: np.ndarray


def draw(rng: np.random.Generator, config) -> Transform:
    """Draw a sample's transform.

    Four numbers are drawn whatever is switched on, so that one setting does not change another's.

    Args:
        rng: the sample's generator.
        config: a `LoaderConfig`.

    >>> from fastseg.data.pipeline import LoaderConfig
    >>> how = draw(np.random.default_rng(0), LoaderConfig((8, 8), rotate90=True))
    >>> how.transpose, how.flip_h, how.flip_w, how.matrix.shape
    (False, False, True, (2, 3))
    """
    flip_h, flip_w, turn, angle = rng.random(4)
    transpose, turn_h, turn_w = _QUARTER_TURNS[int(turn * 4) if config.rotate90 else 0]
    degrees = (2 * angle - 1) * config.rotate_degrees
    return Transform(
        transpose=transpose,
        flip_h=turn_h ^ (config.flip and bool(flip_h < 0.5)),
        flip_w=turn_w ^ (config.flip and bool(flip_w < 0.5)),
        matrix=rotation_matrix(degrees, config.patch[-2:]),
    )


def rotation_matrix(degrees: float, size: tuple[int, int]) -> np.ndarray:
    """Return the rotation of an (H, W) plane about its centre, from output to source (x, y).

    Args:
        degrees: positive angles turn the way np.rot90 does.
        size: (H, W), in voxels.

    Returns:
        float32 (2, 3), to be applied to (x, y, 1).

    Sine and cosine are rounded to 12 bits after the point. Every source position in planes of up
    to 1024 voxels is then exact in float32, so every backend and device picks the same nearest
    voxel; the rounding moves no voxel by more than 0.02 per 100 voxels from the centre.

    >>> rotation_matrix(90, (4, 4)) @ np.array([1, 1, 1])
    array([3., 1.])
    """
    angle = np.deg2rad(degrees)
    cos = np.round(np.cos(angle) * _FIXED_POINT) / _FIXED_POINT
    sin = np.round(np.sin(angle) * _FIXED_POINT) / _FIXED_POINT
    turn = np.array([[cos, -sin], [sin, cos]])
    centre = np.array([size[1], size[0]]) / 2
    return np.column_stack([turn, centre - turn @ centre]).astype(np.float32)


def normalise(image, stats, of_zero: float | None, out):
    """Write (clip(x, low, high) - mean) / std to `out`, and return it.

    Args:
        image: (…, D, H, W) of any real dtype; like the others a numpy array or a tensor.
        stats: (4, …) float32, rows low, high, mean, std, each broadcastable to `image`.
        of_zero: what voxels become that were 0, the background; None: nothing apart.
        out: float32, of the shape of `image`.

    >>> image = np.array([0, 10, 20, 90], np.int16)
    >>> stats = np.array([[0], [40], [20], [10]], np.float32)
    >>> normalise(image, stats, of_zero=0.0, out=np.empty(4, np.float32))
    array([ 0., -1.,  0.,  2.], dtype=float32)
    """
    use = np if isinstance(out, np.ndarray) else torch
    low, high, mean, std = stats
    out[...] = image
    use.clip(out, low, high, out=out)
    # By the reciprocal, as DALI does: dividing would give other last bits.
    use.multiply(use.subtract(out, mean, out=out), 1 / std, out=out)
    if of_zero is not None:
        out[image == 0] = of_zero
    return out


def turn(x: np.ndarray, how: Transform) -> np.ndarray:
    """Transpose the last two axes of an array, then flip them, as `how` says.

    >>> turn(np.array([[1, 2], [3, 4]]), Transform(True, True, False, matrix=None))
    array([[2, 4],
           [1, 3]])
    """
    x = np.swapaxes(x, -1, -2) if how.transpose else x
    row_step, column_step = -1 if how.flip_h else 1, -1 if how.flip_w else 1
    return np.ascontiguousarray(x[..., ::row_step, ::column_step])


def rotate(image: torch.Tensor, label: torch.Tensor, matrices: torch.Tensor):
    """Rotate a batch in the plane; what comes from outside is 0.

    Args:
        image: (B, C, D, H, W) float32, interpolated linearly.
        label: (B, D, H, W) uint8, to take the nearest voxel of.
        matrices: (B, 2, 3) float32, from `rotation_matrix`.

    Returns:
        both, rotated, in their shapes.

    >>> image, label = torch.zeros(1, 1, 1, 3, 3), torch.zeros(1, 1, 3, 3, dtype=torch.uint8)
    >>> label[0, 0, 0, 2] = 1
    >>> quarter = torch.from_numpy(rotation_matrix(90, (3, 3)))[None]
    >>> rotate(image, label, quarter)[1][0, 0].tolist()
    [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    """
    height, width = image.shape[-2:]
    size = torch.tensor([width, height], device=image.device)
    y, x = torch.meshgrid(
        torch.arange(height, device=image.device) + 0.5,
        torch.arange(width, device=image.device) + 0.5,
        indexing="ij",
    )
    # Sums of exact products (see rotation_matrix): no order of evaluation changes a bit.
    source = (
        x[..., None] * matrices[:, None, None, :, 0]
        + y[..., None] * matrices[:, None, None, :, 1]
        + matrices[:, None, None, :, 2]
    )
    grid = source * 2 / size - 1
    image = F.grid_sample(
        image.flatten(1, 2), grid, padding_mode="zeros", align_corners=False
    ).view(image.shape)
    return image, _nearest(label, source.floor().long(), size)


def _nearest(label: torch.Tensor, index: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    inside = ((index >= 0) & (index < size)).all(dim=-1).flatten(1)[:, None]
    flat = (index[..., 1] * size[0] + index[..., 0]).flatten(1)[:, None]
    flat = flat.clamp_(0, int(size.prod()) - 1).expand(-1, label.shape[1], -1)
    return (label.flatten(2).gather(2, flat) * inside).view(label.shape)


def run(batches: Iterable[list], config, device: torch.device) -> Iterator[tuple]:
    """Yield (samples, image, label) for every list of samples.

    Args:
        batches: lists of `crop.Sample`.
        config: a `LoaderConfig`.
        device: where the tensors are to be.

    Returns:
        of each: the samples, image float32 (B, C, *patch), label uint8 (B, *patch).
    """
    for samples in batches:
        image = _normalised(samples, config.rule.of_zero, device)
        classes = np.stack([turn(sample.label, sample.transform) for sample in samples])
        label = torch.from_numpy(classes).to(device)
        if config.rotate_degrees > 0:
            matrices = np.stack([sample.transform.matrix for sample in samples])
            image, label = rotate(image, label, torch.from_numpy(matrices).to(device))
        shape = len(samples), -1, *config.patch
        yield samples, image.view(shape), label.view(len(samples), *config.patch)


def _normalised(samples: list, of_zero: float | None, device: torch.device) -> torch.Tensor:
    shape = len(samples), *samples[0].image.shape
    if device.type == "cpu":
        # numpy starts no threads, which would get in the way of the network's, and asks for huge
        # pages: with small ones a large batch takes longer to map than to compute.
        place, image = np.asarray, np.empty(shape, np.float32)
    else:
        place, image = (lambda x: torch.from_numpy(x).to(device)), torch.empty(shape, device=device)
    for sample, out in zip(samples, image, strict=True):
        # Turning first moves half the bytes, and statistics are the same all over a plane.
        raw = turn(sample.image, sample.transform)
        normalise(place(raw), place(sample.stats), of_zero, out)
    return torch.as_tensor(image)
