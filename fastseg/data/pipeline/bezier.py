"""Make intensity domains: the same anatomy under other contrasts, by Bézier curves.

Source: github.com/DillanImans/brats_grl_vffc and its write-up, after Models Genesis (Zhou et al.,
2019). Cubic curves of intensities scaled to [-1, 1], with one random number v:

    domain 0    none
    domain 1    (-1, -1), (-v, v), (v, -v), (1, 1)      increasing
    domain 2    (-1, 1), (-v, -v), (v, v), (1, -1)      decreasing, domain 1 upside down

The source has domain 1's points in reverse order for domain 2, which is the same curve, so that
there is nothing to tell the two apart; `legacy` keeps that, and its v from [0, 1] in place of
[-1, 1]. There, results stay in [-1, 1], while test images are in [0, 1]; here, always in [0, 1].
"""

from collections.abc import Sequence

import numpy as np
import torch

POINTS = 512  # of a curve, straight between them: within 2e-5 of it for |v| < 0.7, 2e-3 for 1
_STREAM = 2**32 - 4  # fourth word of the seed, apart from the sample's other draws
_PATIENTS = 2**32 - 5  # second word of the seed that gives patients their domains


def assign(patients: Sequence[str], domains: int, seed: int) -> dict[str, int]:
    """Give each patient a domain, 0 … domains - 1: parts of equal size, give or take one.

    Depends on the seed and the set of patients alone, not on their order.

    >>> sorted(assign(["a", "b", "c", "d"], domains=2, seed=0).values())
    [0, 0, 1, 1]
    """
    names = sorted(set(patients))
    order = np.random.default_rng((seed, _PATIENTS)).permutation(len(names))
    return {names[place]: number % domains for number, place in enumerate(order)}


def draw(seed: tuple[int, int, int], domains: int, legacy: bool = False) -> tuple[float, int]:
    """Draw v and a domain of 0 … domains - 1 for a sample.

    Args:
        seed: (seed, epoch, sample).
        domains: how many there are.
        legacy: v from [0, 1], as in the source, in place of [-1, 1].

    >>> draw((0, 0, 3), domains=2) == draw((0, 0, 3), domains=2)
    True
    """
    rng = np.random.default_rng((*seed, _STREAM))
    return float(rng.uniform(0 if legacy else -1, 1)), int(rng.integers(domains))


def curve(domain: int, v: float, legacy: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return `POINTS` points of a domain's curve: x, rising from -1 to 1, and y, float64.

    >>> x, y = curve(domain=2, v=0.5)
    >>> bool(y[0] > y[-1]), len(x)
    (True, 512)
    """
    rising = np.array([(-1, -1), (-v, v), (v, -v), (1, 1)])
    points = rising if domain == 1 or legacy else rising * (1, -1)
    t = np.linspace(0, 1, POINTS)[:, None]
    weights = np.hstack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    return tuple((weights @ points).T)


def change(image: torch.Tensor, domain: int, v: float, legacy: bool = False) -> torch.Tensor:
    """Send intensities along a domain's curve; background, exactly 0, stays 0.

    Args:
        image: float32 of any shape, values in [0, 1].
        domain: 0 (as it is), 1 (rising) or 2 (falling).
        v: the curve's number, in [-1, 1].
        legacy: domain 2's curve is domain 1's, as in the source.

    Returns:
        float32 of the same shape, values in [0, 1].

    >>> change(torch.tensor([0.0, 0.1, 0.9]), domain=2, v=1 / 3)
    tensor([0.0000, 0.8280, 0.1720])
    """
    if domain == 0:
        return image
    tables = [torch.from_numpy(values).float() for values in curve(domain, v, legacy)]
    x, y = ((table.to(image.device) + 1) / 2 for table in tables)
    # The place of each intensity among the curve's x, then the straight line between two points.
    after = torch.searchsorted(x, image.contiguous()).clamp_(1, POINTS - 1)
    start, height = x[:-1], y[:-1]
    slope = y.diff() / x.diff()
    new = (image - start[after - 1]) * slope[after - 1] + height[after - 1]
    return torch.where(image == 0, image, new.clamp_(0, 1))


class Domains:
    """Give a loader's batches their domains: `LoaderConfig.bezier_domains` and its companions.

    With `bezier_apart` each patient has a domain of its own, else each sample draws one.

    Args:
        config: a `LoaderConfig`.
        cases: the `cases.Case`s that the loader takes samples of.
    """

    def __init__(self, config, cases: Sequence):
        self.config, self.patient = config, {case.id: case.patient for case in cases}
        count = len(config.bezier_domains or (0,))
        self.assigned = assign(self.patient.values(), count, config.seed)

    def labels(self, case_ids: Sequence[str], seeds: Sequence[tuple[int, int, int]]) -> list[int]:
        """Return the domain of each sample as its place in `bezier_domains`."""
        if self.config.bezier_apart:
            return [self.assigned[self.patient[case_id]] for case_id in case_ids]
        return [draw(seed, len(self.config.bezier_domains))[1] for seed in seeds]

    def apply(
        self, image: torch.Tensor, case_ids: Sequence[str], seeds: Sequence[tuple[int, int, int]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Send a batch along curves drawn for each sample.

        Args:
            image: float32 (B, C, *S), values in [0, 1].
            case_ids, seeds: of the samples, B each.

        Returns:
            the changed batch, and its domains as `labels` has them, int64 (B,).
        """
        labels, legacy = self.labels(case_ids, seeds), self.config.legacy_bezier
        changed = [
            change(x, self.config.bezier_domains[label], draw(seed, 1, legacy)[0], legacy)
            for x, label, seed in zip(image, labels, seeds, strict=True)
        ]
        return torch.stack(changed), torch.tensor(labels, device=image.device)
