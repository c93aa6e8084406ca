"""The batches of a run: labelled ones, and next to them images whose labels are not used."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fastseg.config import Recipe
from fastseg.data.cases import Dataset
from fastseg.data.pipeline import Loader
from fastseg.data.pipeline.division import divide
from fastseg.errors import UsageError

_LABELLED, _UNLABELLED = 1, 2  # second words of the seeds drawn here


class Feed:
    """One rank's shares of the batches, a pure function of (seed, epoch, batch, step).

    They are `Loader`'s of the training cases; `division` has the sizes of the parts in which each
    rank goes through its own. With `recipe.labelled_fraction` labels come from
    split["labelled"] only and a batch has "unlabelled" too, images of as many samples (B, C,
    *patch) of the other cases, whose labels are used for nothing, the choice of crops included; an
    epoch is then a pass over these, and the labelled cases are gone through again and again.
    """

    def __init__(self, dataset: Dataset, split: dict[str, list[str]], recipe: Recipe, fabric: Any):
        def loader(case_ids: list[str], dataset: Dataset = dataset, **changes) -> Loader:
            data = replace(recipe.data, **changes)
            return Loader(dataset, case_ids, data, backend=recipe.loader, device=fabric.device,
                          rank=fabric.global_rank, world=fabric.world_size)  # fmt: skip

        data = recipe.data
        self.division = divide(data.batch_size, fabric.world_size, data.micro_batch)
        self.parts = self.division[fabric.global_rank]
        labelled = split.get("labelled", split["train"])
        self.labelled = loader(labelled)
        self.unlabelled = None
        if "labelled" in split:
            others = sorted(set(split["train"]) - set(labelled))
            blind = replace(dataset, cases=tuple(replace(c, label=None) for c in dataset.cases))
            # a seed of its own: its samples are not turned and mirrored as the labelled ones are
            self.unlabelled = loader(
                others, blind, foreground_fraction=None, seed=_seed(recipe.seed, _UNLABELLED)
            )

    @property
    def batches_per_epoch(self) -> int:
        """Count the batches in an epoch."""
        return (self.unlabelled or self.labelled).batches_per_epoch

    def epoch(self, epoch: int, batch: int, step: int) -> Iterator[dict[str, Any]]:
        """Yield the batches of an epoch from `batch` on; the first is step `step` of the run."""
        if self.unlabelled is None:
            yield from self.labelled.epoch(epoch, batch)
            return
        labelled = self._endless(step)
        for other in self.unlabelled.epoch(epoch, batch):
            yield next(labelled) | {"unlabelled": other["image"]}

    def close(self) -> None:
        """End the worker threads."""
        self.labelled.close()
        if self.unlabelled is not None:
            self.unlabelled.close()

    def _endless(self, step: int) -> Iterator[dict[str, Any]]:
        epoch, batch = divmod(step, self.labelled.batches_per_epoch)
        while True:
            yield from self.labelled.epoch(epoch, batch)
            epoch, batch = epoch + 1, 0


def choose_labelled(
    dataset: Dataset, train: Sequence[str], fraction: float, seed: int
) -> list[str]:
    """Choose the cases of `train` whose labels are used: a share of its patients, drawn by `seed`.

    At least one patient is in it and one is not. UsageError for fewer than two patients.
    """
    by_patient: dict[str, list[str]] = {}
    for case_id in train:
        by_patient.setdefault(dataset.by_id(case_id).patient, []).append(case_id)
    patients = sorted(by_patient)
    if len(patients) < 2:
        raise UsageError(f"labelled_fraction: {len(patients)} training patients, wanted two")
    count = min(max(1, math.floor(len(patients) * fraction + 1e-9)), len(patients) - 1)
    chosen = np.random.default_rng((seed, _LABELLED)).permutation(len(patients))[:count]
    return sorted(case_id for i in chosen for case_id in by_patient[patients[i]])


def _seed(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1)[0])
