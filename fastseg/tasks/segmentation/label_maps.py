"""Label maps of whole patients, as files."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fastseg.config import Recipe
from fastseg.data import nifti
from fastseg.data.cases import Case, Dataset, discover
from fastseg.data.cases.layouts import canonical
from fastseg.data.pipeline import load_case
from fastseg.errors import UsageError
from fastseg.host.files import inside
from fastseg.tasks.base import Claim, Prediction, View, Watch, Wishes, case_noise
from fastseg.tasks.network import Trained, input_channels
from fastseg.tasks.segmentation.files import ALL_EMPTY, check_different
from fastseg.tasks.segmentation.label_values import as_before, label_values
from fastseg.tasks.segmentation.predict import predict_volume

log = logging.getLogger("fastseg")


class LabelMaps(Prediction):
    """CASE_<suffix>.nii.gz with label values in the geometry of the case's images; of a system with
    an ensemble, CASE_uncertainty.nii.gz beside it, the members' variance in float32.

    Values are the data set's own (`label_values`), or those of `wishes.labels`.
    """

    def __init__(self, trained: Trained, data: str | Path, out: Path, wishes: Wishes):
        self.trained, self.out, self.suffix = trained, out, wishes.suffix
        self.views = _views(trained, wishes.modalities)
        self._seen = {view: discovered(trained.recipe, data, view.shown) for view in self.views}
        self.dataset = self._seen[self.views[0]]
        values = label_values(self.dataset, trained.scheme, wishes.labels)
        self.values = list(values.values())
        as_once = as_before(self.dataset, trained.scheme, values)
        self.claims = []
        for view, dataset in self._seen.items():
            others = dataset.modalities != trained.modalities
            plain = {"modalities": dataset.modalities} if others else {}
            former = plain if as_once else None
            self.claims.append(Claim(view.folder, plain | {"labels": values}, former))
        self.net = trained.network()
        self._empty: dict[str, list[bool]] = {}

    def start(self, device: torch.device, cases: Sequence[Case]) -> None:
        """Bring the network to a device."""
        self.net.to(device)

    def paths(self, case: Case, view: View) -> list[Path]:
        """List the one label map."""
        return [inside(self.out, view.folder, f"{case.id}_{self.suffix}.nii.gz")]

    def is_done(self, case: Case, view: View) -> bool:
        """Tell whether it is there."""
        return all(path.exists() for path in self.paths(case, view))

    def predict(self, case: Case, view: View, watch: Watch) -> None:
        """Write it, and the variance of an ensemble before it."""
        (path,) = self.paths(case, view)
        classes, variance, header = self._classes(self._seen[view], case, watch)
        if variance is not None:
            nifti.write(path.with_name(f"{case.id}_uncertainty.nii.gz"), variance, header)
        self._empty.setdefault(view.folder, []).append(not classes.any())
        nifti.write(path, self.trained.scheme.to_values(classes, self.values), header)

    def finish(self) -> None:
        """Warn where every prediction of a view is empty."""
        for folder, empty in self._empty.items():
            if all(empty):
                log.warning("%s: " + ALL_EMPTY, self.out / folder, len(empty), len(empty))

    def _classes(
        self, dataset: Dataset, case: Case, watch: Watch
    ) -> tuple[np.ndarray, np.ndarray | None, nifti.Header]:
        recipe, net = self.trained.recipe, self.net
        arrays = load_case(dataset, dataset.by_id(case.id), recipe.data.rule)
        image = torch.from_numpy(arrays.image).to(next(net.parameters()).device)
        text, share = "", 0.0

        def on_windows(done: int, total: int) -> None:
            nonlocal text, share
            text, share = f"window {done}/{total}", done / total
            watch(text, share)

        net.on_step = lambda t, *_: watch(f"{text}, step {t}", share)
        variance = None
        if net.predicts_variance:
            variance = np.zeros(arrays.image.shape[1:], np.float32)
        classes = predict_volume(
            net, image, recipe.data.patch, recipe.data.at_once,
            case_noise(recipe.seed, case.id, image.device), on_windows, variance,
            recipe.data.rule.background,
        )  # fmt: skip
        return classes, variance, arrays.header


def discovered(recipe: Recipe, data: str | Path, shown: Sequence[str]) -> Dataset:
    """Find a data set, merged to the recipe's region where there are labels to say what that is."""
    dataset = discover(data, shown)
    if recipe.region is None or all(case.label is None for case in dataset.cases):
        return dataset
    return discover(data, shown, region=recipe.region)


def _views(trained: Trained, wanted: Sequence[str] | None) -> list[View]:
    """Make one view, or where a network of one channel is shown others, one of each."""
    channels = input_channels(trained.recipe, trained.modalities)
    if wanted is None:
        # the first of those that the network saw one at a time
        return [View("", trained.modalities[:channels])]
    check_different(wanted)
    if channels == 1:
        return [View(name, (name,)) for name in wanted]
    named = tuple(map(canonical, wanted))
    if sorted(named) == sorted(trained.modalities) and named != trained.modalities:
        raise UsageError(
            f"modalities: is {', '.join(wanted)}, wanted {', '.join(trained.modalities)}: the "
            "network tells its channels apart"
        )
    if len(wanted) != channels:
        raise UsageError(
            f"modalities: is {', '.join(wanted)}, wanted {channels}, for the network was trained "
            f"on {', '.join(trained.modalities)}"
        )
    return [View("", tuple(wanted))]
