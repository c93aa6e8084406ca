"""One file a system. Every system is a module with two methods, which the driver calls:

`training_loss(batch, generator) -> (loss, parts)`: a scalar and a dictionary of scalars to log;
`predict(image, generator=None) -> (B, K, *S)`: class probabilities. Where the answer is not the
most probable class, `decide(probabilities) -> (B, *S)` gives it (`heads.Head` serves both).

Next to "image", "label", "case" and "seed" a batch has "progress", the share of the run that is
done, in [0, 1), with `labelled_fraction` "unlabelled", images of other patients, and with
`data.bezier_domains` "domain". A system may have `after_step()`, called after each step of the
optimiser, `SAMPLING`, the names of options that only change how it predicts, and
`predict_with_variance(image, generator)`, which gives the variance of an ensemble, (B, 1, *S), with
the probabilities. One that samples in steps has `on_step`, None or what its user wants called in
each (t, x_t, x̂_0). `axes` and `multiple`, where it has them, are those
of the patches that it takes. What it keeps between steps lives in registered float buffers; a step
has as many calls of `training_loss` as parts of its batch.

A system whose `TASK` is "synthesis" fills in missing modalities instead of segmenting: in the place
of `predict` it has `synthesise(images, available, generator=None) -> images` (B, M, *S) and
`masks()`, the choices of available modalities (N, M) that it serves.
"""

import importlib

from fastseg.errors import UsageError

SYSTEMS = {
    "fno": "fastseg.models.fno",
    "diffusion-unet": "fastseg.models.diffusion_unet",
    "fno-diffusion": "fastseg.models.fno_diffusion",
    "fno-unet": "fastseg.models.fno_unet",
    "segresnet": "fastseg.models.segresnet",
    "segresnet-vffc": "fastseg.models.segresnet_vffc",
    "unet3d": "fastseg.models.unet3d",
    "medsegdiff-v1": "fastseg.models.medsegdiff_v1",
    "medsegdiff-v2": "fastseg.models.medsegdiff_v2",
    "fgc2f-udiff": "fastseg.models.fgc2f_udiff",
}


def build(name: str, *, in_channels: int, classes: int, regions=(), modalities=(), **options):
    """The system `name` for images of `in_channels` modalities and `classes` label classes,
    background included. `regions`, the class indices of each, go to a system with a `head`, the
    names of the `modalities` to one of synthesis.

    Raises UsageError for an unknown name or an option the system does not have.
    """
    system = _system(name)
    if options.get("head", "softmax") != "softmax":
        options["regions"] = regions
    if task(name) == "synthesis":
        options["modalities"] = modalities
    try:
        return system(in_channels, classes, **options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"model: {error}") from error


def sampling_options(name: str) -> frozenset[str]:
    """Names of the system's options that only change how it predicts: its `SAMPLING`."""
    return getattr(_system(name), "SAMPLING", frozenset())


def task(name: str) -> str:
    """What the system does: "segmentation", or its `TASK`."""
    return getattr(_system(name), "TASK", "segmentation")


def _system(name: str):
    if name not in SYSTEMS:
        raise UsageError(f"system: got {name!r}, want one of {', '.join(sorted(SYSTEMS))}")
    return importlib.import_module(SYSTEMS[name]).System
