"""What every task has: data to train on, a score while it trains, predictions, and their scores.

A `Task` is what a trained network is for. Its `Prediction` writes files for cases, seen through
`View`s; its `Scoring` gives a row of figures for each file, and one `Report` of all.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastseg.pictures.tables import Table

RECORD = "sample.json"  # in a folder of predictions: what they are of
Watch = Callable[[str, float], None]  # told where a case is: words, and its share done, 0 … 1


class View(NamedTuple):
    """One way to show cases to a network.

    folder: name of the subfolder of OUT for its predictions; "" for OUT itself.
    shown: modalities that the network is given.
    """

    folder: str
    shown: tuple[str, ...]


@dataclass(frozen=True)
class Wishes:
    """What a user asks of predictions, besides which cases.

    suffix: CASE_<suffix>.nii.gz. modalities: what to show in place of those trained on; a network
    of one channel sees each alone, for a folder each. labels: values to write for classes. hide:
    modalities to synthesise though they are there, or "every" subset. by: a baseline to synthesise
    in place of the network.
    """

    suffix: str = "pred"
    modalities: tuple[str, ...] | None = None
    labels: Mapping[str, int] | None = None
    hide: tuple[str, ...] = ()
    by: str | None = None


class Claim(NamedTuple):
    """The record of what a folder of predictions holds.

    folder: name of the subfolder of OUT; "" for OUT itself. record: what sample.json will say.
    former: what an older version wrote there for the same predictions, if it differs.
    """

    folder: str
    record: dict[str, Any]
    former: dict[str, Any] | None = None


class Prediction(ABC):
    """Predictions of a data set by a trained network, ready to be made case by case.

    dataset: where the cases are. views: ways to show each. claims: what the folders will hold.
    """

    dataset: Any
    views: Sequence[View]
    claims: Sequence[Claim]

    def check(self, cases: Sequence) -> None:  # noqa: B027 - most have nothing to check
        """Raise UsageError where there is nothing to predict of all `cases`."""

    @abstractmethod
    def start(self, device, cases: Sequence) -> None:
        """Bring the network to a device, before the first of this process's `cases`."""

    @abstractmethod
    def paths(self, case, view: View) -> list[Path]:
        """List the files that a view of a case will have; none where it cannot be shown so."""

    @abstractmethod
    def is_done(self, case, view: View) -> bool:
        """Tell whether these files are there, from an earlier call."""

    @abstractmethod
    def predict(self, case, view: View, watch: Watch) -> None:
        """Write the files."""

    def finish(self) -> None:  # noqa: B027 - most have nothing to say
        """Say what should be said of all predictions together."""


@dataclass(frozen=True)
class Report:
    """Scores of every file, and means.

    rows: a dict a file, "case" and the measures, None where there is nothing to measure. mean: of
    the measures over rows. missing: what could not be scored. columns: names that the measures'
    keys are made of, by kind: "regions", "classes". groups: means of rows that have something in
    common, by what that is: "given", "modality". text: for a terminal, with `notes` below it.
    document: for a JSON file. lines: for a CSV file. warning: what a person should hear even where
    nothing is printed.
    """

    rows: list[dict]
    mean: dict[str, float | None]
    missing: list[str]
    text: str
    document: dict[str, Any]
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, Mapping]] = field(default_factory=dict)
    lines: Sequence[dict] = ()
    notes: Sequence[str] = ()
    warning: str | None = None

    @property
    def regions(self) -> tuple[str, ...]:
        """List the regions that were scored."""
        return self.columns.get("regions", ())

    @property
    def classes(self) -> tuple[str, ...]:
        """List the classes that were scored, without the background."""
        return self.columns.get("classes", ())

    def to_dict(self) -> dict[str, Any]:
        """Give the JSON-able form, with the conventions that the figures follow."""
        return self.document

    def table(self) -> str:
        """Give the figures as plain text."""
        return self.text


@dataclass(frozen=True)
class Criteria:
    """How predictions are to be scored.

    cases: ids, None for all. missing: "skip", "empty" or "error", of cases without a prediction.
    region: to score alone. truth: data set of the true images where it is another one.
    """

    cases: Sequence[str] | None = None
    missing: str = "skip"
    region: str | None = None
    truth: Any = None


class Scoring(ABC):
    """The files of one folder of predictions, ready to be scored. work: items by name."""

    work: Mapping[str, Any]

    @abstractmethod
    def score(self, item: Any) -> dict:
        """Measure one item: a row."""

    @abstractmethod
    def report(self, rows: list[dict]) -> Report:
        """Sum up the rows of all items."""


class Validated(NamedTuple):
    """One validation case: its score, and what draws it into a PNG file."""

    score: float
    draw: Callable[[Path], Any]


class Task(ABC):
    """What a network is trained for. validation_key: of the score in metrics.jsonl."""

    name: str
    validation_key: str

    @abstractmethod
    def training_data(self, recipe, data, modalities: Sequence[str] | None):
        """Find the cases of a data set that a recipe can train on."""

    def check_recipe(self, recipe) -> None:  # noqa: B027 - most recipes fit
        """Raise UsageError where a recipe has a setting that the task cannot serve."""

    def begin(self, net, dataset, ids: Sequence[str], rule) -> None:  # noqa: B027
        """Set what the network must know of the training cases `ids` before the first step."""

    @abstractmethod
    def validate(
        self, net, recipe, dataset, case_id: str, number: int, watch: Callable[..., None]
    ) -> Validated:
        """Predict and score one validation case, the one at `number` in their list.

        `watch` is called between parts of the work, with any arguments, and may raise to end it.
        """

    @abstractmethod
    def prediction(self, trained, data, out: Path, wishes: Wishes) -> Prediction:
        """Prepare predictions of the data set in `data` by a trained network, to folder `out`."""

    @abstractmethod
    def scored_folders(self, folder: Path, modalities: Sequence[str] | None) -> list[str]:
        """Name the folders to score, one a view, below that of all predictions; "" for itself."""

    @abstractmethod
    def scoring(self, folder: Path, data, criteria: Criteria) -> Scoring:
        """Prepare to score a folder of predictions against a data set."""

    @abstractmethod
    def table(self, document: Mapping[str, Any]) -> Table:
        """Make a table, for a page, of what evaluation.json holds."""

    def side_by_side(self, reports: Mapping[str, Report]) -> Report:
        """Sum up the reports of several views, as `scored_folders` named them."""
        raise NotImplementedError(f"{self.name} has one view")

    def draw_side_by_side(
        self, reports: Mapping[str, Report], folder: Path, data, region: str | None, out: Path
    ) -> None:
        """Draw what the views made of a few cases, into the folder `out`."""
        raise NotImplementedError(f"{self.name} has one view")


def case_noise(seed: int, case_id: str, device):
    """Make the random generator of one case: the same in whatever order, part or company it is
    predicted.
    """
    import torch

    word = int.from_bytes(hashlib.sha256(case_id.encode()).digest()[:8], "little")
    key = np.random.SeedSequence((seed, word)).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(key >> np.uint64(1)))
