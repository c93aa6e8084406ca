"""The Gaussian filter: the public function, its checks and the choice of backend."""

import math

import torch
from torch import Tensor

from fastseg.ops import checks, context, dispatch, impl
from fastseg.ops.filtering import separable_filter
from fastseg.ops.impl import bounds, matmul, reference
from fastseg.ops.separable import make_taps, packed_taps
from fastseg.ops.taps import Design, Options, design_of

MODES = ("low", "high", "both")
PADDINGS = ("circular", "reflect", "zeros")
TAPS = ("sampled", "erf", "scalespace")


@context.public
def gaussian_filter(
    x: Tensor, sigma, mode: str = "low", padding: str = "circular", truncate: float | None = None,
    radius: int | None = None, taps: str = "sampled", offset=None, max_sigma: float | None = None,
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    """Filter x by a Gaussian of standard deviation `sigma`, in voxels, over all axes but the first
    two.

    x: (B, C, *S) real, 1 to 3 axes. sigma: a float, or a tensor broadcastable to (B, C, axes); 0 is
    the identity. mode: "low" is the filtered x, "high" x − low, "both" the pair (low, high). All in
    x.dtype; 16-bit inputs are computed in float32.

    padding "circular" with neither truncate nor radius: the spectrum times exp(−2π²σ²f²), to
    rounding, `taps` being of no account. Otherwise a kernel of radius R = `radius`, or
    int(truncate·sigma + 0.5) for each sigma by itself: taps "sampled" are exp(−r²/2σ²) normalised
    to sum 1, "erf" the Gaussian's integral over each voxel, not normalised (MONAI's
    `GaussianFilter` with "zeros" and truncate=4), "scalespace" exp(−σ²)·Iᵣ(σ²) with Bessel's I
    (Lindeberg, 1990), not normalised and without offset. "reflect" does not repeat the edge, as
    `F.pad`, and wants R below every size. offset: like sigma, moves the kernel's centre: y[n]
    weighs x around n + offset.

    `max_sigma` is a bound on a sigma whose values the host cannot see, a tensor on a GPU or under
    torch.compile. With `truncate` it is needed. Without both, kernels whose taps are those of
    max_sigma are weighed against an FFT; where it is missing, the radii are reduced on the GPU and
    read, which waits for the stream once a call, and under torch.compile and in the capture of a
    CUDA graph, which cannot wait, rows are taken to be whole: long ones then go to torch.fft.
    Differentiable in x, sigma and offset, any number of times.

    Raises ValueError or TypeError naming the argument, RuntimeError where a forced backend cannot
    run.

    >>> x = torch.randn(2, 1, 30, 20)
    >>> low, high = gaussian_filter(x, sigma=2.0, mode="both", padding="reflect", radius=6)
    >>> torch.allclose(low + high, x, atol=1e-6)
    True
    """
    if mode not in MODES:
        raise ValueError(f"mode: got {mode!r}, want one of {', '.join(MODES)}")
    options = Options(padding, truncate, radius, taps, max_sigma)
    sigma, offset, design = prepare("x", x, sigma, offset, options)
    backend = select(context.setting(), x.device, x.dtype, design)
    if backend == "reference":
        return reference.gaussian_filter(
            x, sigma, mode, padding, truncate, radius, taps, offset, max_sigma
        )
    if backend == "matmul":
        made = make_taps(x, sigma, offset, design)
        return matmul.gaussian_filter(x, made, mode, padding)
    by = packed_taps(x, sigma, offset, design, backend)
    low, high = separable_filter(x, by, mode, False, backend)
    return (low, high) if mode == "both" else low if mode == "low" else high


def prepare(name: str, x, sigma, offset, options: Options = Options()):  # noqa: B008  immutable
    """Check all arguments; return sigma and offset, floats or tensors (b, c, axes), and the taps'
    design.

    name: what x is called in a message. Raises ValueError or TypeError naming the argument.
    """
    check_signal(name, x)
    padding, taps = options.padding, options.taps
    for what, value, known in (("padding", padding, PADDINGS), ("taps", taps, TAPS)):
        if value not in known:
            raise ValueError(f"{what}: got {value!r}, want one of {', '.join(known)}")
    _check_extent(options)
    sigma, offset = _checked("sigma", sigma, x), _checked("offset", offset, x)
    return sigma, offset, design_of(x, sigma, offset, options)


def check_signal(name: str, x) -> None:
    """Refuse an x that is no real (B, C, *S) with 1 to 3 axes, none empty; `name` is what it is
    called.
    """
    checks.check_tensor(name, x)
    if x.dtype not in checks.FLOATS:
        raise TypeError(f"{name}: got {x.dtype}, want float32, float64, float16 or bfloat16")
    if not 3 <= x.dim() <= 5 or any(n < 1 for n in x.shape[1:]):
        raise ValueError(
            f"{name}: got shape {tuple(x.shape)}, want (B, C, *S), 1 to 3 axes S, none empty"
        )


def _number(name: str, value, least: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: got {value!r}, want {least}")
    return float(value)


def _check_extent(options: Options) -> None:
    padding, truncate, radius, _, max_sigma = options
    if radius is not None:
        if isinstance(radius, bool) or not isinstance(radius, int):
            raise TypeError(f"radius: got {radius!r}, want an integer")
        if radius < 0:
            raise ValueError(f"radius: got {radius}, want 0 or more")
        if truncate is not None:
            raise ValueError(f"truncate: got {truncate} beside radius {radius}, want one of them")
    elif truncate is None and padding != "circular":
        raise ValueError(f"radius: got neither radius nor truncate, padding {padding!r} wants one")
    for name, value in (("truncate", truncate), ("max_sigma", max_sigma)):
        if value is not None and not 0 <= _number(name, value, "a number") < math.inf:
            raise ValueError(f"{name}: got {value}, want a finite number, 0 or more")


def _checked(name: str, value, x: Tensor):
    """sigma or offset: a float or None, or a tensor with the axes (B, C, axes), some of them 1."""
    if value is None and name == "offset":
        return None
    if not isinstance(value, Tensor):
        value = _number(name, value, "a number or a tensor")
        if not abs(value) < math.inf or (name == "sigma" and value < 0):
            raise ValueError(f"{name}: got {value}, want a finite number{_ABOVE[name]}")
        return value
    if not value.is_floating_point():
        raise TypeError(f"{name}: got {value.dtype}, want a real floating dtype")
    if value.device not in (x.device, torch.device("cpu")):
        raise ValueError(f"{name}: is on {value.device}, want x's {x.device}, or the CPU")
    want = (*x.shape[:2], x.dim() - 2)
    padded = (1,) * (3 - value.dim()) + tuple(value.shape)
    if len(padded) > 3 or any(n != 1 and n != m for n, m in zip(padded, want, strict=True)):
        raise ValueError(
            f"{name}: got shape {tuple(value.shape)}, want one broadcastable to (B, C, axes) {want}"
        )
    return value.reshape(padded)


_ABOVE = {"sigma": ", 0 or more", "offset": ""}


def taps_win(
    design: Design, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> bool:
    """Tell whether taps beat an FFT, which an exact Gaussian may also be: whole rows of long axes
    do not. Spatial kernels have no such rival.
    """
    if design.kind != "exact":
        return True
    axes = len(design.sizes)
    return design.mean_radius * axes <= bounds.most_work("gaussian", device, dtype, axes)


def select(setting: str, device: torch.device | str, dtype: torch.dtype, design: Design) -> str:
    """Return the backend that filters tensors of a device and dtype by taps of this design."""
    return dispatch.select(impl.GAUSSIAN, setting, device, dtype, taps_win(design, device, dtype))
