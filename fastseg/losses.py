"""Segmentation losses. Computed in float32 whatever the precision of the network."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def dice_ce(
    logits: Tensor, target: Tensor, ce_weight: float = 0.5, smooth: float = 1e-5
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute 1 − soft Dice over all classes, background included, plus weighted cross-entropy.

    Dice sums run over space, for each sample and class; the mean is over samples and classes
    (Milletari et al., V-Net, 2016, with the sums unsquared).

    Args:
        logits: (B, K, *S) of any float type.
        target: (B, *S) class indices of any integer type.
        ce_weight: weight of the cross-entropy.
        smooth: added to numerator and denominator of Dice, so that an absent class has Dice 1.

    Returns:
        the scalar loss in float32 and its detached parts {"dice", "ce"}.

    Raises:
        ValueError: shapes that do not fit each other.

    >>> logits = torch.tensor([[[9.0, -9.0], [-9.0, 9.0]]])  # one row of two points, two classes
    >>> loss, parts = dice_ce(logits, torch.tensor([[0, 1]]))
    >>> f"{loss:.3f}", sorted(parts)
    ('0.000', ['ce', 'dice'])
    """
    _check(logits, target)
    log_p = logits.float().log_softmax(1)
    p = log_p.exp()
    truth = torch.zeros_like(p).scatter_(1, target.long().unsqueeze(1), 1.0)
    space = tuple(range(2, logits.ndim))
    overlap, total = (p * truth).sum(space), p.sum(space) + truth.sum(space)
    dice = 1 - ((2 * overlap + smooth) / (total + smooth)).mean()
    ce = -(log_p * truth).sum(1).mean()
    return dice + ce_weight * ce, {"dice": dice.detach(), "ce": ce.detach()}


def batch_dice_ce(
    logits: Tensor, target: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute cross-entropy minus the mean foreground Dice of the whole batch, so that the optimum
    is negative (GenericSSL: Wang & Li, NeurIPS 2023).

    Dice sums run over batch and space, smoothing 1. The weighted cross-entropy is divided by the
    sum of its weights.

    Args:
        logits: (B, K, *S) of any float type.
        target: (B, *S) class indices of any integer type.
        weights: (K,), of each class in both terms; None for 1.

    Returns:
        the scalar loss in float32 and its detached parts {"dice", "ce"}, dice the weighted mean.

    Raises:
        ValueError: shapes that do not fit each other.

    >>> logits = torch.tensor([[[9.0, -9.0], [-9.0, 9.0]]])
    >>> loss, parts = batch_dice_ce(logits, torch.tensor([[0, 1]]))
    >>> f"{loss:.3f}"
    '-1.000'
    """
    _check(logits, target, weights)
    logits, target = logits.float(), target.long()
    ce = F.cross_entropy(logits, target, weights)
    dice = _batch_dice(logits.softmax(1), target, smooth=1.0)[1:]
    dice = (dice if weights is None else weights[1:] * dice).mean()
    return ce - dice, {"dice": dice.detach(), "ce": ce.detach()}


def batch_dice_bce(
    logits: Tensor, target: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute `batch_dice_ce` for outputs that stand for themselves: binary cross-entropy − Dice.

    Args:
        logits: (B, R, *S) of any float type, one output a region.
        target: (B, R, *S), 0 or 1.
        weights: (R,), of each region in both terms; None for 1.

    Returns:
        the scalar loss in float32 and its detached parts {"dice", "bce"}.

    Raises:
        ValueError: shapes that do not fit each other.

    >>> loss, parts = batch_dice_bce(torch.tensor([[[9.0, -9.0]]]), torch.tensor([[[1.0, 0.0]]]))
    >>> f"{loss:.3f}", sorted(parts)
    ('-1.000', ['bce', 'dice'])
    """
    _check_masks(logits, target, weights)
    logits, over = logits.float(), (0, *range(2, logits.ndim))
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(over)
    dice = _mask_dice(logits.sigmoid(), target, smooth=1.0)
    if weights is None:
        bce, dice = bce.mean(), dice.mean()
    else:
        bce, dice = (weights * bce).sum() / weights.sum(), (weights * dice).mean()
    return bce - dice, {"dice": dice.detach(), "bce": bce.detach()}


def pearson(logits: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute 1 − (ρ + 1)/2, ρ being the mean over samples and classes, background included, of
    Pearson's correlation of probabilities and truth over space (Wong & Moradi, MLMI 2022).

    Args:
        logits: (B, K, *S) of any float type.
        target: (B, *S) class indices of any integer type.

    Returns:
        the scalar loss in float32, 0 to 1, and the detached mean of ρ, {"correlation"}; ρ is 0 for
        a class that is nowhere, or everywhere.

    Raises:
        ValueError: shapes that do not fit each other.

    >>> logits = torch.tensor([[[9.0, -9.0], [-9.0, 9.0]]])
    >>> loss, parts = pearson(logits, torch.tensor([[0, 1]]))
    >>> f"{loss:.3f}", f"{parts['correlation']:.3f}"
    ('0.000', '1.000')
    """
    _check(logits, target)
    p, space = logits.float().softmax(1), tuple(range(2, logits.ndim))
    truth = torch.zeros_like(p).scatter_(1, target.long().unsqueeze(1), 1.0)
    p, truth = p - p.mean(space, keepdim=True), truth - truth.mean(space, keepdim=True)
    scale = torch.sqrt(p.square().sum(space) * truth.square().sum(space) + 1e-7)
    correlation = ((p * truth).sum(space) / scale).mean()
    return (1 - correlation) / 2, {"correlation": correlation.detach()}


@torch.no_grad()
def hard_region_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Compute the Dice of sigmoid(logits) > ½ against the truth over the whole batch, (R,) float32;
    0.5 for a region that is in neither. Arguments as `batch_dice_bce`'s.

    >>> hard_region_dice(torch.tensor([[[9.0, -9.0]]]), torch.tensor([[[1.0, 0.0]]]))
    tensor([1.])
    """
    _check_masks(logits, target)
    return _mask_dice((logits > 0).float(), target, smooth=1e-8)


@torch.no_grad()
def hard_batch_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Compute the Dice of the most probable class against the truth over the whole batch, (K,)
    float32, background included; 0.5 for a class that is in neither. Arguments: `batch_dice_ce`'s.

    >>> hard_batch_dice(torch.tensor([[[9.0, -9.0], [-9.0, 9.0]]]), torch.tensor([[0, 1]]))
    tensor([1., 1.])
    """
    _check(logits, target)
    chosen = torch.zeros_like(logits, dtype=torch.float32)
    chosen.scatter_(1, logits.argmax(1, keepdim=True), 1.0)
    return _batch_dice(chosen, target.long(), smooth=1e-8)


def ramp(progress: float) -> float:
    """Return exp(−5(1 − progress)²), which grows from 0.0067 at the start of a run to 1 at its end
    (Laine & Aila, ICLR 2017). progress: the share of the run that is done.

    >>> f"{ramp(0):.4f}", ramp(1)
    ('0.0067', 1.0)
    """
    return math.exp(-5 * (1 - min(max(progress, 0.0), 1.0)) ** 2)


def _batch_dice(p: Tensor, target: Tensor, smooth: float) -> Tensor:
    return _mask_dice(p, torch.zeros_like(p).scatter_(1, target.unsqueeze(1), 1.0), smooth)


def _mask_dice(p: Tensor, truth: Tensor, smooth: float) -> Tensor:
    over = (0, *range(2, p.ndim))
    overlap, total = (p * truth).sum(over), p.sum(over) + truth.sum(over)
    return (2 * overlap + smooth) / (total + smooth + 1e-8)


def _check(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> None:
    if logits.shape[:1] + logits.shape[2:] != target.shape:
        raise ValueError(
            f"target: is {tuple(target.shape)}, wanted (B, *S) of logits {tuple(logits.shape)}"
        )
    _check_weights(logits, weights)


def _check_masks(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> None:
    if logits.shape != target.shape:
        raise ValueError(
            f"target: is {tuple(target.shape)}, wanted that of logits {tuple(logits.shape)}"
        )
    _check_weights(logits, weights)


def _check_weights(logits: Tensor, weights: Tensor | None) -> None:
    if weights is not None and weights.shape != logits.shape[1:2]:
        raise ValueError(
            f"weights: is {tuple(weights.shape)}, wanted one for each class of logits "
            f"{tuple(logits.shape)}"
        )
