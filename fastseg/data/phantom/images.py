"""How a phantom looks in each contrast: tissue signals, bias field, texture and Rician noise."""

import numpy as np

from fastseg.data.phantom.tissue import smooth_field

# relative signal in the order of TISSUES; oedema and necrosis are dark in T1 and bright in T2 as
# CSF is (the T1/T2 inversion), FLAIR suppresses CSF, and contrast agent lights up ET (and veins)
# in t1ce
SIGNAL = {
    "t1": (0.30, 0.68, 1.00, 0.60, 0.80, 0.45, 0.74, 0.66),
    "t1ce": (0.30, 0.70, 0.98, 1.40, 0.80, 0.50, 0.76, 1.38),
    "t2": (1.60, 0.78, 0.55, 0.60, 0.95, 1.30, 1.05, 0.95),
    "flair": (0.18, 0.78, 0.62, 0.55, 1.12, 0.88, 1.20, 1.05),
}


def acquire(
    rng: np.random.Generator,
    layers: tuple[np.ndarray, ...],
    signal: tuple[float, ...],
    shading: np.ndarray | float = 1.0,
    noisy: bool = True,
) -> np.ndarray:
    """An int16 magnitude image: partial volume, texture, bias field, Rician noise.

    layers: tissue without and with the tumour, share of the tumour's own signal, brain mask.
    shading: a further factor of the signal, broadcast over (z, y, x). noisy: with Rician noise; the
    same numbers are drawn without.
    """
    from scipy.ndimage import gaussian_filter

    healthy, tissue, strength, brain = layers
    levels = (np.array(signal) * rng.uniform(0.92, 1.08, len(signal))).astype(np.float32)
    before = levels[healthy]
    clean = gaussian_filter(before + strength * (levels[tissue] - before), 0.55)
    texture = 1 + 0.045 * smooth_field(rng, tissue.shape, 24)
    bias = np.exp(0.12 * smooth_field(rng, tissue.shape, 2.5))
    signal_brain = (clean * texture * bias * shading)[brain]
    noise = rng.uniform(0.035, 0.065) * rng.standard_normal((2, signal_brain.size))
    magnitude = np.hypot(signal_brain + noise[0], noise[1]) if noisy else signal_brain
    image = np.zeros(tissue.shape, np.int16)
    # scanners scale freely: the same tissue differs by a factor of two between patients
    image[brain] = np.clip(np.rint(magnitude * rng.uniform(300, 650)), 1, 32767)
    return image
