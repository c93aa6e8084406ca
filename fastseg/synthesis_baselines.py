"""What a network of synthesis has to beat: the mean of the images given, and a linear regression on
them, voxel by voxel. Both stand where a network does.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fastseg.data.cases import Dataset
from fastseg.data.intensity import Rule
from fastseg.models.fgc2f_udiff import all_masks
from fastseg.synthesis import load_known


class _Baseline(nn.Module):
    multiple = 1

    def __init__(self, modalities: Sequence[str]):
        super().__init__()
        self.modalities = tuple(modalities)
        self.register_buffer("intensities", torch.tensor([[0.0, 1.0]]).repeat(len(modalities), 1))
        self.unused = nn.Parameter(torch.zeros(()))  # tells the device

    def masks(self) -> Tensor:
        """Every choice of available modalities, bool (N, M)."""
        return all_masks(len(self.modalities))


class MeanOfGiven(_Baseline):
    """Every missing modality is the mean of the available ones, in −1 … 1."""

    def synthesise(self, images: Tensor, available: Tensor, generator=None) -> Tensor:
        """As a system's: images (B, M, H, W), available (B, M) bool."""
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
    def fitted(cls, dataset: Dataset, ids: Sequence[str], rule: Rule) -> "LinearRegression":
        """On the cases `ids`."""
        gram = np.zeros([len(dataset.modalities) + 1] * 2)
        for case_id in ids:
            known = load_known(dataset.by_id(case_id), dataset.modalities, rule)
            voxels = known.image[:, known.brain].astype(np.float64)
            columns = np.concatenate([np.ones((1, voxels.shape[1])), voxels])
            gram += columns @ columns.T
        return cls(dataset.modalities, gram)

    def weights(self, available: np.ndarray) -> np.ndarray:
        """(M + 1 of the constant and the modalities, M): the identity for available ones."""
        use = np.flatnonzero([True, *available])
        found = np.eye(len(self.gram))[:, 1:]
        for place in np.flatnonzero(~available):
            found[:, place] = 0
            moments = self.gram[np.ix_(use, use)], self.gram[use, place + 1]
            found[use, place] = np.linalg.lstsq(*moments, rcond=None)[0]
        return found

    def synthesise(self, images: Tensor, available: Tensor, generator=None) -> Tensor:
        """As a system's; background stays lowest."""
        found = images.clone()
        for index, mask in enumerate(available.cpu().numpy()):
            weight = torch.from_numpy(self.weights(mask)).to(images)
            columns = torch.cat([torch.ones_like(images[index, :1]), images[index]])
            found[index] = torch.einsum("chw,cm->mhw", columns, weight).clamp(-1, 1)
        return found
