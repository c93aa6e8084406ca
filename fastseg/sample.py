"""Predict whole patients with a trained network; needs nothing but a checkpoint and the data.

fastseg sample RUN --data DATA --out PREDICTIONS
fastseg sample RUN --data DATA --out PREDICTIONS --part test
fastseg sample RUN --data DATA --out PREDICTIONS --modalities t1,t1ce,t2,flair    # each alone
fastseg sample RUN/checkpoints/last-000012 --data DATA --out PREDICTIONS --cases A,B --suffix seg
fastseg sample RUN --data DATA --out PREDICTIONS --labels ET=3    # not the data set's values
fastseg sample RUN --data DATA --out PREDICTIONS sampler=dpm++ sampling_steps=20 ensemble=5
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastseg import config, models, tasks
from fastseg.data.cases import Case, Dataset
from fastseg.errors import DataError, UsageError, offered
from fastseg.host.device import own_device, use_kernels
from fastseg.host.files import inside, write_json
from fastseg.host.processes import Place, launched
from fastseg.host.progress import progress
from fastseg.tasks.base import RECORD, Claim, Prediction, Wishes
from fastseg.tasks.finished import FILES, Finished
from fastseg.tasks.network import Trained

log = logging.getLogger("fastseg")


def sample(
    checkpoint_path: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    cases: Sequence[str] | None = None,
    part: str = "all",
    kernels: str = "auto",
    suffix: str = "pred",
    overrides: Sequence[str] = (),
    modalities: Sequence[str] | None = None,
    hide: Sequence[str] = (),
    by: str | None = None,
    labels: Mapping[str, int] | None = None,
) -> list[Path]:
    """Predict the cases of a data set, and return the files that hold the predictions.

    Segmentation writes `out/CASE_<suffix>.nii.gz` with label values, noted in `out/sample.json`, in
    the geometry of the case's images, and of an ensemble CASE_uncertainty.nii.gz, the members'
    variance. A system that synthesises writes CASE_MODALITY_<suffix>.nii.gz of missing modalities.
    Started by torchrun or srun, each process predicts its share. Files that are there from a
    stopped call are kept; the noise of a case depends on the run's seed and its id alone. Averaged
    weights are used when there are any.

    Args:
        checkpoint_path: a run, of which the best checkpoint counts, or one checkpoint.
        data: data set folder or description.
        out: folder for the files.
        cases: ids, None for all.
        part: all, or train, val or test of the checkpoint's split.
        kernels: backend of the spectral operators, as `fastseg.use_backend` has them.
        suffix: end of the files' names.
        overrides: `name=value` changes of the system's sampling options, device and kernels.
        modalities: what to show in place of those trained on, as many; a network of one channel
            sees each of them alone and writes to `out/MODALITY`.
        hide: modalities to synthesise though they are there, or "every": each subset in turn, to
            folders such as `out/t1+flair`.
        by: "mean" or "regression": a baseline to synthesise in place of the network.
        labels: values to write for classes, in place of the data set's own.

    Raises:
        UsageError: for unknown cases or options, and where `out` holds other predictions.
        DataError: names damaged files, when all other cases are predicted.
    """
    trained = Trained.load(checkpoint_path)
    recipe = trained.recipe
    allowed = models.sampling_options(recipe.system)
    recipe = config.override_sampling(recipe, allowed, overrides)
    if by is not None:
        _refuse_options(by, overrides)
    trained, out = replace(trained, recipe=recipe), Path(out)
    shown = None if modalities is None else tuple(modalities)
    wishes = Wishes(suffix, shown, labels, tuple(hide), by)
    work = tasks.of(recipe.system).prediction(trained, data, out, wishes)
    place = launched() or Place()
    everyone = choose_cases(work.dataset, trained.split, cases, part)
    work.check(everyone)
    device = own_device(recipe.device, place)
    for claim in work.claims:
        _claim(out, claim, _record(trained, data, allowed), suffix)
    chosen = everyone[place.rank :: place.world]
    with use_kernels(recipe.kernels if kernels == "auto" else kernels):
        work.start(device, chosen)
        return _predict(work, chosen, trained.name, Finished(out))


def _refuse_options(by: str, overrides: Sequence[str]) -> None:
    for item in overrides:
        if config.split_override(item)[0] not in ("device", "kernels"):
            raise UsageError(f"by: {by} has no options such as {item}")


def _predict(work: Prediction, chosen: Sequence[Case], name: str, finished: Finished) -> list[Path]:
    """Write what is not there yet, case by case, and list all files view by view."""
    failed: list[str] = []
    done = {
        (view, case.id): work.is_done(case, view) and finished.has_all(work.paths(case, view))
        for view in work.views
        for case in chosen
    }
    with progress(len(done), f"sample {name}", sum(done.values())) as advance:
        for case in chosen:
            for view in work.views:
                if done[view, case.id]:
                    continue
                text = " ".join(filter(None, (case.id, view.folder)))

                def watch(what: str, share: float, text=text) -> None:
                    advance(0, f"{text}, {what}", share)

                try:
                    work.predict(case, view, watch)
                    finished.note(work.paths(case, view))
                except DataError as error:
                    log.warning("%s is left out: %s", text, error)
                    failed.append(str(error))
                advance(text=text)
    work.finish()
    if failed:
        raise DataError(
            f"{len(failed)} of {len(done)} predictions could not be made: {'; '.join(failed[:3])}"
        )
    paths = [path for view in work.views for case in chosen for path in work.paths(case, view)]
    if lost := [path for path in paths if not path.exists()]:
        raise DataError(f"{lost[0]}: was removed meanwhile, one of {len(lost)} of {len(paths)}")
    return paths


def choose_cases(
    dataset: Dataset, split: dict[str, list[str]], ids: Sequence[str] | None, part: str
) -> list[Case]:
    """Pick cases by id, or those of a part of a split. UsageError for unknown ones."""
    if part != "all" and part not in split:
        raise UsageError(f"part: is {part!r}, wanted all, {', '.join(split)}")
    known = {case.id: case for case in dataset.cases}
    wanted = list(ids) if ids is not None else list(known) if part == "all" else split[part]
    if not wanted:
        log.warning("part: the run's split has no %s patients; nothing is predicted", part)
    missing = [case_id for case_id in wanted if case_id not in known]
    if missing:
        there = offered(missing[0], known)
        raise UsageError(f"{dataset.root}: has no case {', '.join(missing[:5])}{there}")
    return [known[case_id] for case_id in wanted]


def _record(trained: Trained, data: str | Path, allowed: frozenset[str]) -> dict[str, Any]:
    """What all predictions of a call have in common, as sample.json holds it."""
    recipe = trained.recipe
    record = {"weights": trained.sha256, "data": str(Path(data).resolve())}
    if recipe.region:
        record["region"] = recipe.region
    if allowed:
        record["sampling"] = {key: recipe.model[key] for key in sorted(allowed & set(recipe.model))}
    return record


def _claim(out: Path, claim: Claim, common: dict[str, Any], suffix: str) -> None:
    """Predictions already there are skipped, so they must be this checkpoint's of this data set."""
    folder, record = inside(out, claim.folder), common | claim.record
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RECORD
    # before the record is read: another process may write it, and then predictions, now
    some = any(folder.glob(f"*_{suffix}.nii.gz"))
    try:
        known = config.from_json(json.loads(path.read_text())) if path.exists() else None
    except ValueError:
        known = {}
    files = known.pop(FILES, None) if isinstance(known, dict) else None
    former = None if claim.former is None else common | claim.former
    fits = known in (record, former) if known else known is None and not some
    if not fits and not known and path.exists():
        raise UsageError(
            f"{path}: is empty or damaged, so it does not say what the predictions beside it are "
            "of; remove them and it, or choose another folder"
        )
    if not fits:
        raise UsageError(f"{folder}: holds other predictions; choose another folder")
    if known != record:
        write_json(path, record | ({FILES: files} if files else {}))
