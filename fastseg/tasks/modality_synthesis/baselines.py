"""What a network of synthesis has to beat: the mean of the images given, and a linear regression on
them, voxel by voxel. Both stand where a network does.

    fastseg sample RUN --data DATA --out MEAN --hide every --by mean
    fastseg sample RUN --data DATA --out REGRESSION --hide every --by regression
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fastseg.data.cases import Case, Dataset
from fastseg.data.pipeline.intensity import Rule
from fastseg.errors import DataError, UsageError
from fastseg.host.progress import progress
from fastseg.models.fgc2f_udiff import all_masks
from fastseg.tasks.modality_synthesis.case import readable


class _Baseline(nn.Module):
    multiple = 1

    def __init__(self, modalities: Sequence[str]):
        super().__init__()
        self.modalities = tuple(modalities)
        self.register_buffer("intensities", torch.tensor([[0.0, 1.0]]).repeat(len(modalities), 1))
        self.unused = nn.Parameter(torch.zeros(()))  # tells the device
        self._masks = all_masks(len(modalities))

    @classmethod
    def fitted(cls, modalities: Sequence[str], cases: Sequence[Case], rule: Rule) -> "_Baseline":
        """Fit it to training cases; a mean has nothing to fit."""
        return cls(modalities)

    def masks(self) -> Tensor:
        """Give the choices of available modalities, bool (N, M)."""
        return self._masks

    def like(self, net: nn.Module) -> "_Baseline":
        """Take over the subsets that a network serves, and its scales of absent modalities."""
        self._masks = net.masks()
        self.intensities.copy_(net.intensities)
        return self


class MeanOfGiven(_Baseline):
    """Every missing modality is the mean of the available ones, in −1 … 1."""

    def synthesise(self, images: Tensor, available: Tensor, generator=None) -> Tensor:
        """Fill in images (B, M, H, W) that are not in `available` (B, M) bool, as a system does."""
        given = available[:, :, None, None]
        mean = (images * given).sum(1, keepdim=True) / given.sum(1, keepdim=True)
        return torch.where(given, images, mean)


class LinearRegression(_Baseline):
    """Every missing modality is the linear function of the available ones, with a constant, that
    has the least squared error over the training cases' brain voxels.
    """

    def __init__(self, modalities: Sequence[str], gram: np.ndarray):
        super().__init__(modalities)
        self.gram = gram  # (M + 1, M + 1): products of 1 and the modalities, summed

    @classmethod
    def fitted(
        cls, modalities: Sequence[str], cases: Sequence[Case], rule: Rule
    ) -> "LinearRegression":
        """Fit it to cases that have every modality and can be read. DataError without any."""
        gram = np.zeros([len(modalities) + 1] * 2)
        with progress(len(cases), "fit") as advance:
            for known in readable(cases, modalities, rule):
                voxels = known.image[:, known.brain].astype(np.float64)
                columns = np.concatenate([np.ones((1, voxels.shape[1])), voxels])
                gram += columns @ columns.T
                advance()
        if not gram.any():
            raise DataError(f"regression: no case of {len(cases)} can be used; see the warnings")
        return cls(modalities, gram)

    def weights(self, available: np.ndarray) -> np.ndarray:
        """Solve for the weights (M + 1 of the constant and the modalities, M): the identity for
        available ones.
        """
        use = np.flatnonzero([True, *available])
        found = np.eye(len(self.gram))[:, 1:]
        for place in np.flatnonzero(~available):
            found[:, place] = 0
            moments = self.gram[np.ix_(use, use)], self.gram[use, place + 1]
            found[use, place] = np.linalg.lstsq(*moments, rcond=None)[0]
        return found

    def synthesise(self, images: Tensor, available: Tensor, generator=None) -> Tensor:
        """Fill in what is missing, as a system does; background stays lowest."""
        found = images.clone()
        for index, mask in enumerate(available.cpu().numpy()):
            weight = torch.from_numpy(self.weights(mask)).to(images)
            columns = torch.cat([torch.ones_like(images[index, :1]), images[index]])
            found[index] = torch.einsum("chw,cm->mhw", columns, weight).clamp(-1, 1)
        return found


BASELINES = {"mean": MeanOfGiven, "regression": LinearRegression}


def cases_to_fit(by: str, dataset: Dataset, trained: Sequence[str]) -> list[Case]:
    """Find the cases that the baseline `by` needs: for "regression" those that were `trained` on.

    UsageError for another name, and where the data set lacks such a case.
    """
    if by not in BASELINES:
        raise UsageError(f"by: is {by!r}, wanted {' or '.join(BASELINES)}")
    if by != "regression":
        return []
    known = {case.id: case for case in dataset.cases}
    if absent := [case_id for case_id in trained if case_id not in known]:
        raise UsageError(
            f"{dataset.root}: has no case {', '.join(absent[:5])}; the regression is fitted to the "
            "run's training cases, which must be in the data set too"
        )
    return [known[case_id] for case_id in trained]
