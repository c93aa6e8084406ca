"""The `fastseg` command. Every verb imports what it needs when it runs, so help is instant.

Exit codes: 0 fine, 1 failed, 2 usage, 3 bad data, 4 non-finite training, 143 stopped and saved.
"""

import argparse
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fastseg import arguments
from fastseg.errors import DataError, FastsegError, FastsegWarning, UsageError, no_memory

log = logging.getLogger("fastseg")
_OVERRIDABLE = ("train", "sample", "study")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code. A user's mistake is one line on stderr, no traceback."""
    logging.basicConfig(level=logging.WARNING, format="fastseg: %(message)s")
    parser = arguments.parser()
    with suppress(AttributeError):  # a notebook's stream; others may be asked for any path
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        given, rest = parser.parse_known_args(argv)
        given.rest = _check_rest(parser, given, rest)
        _check_paths(given)
        with _plain_warnings():
            return VERBS[given.verb](given) or 0
    except SystemExit as error:  # argparse's own way out: 0 after help, 2 after a usage error
        return error.code if isinstance(error.code, int) else 2
    except FastsegError as error:
        return _say(error, error.exit_code)
    except OSError as error:
        return _say(error, 1)
    except (MemoryError, RuntimeError, ImportError) as error:
        if not no_memory(error):
            raise
        reason = str(error).strip().splitlines()[-1:] or ["of this process"]
        return _say(f"not enough memory ({reason[0]}); smaller batches, patches or networks need"
                    " less", 1)  # fmt: skip
    except KeyboardInterrupt:
        return _say("interrupted", 130)


def doctor(given: argparse.Namespace) -> int:
    from fastseg.doctor import doctor

    return doctor()


def check(given: argparse.Namespace) -> int:
    from fastseg.data.cases import check, discover, notices, summarise
    from fastseg.data.pipeline.intensity import CT_ADVICE
    from fastseg.host.progress import progress

    dataset = discover(given.data)
    with progress(len(dataset.cases), "check") as advance:
        problems = check(dataset, progress=lambda *_: advance())
    for problem in problems:
        print(f"{problem.path}: {problem.kind}: {problem.message}")
    for line in notices.unused(dataset):
        log.warning(line)
    print(f"{summarise(dataset)}: {len(problems)} problems")
    if "ct" in dataset.modalities:
        print(f"channel ct {CT_ADVICE}")
    return 3 if problems else 0


def phantom(given: argparse.Namespace) -> None:
    from fastseg.data import phantom
    from fastseg.host.progress import progress

    with progress(given.cases, "phantom") as advance:
        phantom.write(
            given.out,
            given.cases,
            size=given.size,
            seed=given.seed,
            progress=lambda *_: advance(),
            task=given.task,
            noise=not given.noise_free,
        )
    print(given.out)


def train(given: argparse.Namespace) -> None:
    from fastseg import config

    if given.recipes:
        print("\n".join(config.recipe_names()))
        return
    if given.recipe is None:
        raise UsageError("train: wants a recipe; `fastseg train --recipes` lists them")
    if given.help or given.deviations:
        from fastseg import recipes

        if given.help:
            print(f"fastseg train {given.recipe} --data DATA --out RUN [name=value ...]")
            print(recipes.describe(given.recipe))
        else:
            found = recipes.deviations(given.recipe)
            nowhere = f"{given.recipe} differs nowhere from a source, or has none"
            print(recipes.aligned([recipes.HEAD, *found]) if found else nowhere)
        return
    if given.data is None or given.out is None:
        raise UsageError("train: wants --data DATA and --out RUN")
    recipe = config.load_recipe(given.recipe, _overrides(given))
    from fastseg.host.processes import Place, launched
    from fastseg.train import train

    last = train(recipe, given.data, given.out, split=given.split)
    if (launched() or Place()).rank == 0:
        print(last)


def sample(given: argparse.Namespace) -> None:
    from fastseg.sample import sample
    from fastseg.tasks.segmentation.label_values import noted_values

    written = sample(
        given.checkpoint,
        given.data,
        given.out,
        cases=given.cases,
        part=given.part,
        suffix=given.suffix,
        overrides=_overrides(given),
        modalities=given.modalities,
        hide=given.hide or (),
        by=given.by,
        labels=given.labels,
    )
    print(f"{len(written)} predictions in {given.out}{noted_values(written)}")


def evaluate(given: argparse.Namespace) -> None:
    from fastseg.evaluate import evaluate

    evaluate(
        given.predictions,
        given.data,
        given.out,
        task=given.task,
        modalities=given.modalities,
        cases=given.cases,
        missing=given.missing,
        region=given.region,
        truth=given.truth,
    )


def study(given: argparse.Namespace) -> None:
    from fastseg.study import study

    print(study(given.name, given.data, given.out,
                seeds=given.seeds, overrides=_overrides(given), truth=given.truth,
                arms=given.arms))  # fmt: skip


def report(given: argparse.Namespace) -> None:
    from fastseg.report import report

    print(report(given.run_folder))


def bench(given: argparse.Namespace) -> int:
    from fastseg.bench import main

    return main(given.rest)


def demo(given: argparse.Namespace) -> None:
    from fastseg.demo import demo

    demo(given.out, given.cases, given.epochs, seed=given.seed)


VERBS = {
    run.__name__: run
    for run in (doctor, check, phantom, train, sample, evaluate, study, report, bench, demo)
}


def _overrides(given: argparse.Namespace) -> list[str]:
    """The `name=value` words; --kernels NAME is another way to write kernels=NAME."""
    return [*given.rest, *([f"kernels={given.kernels}"] if given.kernels else [])]


def _check_rest(parser, given: argparse.Namespace, rest: list[str]) -> list[str]:
    """`name=value` words belong to some verbs, everything to bench, nothing to the others."""
    allowed = given.verb == "bench" or (
        given.verb in _OVERRIDABLE and all(not word.startswith("-") for word in rest)
    )
    if rest and not allowed:
        hint, words = "", rest
        if given.verb in _OVERRIDABLE:
            hint = arguments.as_overrides(given, rest)
            words = [word for word in rest if word.startswith("-") or "=" not in word]
        parser.error(f"unrecognized arguments: {' '.join(words)}{hint}")
    return rest


def _check_paths(given: argparse.Namespace) -> None:
    """Look at what is to be read before torch is imported, which takes seconds."""
    predictions = getattr(given, "predictions", None)
    if predictions is not None and not Path(predictions).is_dir():
        raise UsageError(f"{predictions}: is not a folder of predictions")
    for path in (getattr(given, name, None) for name in ("checkpoint", "split")):
        if path is not None and not Path(path).exists():
            raise DataError(f"{path}: no such file or folder")
    for path in (getattr(given, name, None) for name in ("data", "truth")):
        if path is not None and given.verb != "check":  # which does nothing else
            from fastseg.data.cases import discover

            discover(path)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Our own warnings are one line, and each is said once."""
    show, said = warnings.showwarning, set()

    def plainly(message, category, *rest, **options):
        if not issubclass(category, FastsegWarning):
            show(message, category, *rest, **options)
        elif str(message) not in said:
            said.add(str(message))
            log.warning(message)

    warnings.showwarning = plainly
    try:
        yield
    finally:
        warnings.showwarning = show


def _say(message: object, code: int) -> int:
    print(f"fastseg: {' '.join(str(message).split())}", file=sys.stderr)
    return code
