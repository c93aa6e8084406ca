"""The `fastseg` command. Every verb imports what it needs when it runs, so help is instant.

Exit codes: 0 fine, 1 failed, 2 usage, 3 bad data, 4 non-finite training, 143 stopped and saved.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from fastseg.errors import FastsegError, UsageError

_OVERRIDABLE = ("train", "sample", "study")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code. A user's mistake is one line on stderr, no traceback."""
    logging.basicConfig(level=logging.WARNING, format="fastseg: %(message)s")
    parser = _parser()
    try:
        arguments, rest = parser.parse_known_args(argv)
        arguments.rest = _check_rest(parser, arguments, rest)
        return arguments.run(arguments) or 0
    except SystemExit as error:  # argparse's own way out: 0 after help, 2 after a usage error
        return error.code if isinstance(error.code, int) else 2
    except FastsegError as error:
        return _say(error, error.exit_code)
    except OSError as error:
        return _say(error, 1)
    except KeyboardInterrupt:
        return _say("interrupted", 130)


def doctor(arguments: argparse.Namespace) -> int:
    from fastseg.doctor import doctor

    return doctor()


def check(arguments: argparse.Namespace) -> int:
    from fastseg.data.cases import check, discover, summarise
    from fastseg.data.intensity import CT_ADVICE
    from fastseg.progress import progress

    dataset = discover(arguments.data)
    with progress(len(dataset.cases), "check") as advance:
        problems = check(dataset, progress=lambda *_: advance())
    for problem in problems:
        print(f"{problem.path}: {problem.kind}: {problem.message}")
    print(f"{summarise(dataset)}: {len(problems)} problems")
    if "ct" in dataset.modalities:
        print(f"channel ct {CT_ADVICE}")
    return 3 if problems else 0


def phantom(arguments: argparse.Namespace) -> None:
    from fastseg.data import phantom
    from fastseg.progress import progress

    with progress(arguments.cases, "phantom") as advance:
        phantom.write(
            arguments.out,
            arguments.cases,
            size=arguments.size,
            seed=arguments.seed,
            progress=lambda *_: advance(),
            task=arguments.task,
            noise=not arguments.noise_free,
        )
    print(arguments.out)


def train(arguments: argparse.Namespace) -> None:
    from fastseg import config

    if arguments.recipes:
        print("\n".join(config.recipe_names()))
        return
    if arguments.recipe is None:
        raise UsageError("train: wants a recipe; `fastseg train --recipes` lists them")
    if arguments.help:
        usage = f"fastseg train {arguments.recipe} --data DATA --out RUN [name=value ...]"
        print(usage, config.describe(arguments.recipe), sep="\n")
        return
    if arguments.data is None or arguments.out is None:
        raise UsageError("train: wants --data DATA and --out RUN")
    overrides = [*arguments.rest, *([f"kernels={arguments.kernels}"] if arguments.kernels else [])]
    recipe = config.load_recipe(arguments.recipe, overrides)
    from fastseg.processes import Place, launched
    from fastseg.train import train

    last = train(recipe, arguments.data, arguments.out, split=arguments.split)
    if (launched() or Place()).rank == 0:
        print(last)


def sample(arguments: argparse.Namespace) -> None:
    from fastseg import across
    from fastseg.sample import sample

    several = arguments.modalities is not None
    written = (across.sample if several else sample)(
        arguments.checkpoint,
        arguments.data,
        arguments.out,
        cases=arguments.cases,
        part=arguments.part,
        kernels=arguments.kernels or "auto",
        suffix=arguments.suffix,
        overrides=arguments.rest,
        **({"modalities": arguments.modalities} if several else {}),
        hide=arguments.hide or (),
        by=arguments.by,
    )
    print(f"{len(written)} predictions in {arguments.out}")


def evaluate(arguments: argparse.Namespace) -> None:
    if arguments.task == "synthesis":
        if arguments.modalities or arguments.region or arguments.missing != "skip":
            raise UsageError("--modalities, --region, --missing: are of segmentations")
        from fastseg.evaluate_synthesis import evaluate_synthesis

        evaluate_synthesis(
            arguments.predictions,
            arguments.data,
            arguments.out,
            truth=arguments.truth,
            cases=arguments.cases,
        )
        return
    if arguments.truth is not None:
        raise UsageError("--truth: is of --task synthesis; the labels of --data are the truth here")
    from fastseg import across
    from fastseg.evaluate import evaluate

    several = arguments.modalities is not None
    (across.evaluate if several else evaluate)(
        arguments.predictions,
        arguments.data,
        out=arguments.out,
        **({"modalities": arguments.modalities} if several else {}),
        cases=arguments.cases,
        missing=arguments.missing,
        region=arguments.region,
    )


def study(arguments: argparse.Namespace) -> None:
    from fastseg.study import study

    overrides = [*arguments.rest, *([f"kernels={arguments.kernels}"] if arguments.kernels else [])]
    print(study(arguments.name, arguments.data, arguments.out,
                seeds=arguments.seeds, overrides=overrides, truth=arguments.truth,
                arms=arguments.arms))  # fmt: skip


def report(arguments: argparse.Namespace) -> None:
    from fastseg.report import report

    print(report(arguments.run_folder))


def bench(arguments: argparse.Namespace) -> int:
    from fastseg.bench import main

    return main(arguments.rest)


def demo(arguments: argparse.Namespace) -> None:
    from fastseg.demo import demo

    demo(arguments.out, arguments.cases, arguments.epochs, seed=arguments.seed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastseg", description="Fourier- and diffusion-based models on brain MRI."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(run, text: str, **options) -> argparse.ArgumentParser:
        added = verbs.add_parser(run.__name__, help=text, description=text, **options)
        added.set_defaults(run=run)
        return added

    verb(doctor, "what was built, what is live on this machine, and why not")
    verb(check, "look for damaged or inconsistent files").add_argument("data")
    _phantom_options(verb(phantom, "write synthetic patients, as BraTS 2021 or nnU-Net has them"))
    _train_options(verb(train, "train a recipe, or go on with a run", add_help=False))
    _sample_options(verb(sample, "predict whole patients with a trained network"))
    scores = verb(evaluate, "score predictions: Dice, IoU, HD95 per patient and region")
    scores.add_argument("predictions", help="folder of predicted NIfTI files")
    scores.add_argument("--data", required=True, help="data set with the true labels, or images")
    scores.add_argument(
        "--task", choices=("segmentation", "synthesis"), default="segmentation",
        help="what was predicted; synthesis: PSNR, SSIM per modality and subset (%(default)s)",
    )  # fmt: skip
    scores.add_argument(
        "--truth", help="synthesis: data set with the same cases' images to compare with, such as "
        "phantoms without noise; brain and scale stay those of DATA (DATA)"
    )  # fmt: skip
    scores.add_argument("--out", help="folder for the tables")
    scores.add_argument("--cases", type=_ids, help="ids: A,B,C (all)")
    scores.add_argument(
        "--missing",
        choices=("skip", "empty", "error"),
        default="skip",
        help="cases without a prediction: list them, score them as empty, or stop (%(default)s)",
    )
    scores.add_argument(
        "--modalities",
        type=_ids,
        help="t1,t1ce,t2,flair: score PREDICTIONS/MODALITY of each, one table",
    )
    scores.add_argument("--region", help="score this region alone, its classes merged")
    _study_options(verb(study, "compare systems: arms, seeds, one split, tables with tests"))
    verb(report, "redraw a run's pictures and summary").add_argument("run_folder", metavar="RUN")
    verb(bench, "time the kernels", add_help=False)
    trial = verb(demo, "phantoms, training, sampling, scores, one picture")
    trial.add_argument("--out", default="fastseg-demo", help="folder to write (%(default)s)")
    trial.add_argument("--cases", type=int, default=28, help="number of phantoms (%(default)s)")
    trial.add_argument("--epochs", type=int, default=10, help="passes over them (%(default)s)")
    trial.add_argument("--seed", type=int, default=0, help="of phantoms, split and training")
    return parser


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
    parser.add_argument("--data", help="data set: BraTS folders, dataset.json or a datalist")
    parser.add_argument("--out", help="folder of the run; a stopped run in it goes on")
    parser.add_argument("--split", help="split.json to use instead of a new split")
    parser.add_argument("--kernels", help="backend of the spectral ops: auto, reference, …")


def _sample_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "fastseg sample RUN --data DATA --out PREDICTIONS [options] [name=value ...]"
    parser.epilog = "name=value: one of the system's sampling options, such as sampling_steps=20"
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
    parser.add_argument("--suffix", default="pred", help="CASE_<suffix>.nii.gz (%(default)s)")
    parser.add_argument("--kernels", help="backend of the spectral ops: auto, reference, …")


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
    parser.add_argument("--kernels", help="backend of the spectral ops: auto, reference, …")


class _TrainHelp(argparse.Action):
    """Help of `train` alone is argparse's; of `train RECIPE` it is the recipe's keys."""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, True)
        if namespace.recipe is None:
            parser.print_help()
            print("\nname=value: `fastseg train RECIPE --help` lists a recipe's names and values")
            parser.exit()


def _check_rest(parser, arguments: argparse.Namespace, rest: list[str]) -> list[str]:
    """`name=value` words belong to some verbs, everything to bench, nothing to the others."""
    allowed = arguments.verb == "bench" or (
        arguments.verb in ("train", "sample", "study")
        and all(not word.startswith("-") for word in rest)
    )
    if rest and not allowed:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return rest


def _ids(text: str) -> list[str]:
    return text.split(",")


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


def _say(message: object, code: int) -> int:
    print(f"fastseg: {' '.join(str(message).split())}", file=sys.stderr)
    return code
