"""STAPLE: one segmentation from several, each weighed by how reliable it turns out to be."""

import torch
from torch import Tensor

TOLERANCE = 1e-5
MOST_ROUNDS = 1000
_START = 0.99999  # sensitivity and specificity at first, as in ITK


def staple(decisions: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """Estimate the probability of each voxel's being inside, by expectation and maximisation until
    no sensitivity or specificity moves by `tolerance` (Warfield et al., IEEE TMI, 2004).

    The prior is the share of ones in all members' decisions; where nobody, or everybody, says 1
    everywhere, so does the result.

    Args:
        decisions: (members, *N, *S) of 0 and 1; the last two axes are one image's, those of N are
            fused each by themselves.
        tolerance: the largest move of a sensitivity or specificity in the last round.

    Returns:
        (*N, *S) float32.

    MedSegDiff's function of that name goes once over the members and gives the square of their
    mean, which one half of is 71 % of them.

    >>> staple(torch.tensor([[[1, 0]], [[1, 0]], [[1, 1]]])).round()
    tensor([[1., 0.]])
    """
    d = decisions.flatten(-2).double().movedim(0, -2)  # (*N, members, voxels)
    prior = d.mean((-1, -2), keepdim=True)
    p = q = torch.full_like(d[..., :1], _START)
    for _ in range(MOST_ROUNDS):
        new_p, new_q = _performance(d, _inside(d, prior, p, q))
        moved = torch.maximum((new_p - p).abs(), (new_q - q).abs()).amax(-2, keepdim=True)
        if not (moving := moved >= tolerance).any():
            break
        # an image stops by itself, whatever others it is fused beside
        p, q = torch.where(moving, new_p, p), torch.where(moving, new_q, q)
    return _inside(d, prior, p, q).squeeze(-2).unflatten(-1, decisions.shape[-2:]).float()


def _inside(d: Tensor, prior: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """Return how probably voxels are inside, (*N, 1, voxels), by members of known performance."""
    inside = prior * torch.where(d > 0, p, 1 - p).prod(-2, keepdim=True)
    outside = (1 - prior) * torch.where(d > 0, 1 - q, q).prod(-2, keepdim=True)
    # both vanish where perfect members contradict each other: then the prior is all there is
    both = inside + outside
    return torch.where(both > 0, inside / both.clamp(min=torch.finfo(both.dtype).tiny), prior)


def _performance(d: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Return sensitivity and specificity (*N, members, 1); 1 where there is nothing to find."""
    inside, outside = w.sum(-1, keepdim=True), (1 - w).sum(-1, keepdim=True)
    found, spared = (d * w).sum(-1, keepdim=True), ((1 - d) * (1 - w)).sum(-1, keepdim=True)
    tiny = torch.finfo(w.dtype).tiny
    p = torch.where(inside > 0, found / inside.clamp(min=tiny), 1.0)
    return p, torch.where(outside > 0, spared / outside.clamp(min=tiny), 1.0)
