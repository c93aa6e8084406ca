"""Shapes of a phantom: a folded brain with ventricles and nuclei, and a nested tumour in it."""

import math

import numpy as np

# gliosis is the harmless bright halo of old ventricles; it and veins keep intensity alone from
# being an answer, so a network has to look around
TISSUES = ("csf", "grey", "white", "vein", "gliosis", "NCR", "ED", "ET")
CSF, GREY, WHITE, VEIN, GLIOSIS, NCR, ED, ET = range(len(TISSUES))


def smooth_field(rng: np.random.Generator, shape: tuple[int, ...], cells: float) -> np.ndarray:
    """A smooth random field of unit variance, with about `cells` bumps along the longest axis."""
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
    """Open grids (w, v, u): up, back and left, each -1…1 across the volume's half-size."""
    w, v, u = (2 * (np.arange(n) + 0.5) / n - 1 for n in shape)
    return w[:, None, None], v[None, :, None], u[None, None, :]


def anatomy(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Tissue index (z, y, x), and depth below the brain's surface (0 at it, 1 at the centre)."""
    w, v, u = _grid(shape)
    half_axes = np.array([0.90, 0.93, 0.76]) * rng.uniform(0.94, 1.02, 3)
    tilt = rng.uniform(-0.05, 0.05)
    w, v, u = w / half_axes[0], v / half_axes[1], (u + tilt * v) / half_axes[2]
    # the frontal end is narrower, the base flatter, than an ellipsoid's
    radius = np.sqrt((u * (1 - 0.12 * v)) ** 2 + v**2 + (w * np.where(w < 0, 1.12, 1.0)) ** 2)
    depth = 1 - radius + 0.03 * smooth_field(rng, shape, 5)
    tissue = np.full(shape, WHITE, np.int8)

    folds = np.abs(smooth_field(rng, shape, 17))  # its zero set is a net of walls: the sulci
    midline = np.abs(u + 0.012 * smooth_field(rng, shape, 4))
    fissure = (midline + 0.25 * np.clip(depth - 0.45, 0, None)) * 14
    wall = np.minimum(folds, fissure)
    tissue[(depth < 0.05) | (wall < 1.05 * (1 - depth / 0.42))] = GREY
    tissue[(depth < 0.012) | (wall < 0.22 * (1 - depth / 0.36))] = CSF

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
    # two thin nets cross in threads
    tissue[(wall < 0.22) & (np.abs(smooth_field(rng, shape, 15)) < 0.10) & (depth < 0.4)] = VEIN
    return tissue, depth


def grow_tumour(
    rng: np.random.Generator, tissue: np.ndarray, depth: np.ndarray, no_rim_probability: float
) -> np.ndarray:
    """Put necrosis inside enhancing rim inside oedema, each a noise-perturbed level set."""
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
    distance = np.sqrt(w**2 + (along * stretch) ** 2 + (across / stretch) ** 2)

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
