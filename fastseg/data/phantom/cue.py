"""Swap two classes by a weak field over the whole brain alone: the task "global-cue".

Every tumour is drawn as ever, a bright rim around a dark core inside oedema. In half of the
patients the rim is ET and the core NCR, in the others the rim is NCR and the core ET. Regions stay
nested, so WT and TC (and their irregular outlines) need only local sight, and ET needs the cue.

The cue multiplies the signal of all four contrasts, in every axial slice, by

    1 + 2 s a cos(6πx) cos(6πy),    a = 0.02,    s = ±1 over the whole patient,

x and y being the distance from the slice's centre as a share of its width and height.

Nothing else depends on s: anatomy, tumour, textures, bias fields and noise are the same draws for
either sign, so the appearance of core and rim says nothing about their labels.

No window shows s. Half a wavelength along x turns s into -s, so windows hold the same distribution
for either sign, and only their place tells them apart. They hardly show the pattern either: within
15 x 15 voxels of a 96 x 96 slice it varies by 1.8 %, the bias field of one contrast by 3.0 %,
texture by 4.0 %, noise by about 5 %, the image as a whole by 20 % (standard deviations). The
pattern is also next to uncorrelated with the mean anatomy, so the scale of a z-score does not
give s away: it changes by 0.3 %, where a sum of the two cosines changes it by 3 %.

A whole slice shows it: three cycles an axis are above the bias field's band (its cubic splines,
2.5 knots across, pass 0.06 % of the amplitude there) and below that of folds and texture, and T1
and T2 have opposite anatomy and the same cue.

Measured on 64 patients of 96 x 96 x 24, each made with either sign: ridge classifiers find the
sign of unseen patients in 99.6 % of the slices with tumour from their low cosine coefficients, and
in 52 % (53 %) of windows of 9 x 9 (15 x 15) about core and rim from quadratic fits of each contrast
and the products of their coefficients.

Augmentation and normalisation keep it: the cosines are even and alike, so flips, quarter turns and
transposition map the pattern onto itself, and a spatial pattern is left by any affine map of
intensities (z-score, min-max). A crop that is not centred moves it: train on whole slices.
"""

import numpy as np

from fastseg.data.phantom.tissue import ET, NCR, TISSUES

AMPLITUDE = 0.02  # root mean square
CYCLES = 3  # across a slice
_SIGN = 2**32 - 1  # third word of the seed of signs; a patient's own seed has two


def sign(seed: int, index: int) -> int:
    """Return +1 or -1, a function of (seed, index); patients 2k and 2k + 1 have opposite signs.

    >>> [sign(0, index) + sign(0, index + 1) for index in (0, 2, 4)]
    [0, 0, 0]
    """
    first = 1 if np.random.default_rng((seed, index // 2, _SIGN)).random() < 0.5 else -1
    return first if index % 2 == 0 else -first


def shading(shape: tuple[int, int, int], sign: int) -> np.ndarray:
    """Return the signal's factor, float64 (1, y, x), in every slice of a volume (z, y, x).

    >>> field = shading((4, 96, 96), sign=1)
    >>> field.shape, round(float(field.std()), 3)
    ((1, 96, 96), 0.02)
    """
    waves = [np.cos(2 * np.pi * CYCLES * ((np.arange(n) + 0.5) / n - 0.5)) for n in shape[1:]]
    return 1 + sign * AMPLITUDE * 2 * np.outer(*waves)[None]


def label_of_tissue(labels: np.ndarray, sign: int) -> np.ndarray:
    """Return label values by tissue index: `labels`, NCR and ET exchanged where sign is -1.

    >>> label_of_tissue(np.array([0, 0, 0, 0, 0, 1, 2, 4]), -1)
    array([0, 0, 0, 0, 0, 4, 2, 1])
    """
    order = np.arange(len(TISSUES))
    if sign < 0:
        order[[NCR, ET]] = ET, NCR
    return labels[order]
