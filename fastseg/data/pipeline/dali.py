"""Run the device stage as a DALI graph: cast, normalise, turn, rotate; parameters are tensors.

Every frame (modality and axial slice) is one frame of a DALI video, so slices and volumes share
one graph and all changes are in the plane. `augment.py` is the same stage in torch: the same
operations in the same order, so that on a CPU both give equal bits.
"""

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from fastseg.errors import FastsegError, UsageError

INSTALL_HINT = (
    "pip install 'fastseg-mri[dali]' (CPU or CUDA 13) or 'fastseg-mri[dali-cuda12]' (CUDA 12)"
)


def unavailable(device_id: int | None) -> str | None:
    """Say why DALI cannot run here, or return None when it can.

    Args:
        device_id: a GPU's number, None for the CPU.
    """
    try:
        from nvidia.dali import pipeline, types

        trial = pipeline.Pipeline(batch_size=1, num_threads=1, device_id=device_id)
        trial.set_outputs(types.Constant(0))
        trial.build()
    except (ImportError, OSError, RuntimeError) as error:
        return str(error).strip().splitlines()[0]
    return None


def require(device_id: int | None) -> None:
    """Raise UsageError with the install command when DALI cannot run here."""
    reason = unavailable(device_id)
    if reason:
        raise UsageError(f"backend 'dali' needs NVIDIA DALI ({reason}); {INSTALL_HINT}")


def build(config, channels: int, device_id: int | None, source):
    """Build the DALI pipeline of a configuration.

    Args:
        config: a `LoaderConfig`.
        channels: of an image.
        device_id: a GPU's number, None for the CPU.
        source: returns one list of arrays an input, a sample each, as `run` feeds them.

    Returns:
        a pipeline; its outputs are image float32 (C, *patch) and label uint8 (*patch).
    """
    from nvidia.dali import fn, pipeline_def

    height, width = config.patch[-2:]
    frames = {"shape": [-1, height, width, 1], "layout": "FHWC"}

    @pipeline_def(enable_conditionals=True)
    def graph():
        # Image, label, low and high are data; the others are arguments, which stay on the CPU.
        inputs = fn.external_source(
            source=source, num_outputs=10 if config.rotate_degrees else 9, batch=True, no_copy=True
        )
        data = inputs[:4] if device_id is None else [x.gpu() for x in inputs[:4]]
        image, label, low, high = data
        mean, std, transpose, flip_h, flip_w, *matrix = inputs[4:]
        image = _normalised(image, low, high, mean, std, config.rule)
        image, label = fn.reshape(image, **frames), fn.reshape(label, **frames)
        if transpose:
            # W before H; a frame stays FHWC by name, for the flips to come
            swap = {"perm": [0, 2, 1, 3], "transpose_layout": False}
            image, label = fn.transpose(image, **swap), fn.transpose(label, **swap)
        image = fn.flip(image, vertical=flip_h, horizontal=flip_w)
        label = fn.flip(label, vertical=flip_h, horizontal=flip_w)
        if matrix:
            image, label = _rotated(image, label, matrix[0])
        image = fn.reshape(image, shape=[channels, *config.patch], layout="")
        return image, fn.reshape(label, shape=list(config.patch), layout="")

    return graph(
        batch_size=config.batch_size,
        num_threads=config.threads,
        device_id=device_id,
        prefetch_queue_depth=2,
    )


def _normalised(image, low, high, mean, std, rule):
    from nvidia.dali import fn, types
    from nvidia.dali import math as dali_math

    raw = fn.cast(image, dtype=types.FLOAT)
    image = dali_math.min(dali_math.max(raw, low), high)
    axes = [2, 3] if rule.per_slice else [1, 2, 3]
    image = fn.normalize(image, mean=mean, stddev=std, axes=axes)
    if rule.of_zero is None:
        return image
    # the sum turns -0 into 0 too
    return image * (raw != 0) + (rule.of_zero * (raw == 0) if rule.of_zero else 0.0)


def _rotated(image, label, matrix):
    from nvidia.dali import fn, types

    warp = {"matrix": matrix, "fill_value": 0}
    return (
        fn.warp_affine(image, interp_type=types.INTERP_LINEAR, **warp),
        fn.warp_affine(label, interp_type=types.INTERP_NN, **warp),
    )


def run(batches: Iterable[list], config, channels: int, device_id: int | None) -> Iterator[tuple]:
    """Yield (samples, image, label) for every list of samples, as `augment.run` does.

    Two batches are under way at a time. Errors of `batches` pass through unchanged.

    Args:
        batches: lists of `crop.Sample`, `config.batch_size` each.
        config: a `LoaderConfig`.
        channels: of an image.
        device_id: a GPU's number, None for the CPU.

    Returns:
        of each: the samples, image float32 (B, C, *patch), label uint8 (B, *patch), which are
        DALI's own memory, not a copy of it.

    Raises:
        FastsegError: naming the cases, where DALI fails.
    """
    import torch

    # DALI runs the source ahead of its outputs: the samples wait here for theirs, in order.
    waiting, batches = deque(), iter(batches)

    def source():
        waiting.append(next(batches))
        return _feed(waiting[-1], config.rotate_degrees > 0)

    pipeline = build(config, channels, device_id, source)
    device = torch.device("cpu" if device_id is None else f"cuda:{device_id}")
    while True:
        try:
            outputs = pipeline.run()
        except StopIteration:
            return
        except RuntimeError as error:
            cases = ", ".join(sorted({sample.case for batch in waiting for sample in batch}))
            raise FastsegError(f"DALI failed on samples of {cases}: {error}") from error
        with device:
            image, label = (torch.from_dlpack(output.as_tensor()) for output in outputs)
        yield waiting.popleft(), image, label


def _feed(samples: list, rotate: bool) -> list[list[np.ndarray]]:
    turns = [sample.transform for sample in samples]
    # A batch has one type; int16 turns into float32 without loss.
    dtype = np.result_type(*(sample.image.dtype for sample in samples))
    return [
        [sample.image.astype(dtype, copy=False) for sample in samples],
        [sample.label for sample in samples],
        *([sample.stats[row] for sample in samples] for row in range(4)),
        [np.array(turn.transpose) for turn in turns],
        [np.array(turn.flip_h, np.int32) for turn in turns],
        [np.array(turn.flip_w, np.int32) for turn in turns],
        *([[turn.matrix for turn in turns]] if rotate else ()),
    ]
