"""The verbs and options of the `fastseg` command."""

import argparse
import difflib
from collections.abc import Collection, Iterator, Sequence

from fastseg import __version__
from fastseg.tasks import NAMES as TASKS


def parser() -> argparse.ArgumentParser:
    """Make the parser of all verbs; what it parses names its verb as `verb`."""
    whole = argparse.ArgumentParser(
        prog="fastseg", description="Fourier- and diffusion-based models on brain MRI."
    )
    whole.add_argument("--version", action="version", version=f"fastseg {__version__}")
    verbs = whole.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, text: str, **options) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=text, description=text, **options)

    verb("doctor", "what was built, what is live on this machine, and why not")
    verb("check", "look for damaged or inconsistent files").add_argument("data")
    _phantom_options(verb("phantom", "write synthetic patients, as BraTS 2021 or nnU-Net has them"))
    _train_options(verb("train", "train a recipe, or go on with a run", add_help=False))
    _sample_options(verb("sample", "predict whole patients with a trained network"))
    _evaluate_options(verb("evaluate", "score predictions: Dice, IoU, HD95 per patient and region"))
    _study_options(verb("study", "compare systems: arms, seeds, one split, tables with tests"))
    verb("report", "redraw a run's pictures and summary").add_argument("run_folder", metavar="RUN")
    verb("bench", "time the kernels", add_help=False)
    _demo_options(verb("demo", "phantoms, training, sampling, scores, one picture"))
    return whole


def _phantom_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--cases", type=int, default=8, help="number of patients (%(default)s)")
    parser.add_argument("--size", type=_size, default=(96, 96, 64), help="voxels x,y,z (96,96,64)")
    parser.add_argument(
        "--seed", type=int, default=0, help="same seed, same patients (%(default)s)"
    )
    parser.add_argument(
        "--task",
        default="nested",
        help="nested: tumours that local sight can segment; global-cue: a weak field over the whole"
        " brain decides which of NCR and ET is the rim; organs: abdominal CT in nnU-Net's layout"
        " (%(default)s)",
    )
    parser.add_argument(
        "--noise-free", action="store_true", help="the same patients without the images' noise"
    )


def _train_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "fastseg train RECIPE --data DATA --out RUN [name=value ...]"
    parser.add_argument("recipe", nargs="?")
    parser.add_argument("-h", "--help", action=_TrainHelp, nargs=0, default=False)
    parser.add_argument("--recipes", action="store_true", help="list the recipes")
    parser.add_argument(
        "--deviations", action="store_true", help="list where RECIPE differs from its source, why"
    )
    parser.add_argument("--data", help="data set: BraTS folders, dataset.json or a datalist")
    parser.add_argument("--out", help="folder of the run; a stopped run in it goes on")
    parser.add_argument("--split", help="split.json to use instead of a new split")
    parser.add_argument("--kernels", help="the same as kernels=NAME: auto, reference, …")


def _sample_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "fastseg sample RUN --data DATA --out PREDICTIONS [options] [name=value ...]"
    parser.epilog = (
        "name=value: one of the system's sampling options, such as sampling_steps=20, or device=cpu"
    )
    parser.add_argument("checkpoint", help="a run (its best checkpoint counts) or one checkpoint")
    parser.add_argument("--data", required=True, help="data set to predict")
    parser.add_argument("--out", required=True, help="folder for CASE_pred.nii.gz")
    parser.add_argument("--cases", type=_ids, help="ids: A,B,C (all)")
    parser.add_argument("--part", default="all", help="all, train, val or test of the run's split")
    parser.add_argument(
        "--modalities",
        type=_ids,
        help="t1,t2,…: what to show a network of one channel, each alone, to OUT/MODALITY",
    )
    parser.add_argument(
        "--hide", type=_ids, help="synthesis: modalities to synthesise though they are there:"
        " t1ce,t2; or every, each subset in a folder of its own"
    )  # fmt: skip
    parser.add_argument(
        "--by", choices=("mean", "regression"), help="synthesis: in place of the network what it"
        " has to beat: the mean of the given images, or a linear regression on them, voxel by"
        " voxel, fitted to the run's training cases in DATA"
    )  # fmt: skip
    parser.add_argument(
        "--labels", type=_values, help="ET=3,…: values to write for classes, in place of those of"
        " the data set or its layout"
    )  # fmt: skip
    parser.add_argument("--suffix", default="pred", help="CASE_<suffix>.nii.gz (%(default)s)")
    parser.add_argument("--kernels", help="the same as kernels=NAME: auto, reference, …")


def _evaluate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("predictions", help="folder of predicted NIfTI files")
    parser.add_argument("--data", required=True, help="data set with the true labels, or images")
    parser.add_argument(
        "--task", choices=TASKS, default="segmentation",
        help="what was predicted; synthesis: PSNR, SSIM per modality and subset (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--truth", help="synthesis: data set with the same cases' images to compare with, such as "
        "phantoms without noise; brain and scale stay those of DATA (DATA)"
    )  # fmt: skip
    parser.add_argument("--out", help="folder for the tables")
    parser.add_argument("--cases", type=_ids, help="ids: A,B,C (all)")
    parser.add_argument(
        "--missing",
        choices=("skip", "empty", "error"),
        default="skip",
        help="cases without a prediction: list them, score them as empty, or stop (%(default)s)",
    )
    parser.add_argument(
        "--modalities",
        type=_ids,
        help="t1,t1ce,t2,flair: score PREDICTIONS/MODALITY of each, one table and picture",
    )
    parser.add_argument("--region", help="score this region alone, its classes merged")


def _study_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "fastseg study NAME --data DATA --out OUT [--seeds 0,1,2] [[ARM:]name=value ...]"
    parser.epilog = (
        "name=value: of the arms whose recipes have it; ARM:name=value: of one arm;"
        " segmenter:name=value: of the network that segments what study synthesis made"
    )
    parser.add_argument(
        "name",
        help="fusion (arms of fno_unet), tracks (A, B, C-legacy, C-fixed),"
        " domain-generalisation (E, on four modalities), medsegdiff (its parts), synthesis (arms of"
        " fgc2f_udiff), synthesis-task (one task alone)",
    )
    parser.add_argument("--data", required=True, help="data set, labelled unless for synthesis")
    parser.add_argument("--out", required=True, help="folder of the study; a stopped one goes on")
    parser.add_argument("--truth", help="synthesis: data set whose images to compare with (DATA)")
    parser.add_argument("--seeds", type=_seeds, default=(0, 1, 2), help="runs of each arm (0,1,2)")
    parser.add_argument("--arms", type=_ids, help="A,B: these alone (all)")
    parser.add_argument("--kernels", help="the same as kernels=NAME: auto, reference, …")


def _demo_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="fastseg-demo", help="folder to write (%(default)s)")
    parser.add_argument("--cases", type=int, default=28, help="number of phantoms (%(default)s)")
    parser.add_argument("--epochs", type=int, default=10, help="passes over them (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of phantoms, split and training")


class _TrainHelp(argparse.Action):
    """Help of `train` alone is argparse's; of `train RECIPE` it is the recipe's keys."""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, True)
        if namespace.recipe is None:
            parser.print_help()
            print("\nname=value: `fastseg train RECIPE --help` lists a recipe's names and values")
            parser.exit()


def _ids(text: str) -> list[str]:
    return text.split(",")


def _values(text: str) -> dict[str, int]:
    pairs = [item.rpartition("=")[::2] for item in text.split(",")]
    if not all(name and value.isdecimal() for name, value in pairs):
        raise argparse.ArgumentTypeError(f"{text!r}, wanted a class and a value: ET=3,ED=2")
    return {name: int(value) for name, value in pairs}


def _seeds(text: str) -> tuple[int, ...]:
    numbers = text.split(",")
    if not all(number.isdecimal() for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r}, wanted whole numbers: 0,1,2")
    return tuple(map(int, numbers))


def _size(text: str) -> tuple[int, ...]:
    numbers = text.split(",")
    if len(numbers) != 3 or not all(number.isdecimal() and int(number) for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r}, wanted three numbers of voxels: 96,96,64")
    return tuple(map(int, numbers))


def as_overrides(given: argparse.Namespace, words: Sequence[str]) -> str:
    """Complete an error about `words` that a verb does not know, such as `--epochs 3`, by what to
    write, `epochs=3`; empty where nothing is meant.
    """
    keys = _keys(given)
    found = [(_meant(name, keys), value) for name, value in _flags(words)]
    if not found or any(key is None for key, _ in found):
        return ""
    return "; a setting is written " + " ".join(f"{key}={value}" for key, value in found)


def _flags(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    left = list(words)
    while left:
        word = left.pop(0)
        if word.startswith("-"):
            name, equals, value = word.lstrip("-").partition("=")
            if not equals:
                own = left and not left[0].startswith("-") and "=" not in left[0]
                value = left.pop(0) if own else "VALUE"
            yield name.replace("-", "_"), value


def _keys(given: argparse.Namespace) -> Collection[str] | None:
    """Those that the verb may take; None where only a checkpoint tells."""
    if given.verb == "sample":
        return None
    from fastseg import config

    name = getattr(given, "recipe", None)
    known = name in config.recipe_names() or name in config.ALIASES
    types = config.option_types(config.load_recipe(name if known else "fno"))
    return [key for key in types if known or not key.startswith("model.")]


def _meant(name: str, keys: Collection[str] | None) -> str | None:
    if keys is None:
        return name
    same = [key for key in keys if name in (key, key.rpartition(".")[2])]
    near = same or difflib.get_close_matches(name, keys, 1, 0.8)
    return near[0] if near else None
