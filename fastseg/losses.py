"""Segmentation losses. Computed in float32 whatever the precision of the network."""

import torch
from torch import Tensor


def dice_ce(
    logits: Tensor, target: Tensor, ce_weight: float = 0.5, smooth: float = 1e-5
) -> tuple[Tensor, dict[str, Tensor]]:
    """Soft Dice over all classes, background included, plus weighted cross-entropy.

    logits (B, K, *S) of any float type; target (B, *S) class indices of any integer type.
    Dice sums run over space, for each sample and class; the mean is over samples and classes
    (Milletari et al., V-Net, 2016, with the sums unsquared). Returns the scalar loss in float32 and
    its detached parts {"dice", "ce"}. ValueError when the shapes do not fit each other.
    """
    if logits.shape[:1] + logits.shape[2:] != target.shape:
        raise ValueError(
            f"target: is {tuple(target.shape)}, wanted (B, *S) of logits {tuple(logits.shape)}"
        )
    log_p = logits.float().log_softmax(1)
    p = log_p.exp()
    truth = torch.zeros_like(p).scatter_(1, target.long().unsqueeze(1), 1.0)
    space = tuple(range(2, logits.ndim))
    overlap, total = (p * truth).sum(space), p.sum(space) + truth.sum(space)
    dice = 1 - ((2 * overlap + smooth) / (total + smooth)).mean()
    ce = -(log_p * truth).sum(1).mean()
    return dice + ce_weight * ce, {"dice": dice.detach(), "ce": ce.detach()}
