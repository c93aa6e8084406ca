"""Draw a phantom: a folded brain with ventricles and nuclei, a nested tumour, its contrasts.

Every number comes from one generator, in the order of the calls here: a line moved is another
patient, and sets written before could not be continued.
"""

import math

import numpy as np

# gliosis is the harmless bright halo of old ventricles; it and veins keep intensity alone from
# being an answer, so a network has to look around
TISSUES = ("csf", "grey", "white", "vein", "gliosis", "NCR", "ED", "ET")
CSF, GREY, WHITE, VEIN, GLIOSIS, NCR, ED, ET = range(len(TISSUES))
# relative signal in the order of TISSUES; oedema and necrosis are dark in T1 and bright in T2 as
# CSF is (the T1/T2 inversion), FLAIR suppresses CSF, and contrast agent lights up ET (and veins)
# in t1ce
SIGNAL = {
    "t1": (0.30, 0.68, 1.00, 0.60, 0.80, 0.45, 0.74, 0.66),
    "t1ce": (0.30, 0.70, 0.98, 1.40, 0.80, 0.50, 0.76, 1.38),
    "t2": (1.60, 0.78, 0.55, 0.60, 0.95, 1.30, 1.05, 0.95),
    "flair": (0.18, 0.78, 0.62, 0.55, 1.12, 0.88, 1.20, 1.05),
}


def smooth_field(rng: np.random.Generator, shape: tuple[int, ...], cells: float) -> np.ndarray:
    """Draw a smooth random field of unit variance.

    Args:
        rng: the generator to draw from.
        shape: of the field, in voxels.
        cells: about how many bumps the longest axis has.

    Returns:
        float64, of that shape.

    >>> field = smooth_field(np.random.default_rng(0), (16, 16, 16), cells=4)
    >>> field.shape, round(float(field.std()), 3)
    ((16, 16, 16), 1.0)
    """
    step = max(shape) / cells
    field = rng.standard_normal([math.ceil(n / step) + 4 for n in shape])
    for n in shape:
        # cubic B-spline weights of every voxel on the coarse grid; the moved axis cycles to the end
        position = (np.arange(n) / step)[:, None] + 1.5 - np.arange(field.shape[0])
        a = np.abs(position)
        weights = np.where(a < 1, 2 / 3 - a**2 + a**3 / 2, np.clip(2 - a, 0, None) ** 3 / 6)
        field = np.tensordot(field, weights, axes=(0, 1))
    return field / field.std()


def _grid(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return open grids (w, v, u): up, back and left, each -1…1 across the volume's half-size."""
    w, v, u = (2 * (np.arange(n) + 0.5) / n - 1 for n in shape)
    return w[:, None, None], v[None, :, None], u[None, None, :]


def anatomy(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Draw a healthy brain.

    Args:
        rng: the generator to draw from.
        shape: (z, y, x), in voxels.

    Returns:
        indices into `TISSUES`, int8 (z, y, x), and the depth below the brain's surface, float64
        (z, y, x): 0 at it, 1 at the centre, negative outside.

    >>> tissue, depth = anatomy(np.random.default_rng(0), (24, 24, 24))
    >>> sorted({TISSUES[index] for index in np.unique(tissue)})
    ['csf', 'gliosis', 'grey', 'vein', 'white']
    """
    w, v, u = _grid(shape)
    half_axes = np.array([0.90, 0.93, 0.76]) * rng.uniform(0.94, 1.02, 3)
    tilt = rng.uniform(-0.05, 0.05)
    w, v, u = w / half_axes[0], v / half_axes[1], (u + tilt * v) / half_axes[2]
    # the frontal end is narrower, the base flatter, than an ellipsoid's
    radius = np.sqrt((u * (1 - 0.12 * v)) ** 2 + v**2 + (w * np.where(w < 0, 1.12, 1.0)) ** 2)
    depth = 1 - radius + 0.03 * smooth_field(rng, shape, 5)
    tissue, wall = _cortex(rng, depth, u)
    _add_inner_parts(rng, tissue, depth, (w, v, u))
    # two thin nets cross in threads
    tissue[(wall < 0.22) & (np.abs(smooth_field(rng, shape, 15)) < 0.10) & (depth < 0.4)] = VEIN
    return tissue, depth


def _cortex(
    rng: np.random.Generator, depth: np.ndarray, u: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fold grey matter and CSF into white matter; how near a sulcus is, too."""
    shape = depth.shape
    tissue = np.full(shape, WHITE, np.int8)
    folds = np.abs(smooth_field(rng, shape, 17))  # its zero set is a net of walls: the sulci
    midline = np.abs(u + 0.012 * smooth_field(rng, shape, 4))
    fissure = (midline + 0.25 * np.clip(depth - 0.45, 0, None)) * 14
    wall = np.minimum(folds, fissure)
    tissue[(depth < 0.05) | (wall < 1.05 * (1 - depth / 0.42))] = GREY
    tissue[(depth < 0.012) | (wall < 0.22 * (1 - depth / 0.36))] = CSF
    return tissue, wall


def _add_inner_parts(
    rng: np.random.Generator,
    tissue: np.ndarray,
    depth: np.ndarray,
    grids: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """Put deep nuclei, ventricles with their halo and the sinus into `tissue`."""
    (w, v, u), shape = grids, depth.shape
    side = np.abs(u)
    nuclei = ((side - 0.24) / 0.13) ** 2 + ((v - 0.02) / 0.26) ** 2 + ((w + 0.02) / 0.24) ** 2
    tissue[nuclei + 0.1 * smooth_field(rng, shape, 9) < 1] = GREY
    width = rng.uniform(0.05, 0.085)
    horns = ((side - 0.075 - 0.55 * v**2) / width) ** 2 + (v / 0.46) ** 2 + ((w - 0.14) / 0.26) ** 2
    third = (u / 0.03) ** 2 + ((v - 0.05) / 0.16) ** 2 + ((w + 0.12) / 0.16) ** 2
    halo = rng.uniform(1.2, 2.6) + 0.5 * smooth_field(rng, shape, 10)
    tissue[(horns < halo) & (tissue == WHITE)] = GLIOSIS
    tissue[np.minimum(horns, third) < 1] = CSF
    sinus = (u / 0.035) ** 2 + (np.clip(depth, 0, None) / 0.045) ** 2
    tissue[(sinus < 1) & ((w > 0.1) | (v > 0.55))] = VEIN


def grow_tumour(
    rng: np.random.Generator, tissue: np.ndarray, depth: np.ndarray, no_rim_probability: float
) -> np.ndarray:
    """Put necrosis inside enhancing rim inside oedema, each a noise-perturbed level set.

    Args:
        rng: the generator to draw from.
        tissue, depth: what `anatomy` returns; they stay as they are.
        no_rim_probability: of a tumour without enhancement.

    Returns:
        indices into `TISSUES`, int8 (z, y, x).

    >>> rng = np.random.default_rng(0)
    >>> grown = grow_tumour(rng, *anatomy(rng, (24, 24, 24)), no_rim_probability=0)
    >>> {NCR, ED, ET} <= set(np.unique(grown))
    True
    """
    shape = tissue.shape
    distance = _distance(rng, tissue, depth)
    rough, fingers = smooth_field(rng, shape, 17), smooth_field(rng, shape, 12)
    core = distance * (1 + 0.16 * rough)
    rim_share, spread = rng.uniform(0.52, 0.72), rng.uniform(1.45, 1.95)
    enhancing = rng.random() >= no_rim_probability
    host = (tissue != CSF) & (depth > 0.01)
    # oedema follows white matter and hardly enters the cortex
    reach = distance * (1 + 0.20 * fingers) + np.where(tissue == WHITE, 0, 0.22)
    grown = tissue.copy()
    grown[host & (tissue != VEIN) & (reach < spread)] = ED
    solid = (depth > 0.01) & (tissue != VEIN)
    if enhancing:
        grown[solid & (core < 1)] = ET
        grown[solid & (core + 0.10 * fingers < rim_share) & (core < 0.9)] = NCR
    else:
        grown[solid & (core < 0.85)] = NCR
    return grown


def _distance(rng: np.random.Generator, tissue: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Return the distance from a centre in white matter, 1 at the surface of an ellipsoid."""
    shape = tissue.shape
    seeds = np.flatnonzero((tissue == WHITE) & (depth > 0.22) & (depth < 0.62))
    centre = np.unravel_index(rng.choice(seeds), shape)
    core_radius_voxels = rng.uniform(0.10, 0.17) * np.array(shape) * np.array([1.2, 1.0, 1.0])
    stretch, angle = rng.uniform(0.8, 1.25), rng.uniform(0, np.pi)
    w, v, u = (
        (np.arange(n) - c) / r for n, c, r in zip(shape, centre, core_radius_voxels, strict=True)
    )
    w, v, u = w[:, None, None], v[None, :, None], u[None, None, :]
    along, across = np.cos(angle) * v + np.sin(angle) * u, np.cos(angle) * u - np.sin(angle) * v
    return np.sqrt(w**2 + (along * stretch) ** 2 + (across / stretch) ** 2)


def acquire(
    rng: np.random.Generator,
    layers: tuple[np.ndarray, ...],
    signal: tuple[float, ...],
    shading: np.ndarray | float = 1.0,
    noisy: bool = True,
) -> np.ndarray:
    """Draw a magnitude image: partial volume, texture, bias field, Rician noise.

    Args:
        rng: the generator to draw from.
        layers: arrays (z, y, x): tissue without and with the tumour, share of the tumour's own
            signal (0 to 1), brain mask.
        signal: relative signal in the order of `TISSUES`, such as one of `SIGNAL`.
        shading: a further factor of the signal, broadcast over (z, y, x).
        noisy: with Rician noise; the same numbers are drawn without.

    Returns:
        int16 (z, y, x), 0 outside of the brain and at least 1 in it.

    >>> rng = np.random.default_rng(0)
    >>> tissue, depth = anatomy(rng, (24, 24, 24))
    >>> image = acquire(rng, (tissue, tissue, np.float32(1), depth > 0), SIGNAL["t1"])
    >>> image.dtype.name, bool(((image > 0) == (depth > 0)).all())
    ('int16', True)
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
