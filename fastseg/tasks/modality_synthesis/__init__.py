"""Modality synthesis: missing images of whole patients, synthesised, scored, drawn.

fastseg sample RUN --data DATA --out PREDICTIONS                   # what is really absent
fastseg sample RUN --data DATA --out PREDICTIONS --hide t1ce,t2    # what is there, to compare
fastseg sample RUN --data DATA --out PREDICTIONS --hide every      # all subsets, a folder each
fastseg sample RUN --data DATA --out OTHERS --hide every --by mean # what it has to beat
fastseg evaluate PREDICTIONS --data DATA --task synthesis
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from fastseg.data.cases import Dataset, discover
from fastseg.errors import UsageError
from fastseg.tasks.base import Criteria, Task, Validated, Wishes


class ModalitySynthesis(Task):
    """The images of those modalities that a case lacks."""

    name, validation_key = "synthesis", "val_psnr"

    def training_data(self, recipe, data, modalities: Sequence[str] | None) -> Dataset:
        """Find the cases of a data set that have every modality, labelled or not."""
        from fastseg.tasks.modality_synthesis.case import trainable

        dataset = discover(data, modalities, region=recipe.region)
        return trainable(dataset, recipe.data.rule, recipe.data.foreground_fraction is not None)

    def check_recipe(self, recipe) -> None:
        """Raise UsageError for a share of labels: there is nothing to label."""
        if recipe.labelled_fraction is not None:
            raise UsageError("labelled_fraction: synthesis uses no labels; wanted null")

    def begin(self, net, dataset: Dataset, ids: Sequence[str], rule) -> None:
        """Learn the mean scale of each modality, which an absent one will be written in."""
        from fastseg.tasks.modality_synthesis.validation import learn_scales

        learn_scales(net, dataset, ids, rule)

    def validate(
        self, net, recipe, dataset, case_id: str, number: int, watch: Callable[..., None]
    ) -> Validated:
        """Synthesise a slice for each subset of modalities; the score is the mean PSNR in dB."""
        from fastseg.tasks.modality_synthesis.validation import validate

        return validate(net, recipe, dataset, case_id, number, watch)

    def prediction(self, trained, data, out: Path, wishes: Wishes):
        """Prepare missing images. UsageError for wishes that have no meaning here."""
        from fastseg.tasks.modality_synthesis.images import MissingImages

        if wishes.modalities is not None:
            raise UsageError("modalities: a system of synthesis takes what a case has; see hide")
        if wishes.labels is not None:
            raise UsageError("labels: a system of synthesis writes images")
        return MissingImages(trained, data, out, wishes)

    def scored_folders(self, folder: Path, modalities: Sequence[str] | None) -> list[str]:
        """Name the folder itself: notes in it say which images are of which subset."""
        if modalities is not None:
            raise UsageError("modalities: is of segmentations; every synthesised one is scored")
        return [""]

    def scoring(self, folder: Path, data, criteria: Criteria):
        """Prepare to score images by PSNR and SSIM."""
        from fastseg.tasks.modality_synthesis.score import ImageScoring

        for name, usual in (("region", None), ("missing", "skip")):
            if getattr(criteria, name) != usual:
                raise UsageError(f"{name}: is of segmentations")
        return ImageScoring(folder, data, criteria)

    def table(self, document):
        """Make a table, for a page, of what evaluation.json holds."""
        from fastseg.tasks.modality_synthesis.score import table_of

        return table_of(document)


TASK = ModalitySynthesis()
