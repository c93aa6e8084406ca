"""What the outputs of a segmentation network mean: one class each, or one nested region each."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

KINDS = ("softmax", "regions")


class Head:
    """`kind` "softmax" has one output for each of `classes` (background included), of which one
    holds at a voxel; "regions" one for each of `regions`, tuples of class indices of which each but
    the first lies in the one before, decided at one half each (BraTS: WT, TC, ET).

    `outputs` is their number. ValueError for an unknown kind, for regions that are not nested, and
    where they cannot tell all classes apart.

    >>> head = Head("regions", 4, ((1, 2, 3), (1, 3), (3,)))
    >>> head.target(torch.tensor([[0, 1, 2, 3]]))[0].int().tolist()
    [[0, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]]
    """

    def __init__(self, kind: str, classes: int, regions: Sequence[Sequence[int]] = ()):
        if kind not in KINDS:
            raise ValueError(f"head: got {kind!r}, want one of {', '.join(KINDS)}")
        self.kind, self.classes = kind, classes
        self.rings = [] if kind == "softmax" else _rings(regions, classes)
        self.outputs = len(self.rings) or classes

    def start_at(self, prior: float, layer: nn.Module) -> None:
        """Set the bias of the layer that makes the outputs so that each, but for the background, is
        about `prior` in the beginning (Lin et al., ICCV 2017, section 4.1); 0 leaves it alone.
        """
        count = 1 if self.rings else self.outputs - 1
        if not 0 <= count * prior < 1:
            raise ValueError(f"prior: got {prior}, want a share of the voxels, or 0 for none")
        if prior:
            rest = 1 - count * prior
            nn.init.constant_(layer.bias, math.log(prior / rest))
            if not self.rings:
                nn.init.zeros_(layer.bias[:1])

    def target(self, label: Tensor) -> Tensor:
        """Return what each output should be, 0 or 1, float32 (B, outputs, *S), for class indices
        (B, *S).
        """
        numbers = range(self.classes)
        if self.rings:
            depth = torch.zeros(self.classes, dtype=torch.uint8, device=label.device)
            depth[self.rings] = torch.arange(1, self.outputs + 1, device=label.device).byte()
            label, numbers = depth[label.long()], range(1, self.outputs + 1)
        inside = [label >= n if self.rings else label == n for n in numbers]
        return torch.stack(inside, 1).float()

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probability of each output, float32, for logits (B, outputs, *S)."""
        return logits.float().sigmoid() if self.rings else logits.float().softmax(1)

    def classes_of(self, p: Tensor) -> Tensor:
        """Turn probabilities of the outputs into those of the classes (B, classes, *S), sum 1."""
        if not self.rings:
            return p
        nested = torch.cat([torch.ones_like(p[:, :1]), p.cummin(1).values], 1)
        found = p.new_zeros(len(p), self.classes, *p.shape[2:])
        found[:, [0, *self.rings]] = nested - torch.cat([nested[:, 1:], 0 * nested[:, :1]], 1)
        return found

    def decide(self, p: Tensor) -> Tensor:
        """Return class indices (B, *S) for probabilities of the classes (B, classes, *S)."""
        if not self.rings:
            return p.argmax(1)
        nested = p[:, self.rings].flip(1).cumsum(1)
        depth = (nested > 0.5).sum(1)
        return torch.tensor([0, *self.rings], device=p.device)[depth]


def _rings(regions: Sequence[Sequence[int]], classes: int) -> list[int]:
    """Find the class that each region has and the next one has not, outermost first."""
    nested = sorted((set(region) for region in regions), key=len, reverse=True)
    rings = [outer - inner for outer, inner in pairwise([*nested, set()])]
    if (
        any(inner - outer for outer, inner in pairwise(nested))
        or any(len(ring) != 1 for ring in rings)
        or len(rings) != classes - 1
    ):
        raise ValueError(
            f"head regions: got regions {[*map(sorted, nested)]} of classes 1 to "
            f"{classes - 1}, want nested ones with one more class each; head=softmax takes any"
        )
    return [ring.pop() for ring in rings]
