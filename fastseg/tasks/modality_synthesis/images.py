"""Missing images of whole patients, as files.

A modality that the case has is written in the scale of its own volume, so that both can be laid
over each other; one that is absent in the mean scale of the training volumes, which the checkpoint
knows. CASE_synthesis.json beside the files says which.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fastseg.data import nifti
from fastseg.data.cases import Case, discover
from fastseg.errors import UsageError
from fastseg.host.files import harmless, inside, write_json
from fastseg.tasks.base import Claim, Prediction, View, Watch, Wishes, case_noise
from fastseg.tasks.modality_synthesis.baselines import BASELINES, cases_to_fit
from fastseg.tasks.modality_synthesis.case import (
    EVERY,
    NOTES,
    Known,
    check_hidden,
    load_known,
    read_record,
)
from fastseg.tasks.modality_synthesis.picture import Shown, synthesis_png
from fastseg.tasks.modality_synthesis.predict import synthesise_volume
from fastseg.tasks.network import Trained

_PICTURED = 4  # cases; a picture takes longer than to synthesise on a GPU


class MissingImages(Prediction):
    """CASE_MODALITY_<suffix>.nii.gz of what a case lacks or `wishes.hide` takes away, with "every"
    in a folder for each subset of the modalities, such as t1+flair; of the first cases a picture of
    one slice. UsageError for a wish that has no meaning.
    """

    def __init__(self, trained: Trained, data: str | Path, out: Path, wishes: Wishes):
        self.trained, self.out, self.suffix = trained, out, wishes.suffix
        hide = check_hidden(wishes.hide, trained.modalities) if wishes.hide else ()
        self.dataset, self._hides = discover(data), bool(hide)
        record = {"hide": tuple(hide)}
        self._by, self._fit = wishes.by, []
        if wishes.by is not None:
            self._fit = cases_to_fit(wishes.by, self.dataset, trained.split["train"])
            record["by"] = wishes.by
        self.claims = [Claim("", record)]
        self.net = trained.network()
        self.views = views_of(self.net, hide)
        self._pictured: frozenset[str] = frozenset()
        self._known: tuple[str, Known] | None = None

    def check(self, cases: Sequence[Case]) -> None:
        """Raise UsageError where no case lacks anything."""
        pairs = ((case, view) for case in cases for view in self.views)
        if not self._hides and not any(self._available(*pair) is not None for pair in pairs):
            raise UsageError(
                f"{self.dataset.root}: no case lacks any of {', '.join(self.net.modalities)}; "
                "--hide takes some away"
            )

    def start(self, device: torch.device, cases: Sequence[Case]) -> None:
        """Bring the network to a device, or fit what stands in its place."""
        self._pictured = frozenset(case.id for case in cases[:_PICTURED])
        if self._by is not None:
            rule = self.trained.recipe.data.rule
            baseline = BASELINES[self._by].fitted(self.net.modalities, self._fit, rule)
            self.net = baseline.like(self.net)
        self.net.to(device)

    def paths(self, case: Case, view: View) -> list[Path]:
        """List an image for each modality that the view lacks."""
        available = self._available(case, view)
        if available is None:
            return []
        lacking = [n for n, there in zip(self.net.modalities, available, strict=True) if not there]
        names = (f"{case.id}_{name}_{self.suffix}.nii.gz" for name in lacking)
        return [inside(self.out, view.folder, name) for name in names]

    def is_done(self, case: Case, view: View) -> bool:
        """Tell whether all are there, and noted; a case without any image is never done."""
        if not case.there(self.net.modalities):
            return False
        noted = read_record(self.out / view.folder, case.id)
        return all(path.exists() and path.name in noted for path in self.paths(case, view))

    def predict(self, case: Case, view: View, watch: Watch) -> None:
        """Write the images, their notes, and of the first cases a picture."""
        recipe, known, text, share = self.trained.recipe, self._load(case), "", 0.0
        available = self._available(case, view)

        def on_slices(done: int, total: int) -> None:
            nonlocal text, share
            text, share = f"slice {done}/{total}", done / total
            watch(text, share)

        self.net.on_step = lambda t, *_: watch(f"{text}, step {t}", share)
        # drawn on the CPU, so that every device sees the same noise
        noise = case_noise(recipe.seed, f"{case.id} {view.folder}", torch.device("cpu"))
        filled = synthesise_volume(
            self.net, known, available, recipe.data.patch, recipe.data.at_once, noise, on_slices
        )
        self._write(case, known, available, filled, self.out / view.folder)
        if case.id in self._pictured:
            self._draw(case, known, available, filled, self.out / view.folder)

    def _available(self, case: Case, view: View) -> np.ndarray | None:
        return given(view, self.net.modalities, case.there(self.net.modalities))

    def _load(self, case: Case) -> Known:
        if self._known is None or self._known[0] != case.id:
            known = load_known(case, self.net.modalities, self.trained.recipe.data.rule)
            self._known = case.id, known
        return self._known[1]

    def _write(
        self, case: Case, known: Known, available: np.ndarray, filled: np.ndarray, out: Path
    ) -> None:
        rows, modalities = {}, self.net.modalities
        learnt = self.net.intensities.double().cpu().numpy()
        scales = np.where(known.available[:, None], known.scales, learnt)
        out.mkdir(parents=True, exist_ok=True)
        shown = [name for name, there in zip(modalities, available, strict=True) if there]
        for place in np.flatnonzero(~available):
            name, (low, high) = modalities[place], scales[place]
            image = low + (filled[place].clip(-1, 1) + 1) / 2 * (high - low)
            path = inside(out, f"{case.id}_{name}_{self.suffix}.nii.gz")
            nifti.write(path, np.where(known.brain, image, 0).astype(np.float32), known.header)
            rows[path.name] = {
                "case": case.id, "modality": name, "given": shown, "scale": [low, high],
                "own_scale": bool(known.available[place]),
            }  # fmt: skip
        write_json(out / f"{case.id}_{NOTES}", read_record(out, case.id) | rows)

    def _draw(
        self, case: Case, known: Known, available: np.ndarray, filled: np.ndarray, out: Path
    ) -> None:
        index = int(known.brain.sum((1, 2)).argmax())
        truth = np.where(known.available[:, None, None], known.image[:, index], np.nan)
        shown = Shown(f"{case.id}\nslice {index}", available, filled[:, index], truth)
        path = inside(out, f"{case.id}_synthesis.png")
        with harmless(path):
            synthesis_png([shown], self.net.modalities, path)


def views_of(net, hide: Sequence[str]) -> list[View]:
    """Make a view of every subset that the network serves, or one of all but what is hidden."""
    names = np.array(net.modalities)
    if tuple(hide) == (EVERY,):
        subsets = [tuple(map(str, names[mask])) for mask in net.masks().numpy()]
        return [View("+".join(subset), subset) for subset in subsets]
    return [View("", tuple(name for name in net.modalities if name not in hide))]


def given(view: View, modalities: Sequence[str], there: Sequence[str]) -> np.ndarray | None:
    """Tell what a view gives of a case that has the modalities `there`: bool (M,) of `modalities`.

    None where that is nothing or all, and where a subset that has a folder of its own is not there.
    """
    mask = np.isin(modalities, [name for name in view.shown if name in there])
    whole = view.folder == "" or set(view.shown) <= set(there)
    return mask if whole and mask.any() and not mask.all() else None
