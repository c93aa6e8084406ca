"""Go the whole road on synthetic patients, in minutes on two CPU cores:

    fastseg demo

writes phantoms, trains the `fno` recipe on some of them, predicts patients that it has not seen,
scores them and draws one picture. Repeating the command goes on where a stopped one was.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from fastseg.host.progress import progress

# what differs from the recipe's own settings, which are meant for 50 epochs on real data
OVERRIDES = (
    "data.patch=96,96",  # a phantom's whole slice
    "data.samples_per_case=14",  # a quarter of a phantom's slices for one decode
    "data.foreground_fraction=0.9",  # tumour-free slices teach this loss to say nothing at all
    "lr=3e-3",  # some hundred steps have to suffice
    "schedule=cosine",  # so that they end settled
    "fractions=0.7,0.1,0.2",  # enough test patients for a mean
    "val_every=2",  # for the curve
)
SHOWN_PATIENTS = 3


def demo(
    out: str | Path = "fastseg-demo",
    cases: int = 28,
    epochs: int = 10,
    size: tuple[int, int, int] = (96, 96, 64),
    seed: int = 0,
    overrides: Sequence[str] = (),
) -> Path:
    """Run the demo; print where everything is, and the mean region Dice of held-out patients.

    Args:
        out: folder of all it writes; one of an earlier call goes on.
        cases: phantoms, 70 % of them for training and 20 % held out.
        epochs: passes over the training phantoms.
        size: voxels along (x, y, z).
        seed: of phantoms and run.
        overrides: further `name=value` settings of the recipe `fno`.

    Returns:
        the path of its picture.

    Raises:
        UsageError: bad arguments, or an `out` that holds something else.
    """
    from fastseg.config import load_recipe
    from fastseg.data import phantom
    from fastseg.data.cases import discover
    from fastseg.evaluate import evaluate
    from fastseg.sample import sample
    from fastseg.train import train

    begun, out = time.monotonic(), Path(out)
    settings = [*OVERRIDES, f"epochs={epochs}", f"seed={seed}", *overrides]
    recipe = load_recipe("fno", settings)
    with progress(cases, "phantoms") as advance:
        phantom.write(out / "data", cases, size, seed, progress=lambda *_: advance())
    checkpoint = train(recipe, out / "data", out / "run")
    # by checkpoint: a longer run's predictions do not mix with a shorter one's
    predictions = out / "predictions" / checkpoint.name
    written = sample(checkpoint, out / "data", predictions, part="test", kernels=recipe.kernels)
    held_out = [path.name.removesuffix("_pred.nii.gz") for path in written]
    dataset = discover(out / "data")
    scores = evaluate(predictions, dataset, out / "run", cases=held_out)
    picture = _picture(out, dataset, predictions, scores)
    print(
        f"\nmean region Dice {scores.mean['dice_regions']:.3f} on {len(held_out)} held-out phantoms"
        f" in {time.monotonic() - begun:.0f} s (phantoms say nothing about patients)"
    )
    print(_places(out, predictions, picture))
    return picture


def _places(out: Path, predictions: Path, picture: Path) -> str:
    places = {
        "patients": out / "data", "run": out / "run", "predictions": predictions,
        "scores": out / "run" / "evaluation.csv", "picture": picture,
    }  # fmt: skip
    return "\n".join(f"  {name:<13}{place}" for name, place in places.items())


def _picture(out: Path, dataset, predictions: Path, scores) -> Path:
    """Draw curves, Dice of every held-out patient, and overlays of the first few."""
    from fastseg import report
    from fastseg.data import nifti
    from fastseg.data.pipeline import load_case
    from fastseg.pictures.drawing import Overlay

    overlays = []
    for row in scores.rows[:SHOWN_PATIENTS]:
        arrays = load_case(dataset, dataset.by_id(row["case"]), "zscore")
        volume = nifti.read(predictions / f"{row['case']}_pred.nii.gz")
        classes = dataset.scheme.to_classes(volume.data)
        overlays.append(Overlay(row["case"], arrays.image, arrays.label, classes))
    return report.summary_png(
        out / "summary.png",
        out / "run" / "metrics.jsonl",
        overlays,
        [*scores.rows, {"case": "mean", **scores.mean}],
        modalities=dataset.modalities,
    )
