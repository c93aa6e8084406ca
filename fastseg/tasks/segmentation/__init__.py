"""Segmentation: label maps of whole patients, predicted, scored, drawn."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fastseg.data.cases import Dataset, discover
from fastseg.errors import UsageError
from fastseg.tasks.base import Criteria, Report, Task, Validated, Wishes
from fastseg.tasks.segmentation.files import check_different, check_shown

# what needs torch is imported when it is used: label maps are scored without it


class Segmentation(Task):
    """A class for every voxel."""

    name, validation_key = "segmentation", "val_dice"

    def training_data(self, recipe, data, modalities: Sequence[str] | None) -> Dataset:
        """Find the labelled cases of a data set."""
        return discover(data, modalities, require_labels=True, region=recipe.region)

    def validate(
        self, net, recipe, dataset, case_id: str, number: int, watch: Callable[..., None]
    ) -> Validated:
        """Segment a case as a whole; the score is the mean Dice of its regions."""
        from fastseg.tasks.segmentation.validation import validate

        return validate(net, recipe, dataset, case_id, watch)

    def prediction(self, trained, data, out: Path, wishes: Wishes):
        """Prepare label maps. UsageError for wishes that have no meaning here."""
        from fastseg.tasks.segmentation.label_maps import LabelMaps

        for name in ("hide", "by"):
            if getattr(wishes, name):
                raise UsageError(
                    f"{name}: system {trained.recipe.system} does not synthesise modalities"
                )
        return LabelMaps(trained, data, out, wishes)

    def scored_folders(self, folder: Path, modalities: Sequence[str] | None) -> list[str]:
        """Name a folder for each of the modalities that a network saw alone."""
        if modalities is None:
            return [""]
        check_different(modalities)
        for name in modalities:
            check_shown(folder / name, name)
        return list(modalities)

    def scoring(self, folder: Path, data, criteria: Criteria):
        """Prepare to score label maps by Dice, IoU and HD95."""
        from fastseg.tasks.segmentation.score import LabelMapScoring

        if criteria.truth is not None:
            raise UsageError("truth: is of --task synthesis; the labels of the data are it here")
        return LabelMapScoring(folder, data, criteria)

    def side_by_side(self, reports: Mapping[str, Report]) -> Report:
        """Sum up by modality: the mean Dice over patients, of the regions and of each."""
        from fastseg.tasks.segmentation.score import by_modality

        return by_modality(reports)

    def draw_side_by_side(
        self, reports: Mapping[str, Report], folder: Path, data, region: str | None, out: Path
    ) -> None:
        """Draw overlays.png: a row a patient, a column a modality."""
        from fastseg.tasks.segmentation.picture import draw_modalities

        draw_modalities(reports, folder, data, region, out)

    def table(self, document):
        """Make a table, for a page, of what evaluation.json holds."""
        from fastseg.tasks.segmentation.score import table_of

        return table_of(document)


TASK = Segmentation()
