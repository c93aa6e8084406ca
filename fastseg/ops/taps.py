"""The taps of a Gaussian filter, axis by axis: plain torch in float64, differentiable in sigma and
offset. Making them waits for no GPU; deciding for them (`design_of`) may read one, once a call.

An exact circular Gaussian's taps are the inverse DFT of its response. From COMPACT_SIGMA up they
are Gaussian themselves and end where a tail of 1e-8 is left; below, the response is still large at
the Nyquist frequency, the taps decay as 1/n² only and the whole row is kept, as it is for float64.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fastseg.ops import tables
from fastseg.ops.context import traced

MOST_RADIUS = 1 << 20  # no image is so long; taps of more would only fill memory
COMPACT_SIGMA = 1.75
COMPACT_RADIUS = 5.73  # standard deviations that hold all but 1e-8 of a Gaussian


class Design(NamedTuple):
    """Say what fixes a filter's taps besides sigma and offset."""

    sizes: tuple
    padding: str
    kind: str  # "exact", "sampled", "erf" or "scalespace"
    radius: int  # of a spatial kernel; of an exact one a bound on what sigma needs
    truncate: float | None  # a spatial kernel's own radius is int(truncate·sigma + 0.5)
    compact: bool  # exact taps may leave a tail of 1e-8
    mean_radius: float  # over the images, as far as the host can see

    def reach(self, axis: int) -> int:
        """Return the radius that an axis's taps fit in: further ones wrap, or meet nothing but
        zeros.
        """
        size = self.sizes[axis]
        return min(self.radius, size // 2 if self.padding == "circular" else size - 1)

    def widest(self) -> int:
        """Return the largest reach."""
        return max(self.reach(axis) for axis in range(len(self.sizes)))


class Options(NamedTuple):
    """Say how far a filter's taps reach and what they are, as `gaussian_filter` takes it."""

    padding: str = "circular"
    truncate: float | None = None
    radius: int | None = None
    taps: str = "sampled"
    max_sigma: float | None = None


class Taps(NamedTuple):
    """Hold a filter's taps. rows: an axis's weights of x[n − R … n + R], (b, c, 2R+1) each; radii:
    (b, c, axes) int32, beyond which an image's taps are zero; b and c are 1 where all samples or
    channels share them; symmetric: taps[−r] = taps[r].
    """

    rows: list
    radii: Tensor
    symmetric: bool


def exact_reach(sigma: float, shift: float, widest: int) -> int:
    """Return `exact_radius` of numbers: a compiler traces it as such, not as a tensor it cannot
    read.
    """
    if sigma < COMPACT_SIGMA:
        return widest if sigma > 0 else 0
    return min(int(COMPACT_RADIUS * sigma + shift + 0.5), widest)


def exact_radius(sigma: Tensor, shift: Tensor | float, size: int, compact: bool) -> Tensor:
    """Return the radius that an exact circular Gaussian's taps need, moved by `shift` voxels, on an
    axis of `size`.
    """
    whole = torch.where(sigma > 0, size // 2, 0).to(sigma)
    if not compact:
        return whole
    reach = (COMPACT_RADIUS * sigma + shift + 0.5).floor().clamp(max=size // 2)
    return torch.where(sigma < COMPACT_SIGMA, whole, reach)


def _own_radius(sigma: Tensor, offset: Tensor | None, design: Design, axis: int) -> Tensor:
    if design.kind == "exact":
        shift = 0.0 if offset is None else offset.abs()
        return exact_radius(sigma, shift, design.sizes[axis], design.compact)
    if design.truncate is None:
        return torch.full_like(sigma, design.radius)
    return (design.truncate * sigma + 0.5).floor().clamp(max=design.radius)


def _distances(radius: int, device: torch.device) -> Tensor:
    return torch.arange(-radius, radius + 1, device=device)


@tables.cached
def _waves(size: int, radius: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Angular frequencies of the half spectrum, and cosines and sines (bins, 2·radius+1) that turn
    a response into taps.
    """
    bins = torch.arange(size // 2 + 1, device=device)
    cos, sin = tables.cos_sin(bins, _distances(radius, device), size)
    share = torch.where((bins == 0) | (2 * bins == size), 1.0, 2.0).double() / size
    if size % 2 == 0 and radius == size // 2:  # both ends are the same sample
        halves = torch.where(_distances(radius, device).abs() == radius, 0.5, 1.0).double()
        cos, sin = cos * halves[:, None], sin * halves[:, None]
    return bins.double() * (2 * math.pi / size), (cos * share).T, (sin * share).T


def _exact(sigma: Tensor, offset: Tensor | None, size: int, radius: int) -> Tensor:
    frequencies, cos, sin = _waves(size, radius, sigma.device)
    response = torch.exp(-0.5 * (sigma[..., None] * frequencies).square())
    if offset is None:
        return response @ cos
    phase = offset[..., None] * frequencies
    return (response * phase.cos()) @ cos + (response * phase.sin()) @ sin


DECAYED = 20.0  # exp(−2·DECAYED) of a response is left out


def scale_space(sigma: Tensor, radius: int) -> Tensor:
    """Return exp(−t)·Iᵣ(t), t = σ², of |r| ≤ radius: (...) → (..., 2·radius+1), the kernel whose
    scales add up exactly on a grid (Lindeberg, 1990).

    It is the inverse Fourier transform of exp(t·(cos ω − 1)) over a period; the trapezoid rule, up
    to where that ends, is exact to rounding: as a function of ω it is even and periodic.
    """
    count = radius + 64
    sine = (math.sqrt(DECAYED) / sigma.detach()).clamp(max=1)  # of half the last ω
    step = 2 * torch.asin(sine) / count
    omega = step[..., None] * torch.arange(count + 1, device=sigma.device)
    response = torch.exp(-2 * (sigma[..., None] * (omega / 2).sin()).square())
    share = torch.full((count + 1,), 1 / math.pi, dtype=sigma.dtype, device=sigma.device)
    share[0] = share[-1] = 0.5 / math.pi
    positive = torch.arange(radius + 1, device=sigma.device)
    waves = torch.cos(omega[..., None] * positive)
    half = step[..., None] * ((response * share)[..., None, :] @ waves).squeeze(-2)
    return torch.cat([half[..., 1:].flip(-1), half], -1)


def _spatial(
    sigma: Tensor, offset: Tensor | None, kind: str, radius: int, outside: Tensor
) -> Tensor:
    if kind == "scalespace":
        return scale_space(sigma, radius)
    distance = _distances(radius, sigma.device).to(sigma)
    if offset is not None:
        distance = distance - offset[..., None]
    scale = math.sqrt(2) * torch.where(sigma > 0, sigma, 1)[..., None]
    if kind == "sampled":
        return (-(distance / scale).square()).masked_fill(outside, -math.inf).softmax(-1)
    return (torch.erf((distance + 0.5) / scale) - torch.erf((distance - 0.5) / scale)) / 2


def _fitted(row: Tensor, reach: int, size: int, circular: bool) -> Tensor:
    """A row wider than its axis: further taps wrap around a circular one and are lost elsewhere."""
    radius = row.shape[-1] // 2
    if radius == reach:
        return row
    if not circular:
        return row[..., radius - reach : radius + reach + 1]
    period = _distances(radius, row.device) % size
    wrapped = row.new_zeros((*row.shape[:-1], size)).index_add(-1, period, row)
    inside = _distances(reach, row.device)
    halves = torch.where(2 * inside.abs() == size, 0.5, 1.0).to(row)
    return wrapped[..., inside % size] * halves


def _axis(sigma: Tensor, offset: Tensor | None, design: Design, axis: int) -> tuple[Tensor, Tensor]:
    """The taps of one axis (b, c, 2·reach+1), and each image's radius (b, c)."""
    size, reach = design.sizes[axis], design.reach(axis)
    radius = reach if design.kind == "exact" else design.radius
    with torch.no_grad():
        own = _own_radius(sigma, offset, design, axis)
    distance = _distances(radius, sigma.device)
    outside = distance.abs() > own[..., None]
    if design.kind == "exact":
        row = _exact(sigma, offset, size, radius)
    else:
        row = _spatial(sigma, offset, design.kind, radius, outside)
    row = row.masked_fill(outside, 0)
    row = torch.where(sigma[..., None] > 0, row, (distance == 0).to(row))
    own = torch.where(sigma > 0, own.clamp(max=reach), 0)
    return _fitted(row, reach, size, design.padding == "circular"), own.to(torch.int32)


def build(
    sigma: Tensor, offset: Tensor | None, design: Design, dtype: torch.dtype, device: torch.device
) -> Taps:
    """Return the taps of a filter. sigma, offset: float64, (b, c, 1 or axes) each. Taps are
    returned in `dtype` on `device`.
    """
    alike = sigma.shape[-1] == 1 and (offset is None or offset.shape[-1] == 1)
    shapes = [sigma.shape[:-1], *([] if offset is None else [offset.shape[:-1]])]
    images = torch.broadcast_shapes(*shapes)
    made, rows, radii = {}, [], []
    for axis, size in enumerate(design.sizes):
        key = axis if traced() or not alike else size  # a symbol as a key would be one size
        if key not in made:
            own, centre = (
                None if v is None else v[..., min(axis, v.shape[-1] - 1)].expand(images)
                for v in (sigma, offset)
            )
            made[key] = _axis(own, centre, design, axis)
        rows.append(made[key][0].to(device, dtype))
        radii.append(made[key][1])
    return Taps(rows, torch.stack(radii, -1).to(device), offset is None)


@tables.cached
def constant(
    sigma: float, offset: float | None, design: Design, dtype: torch.dtype, device: torch.device
) -> Taps:
    """Return the taps of a filter that all images and axes share."""
    sigma, offset = (
        None if v is None else torch.full((1, 1, 1), v, dtype=torch.float64, device="cpu")
        for v in (sigma, offset)
    )
    return build(sigma, offset, design, dtype, device)


def packed(taps: Taps, batch: int, channels: int) -> tuple[Tensor, Tensor]:
    """Return taps and radii as the kernels take them: (images or 1, 3, 2R+1) and (images or 1, 3),
    axes D, H, W; axes that x lacks are the identity.
    """
    lead = taps.radii.shape[:2]
    shape = (1, 1) if lead == (1, 1) else (batch, channels)
    widest = max(row.shape[-1] for row in taps.rows)
    rows = [
        F.pad(row, ((widest - row.shape[-1]) // 2,) * 2).expand(*shape, -1) for row in taps.rows
    ]
    missing = 3 - len(rows)
    if missing:
        identity = (_distances(widest // 2, rows[0].device) == 0).to(rows[0])
        rows = [identity.expand(*shape, -1)] * missing + rows
    radii = F.pad(taps.radii, (missing, 0)).expand(*shape, 3)
    return torch.stack(rows, 2).flatten(0, 1), radii.flatten(0, 1).contiguous()


def design_of(x, sigma, offset, options: Options) -> Design:
    """Return what fixes the taps of a filter of x; ValueError where sigma or the radius is out of
    range.
    """
    padding, truncate, radius, taps, max_sigma = options
    if taps == "scalespace" and offset is not None:
        raise ValueError("offset: got one, which taps 'scalespace' do not have")
    sizes, compact = tuple(x.shape[2:]), x.dtype != torch.float64
    largest = _largest(sigma, max_sigma)
    if truncate is None and radius is None:
        reach, mean = _exact_reach(sigma, offset, sizes, compact, max_sigma)
        return Design(sizes, padding, "exact", reach, None, compact, mean)
    if radius is None:
        if largest is None:
            raise ValueError(
                "max_sigma: got None, want a bound on sigma, whose values the host cannot see"
            )
        radius = int(min(truncate * largest + 0.5, MOST_RADIUS + 1))
    if radius > MOST_RADIUS:
        name, given = ("radius", radius) if truncate is None else ("truncate", truncate)
        raise ValueError(f"{name}: got {given}, want a reach of at most {MOST_RADIUS} voxels")
    if padding == "reflect" and radius >= min(sizes):
        raise ValueError(f"radius: got {radius}, padding 'reflect' wants less than {min(sizes)}")
    return Design(sizes, padding, taps, radius, truncate, compact, radius)


def _largest(sigma, given: float | None) -> float | None:
    """A bound on sigma: the one given, or what the host reads of it."""
    if isinstance(sigma, float):
        return sigma if given is None else given
    if not _visible(sigma):
        return given
    if not sigma.numel():
        return 0.0
    least, most = (float(v) for v in torch.aminmax(sigma.detach()))
    if not (least >= 0 and most < math.inf):
        raise ValueError(f"sigma: got {least} to {most}, want finite numbers, 0 or more")
    return most if given is None else given


def _visible(value) -> bool:
    """Whether the host can read a tensor's numbers without waiting for anything."""
    if isinstance(value, float) or value is None:
        return True
    if traced() or torch._C._len_torch_dispatch_stack():
        return False
    plain = torch._C._functorch.peek_interpreter_stack() is None
    return plain and type(value) in (Tensor, torch.nn.Parameter) and value.device.type == "cpu"


def _readable(value) -> bool:
    """Whether the host can read a tensor's numbers, though it may have to wait for a GPU."""
    if _visible(value):
        return True
    on_gpu = type(value) in (Tensor, torch.nn.Parameter) and value.device.type == "cuda"
    if not on_gpu or traced() or torch._C._len_torch_dispatch_stack():
        return False
    plain = torch._C._functorch.peek_interpreter_stack() is None
    return plain and not torch.cuda.is_current_stream_capturing()


def _exact_reach(sigma, offset, sizes, compact: bool, max_sigma: float | None) -> tuple[int, float]:
    """The radius of the widest of the exact kernels, and their mean as far as the host can see.

    Below COMPACT_SIGMA taps fill their rows, so a bound on hidden sigmas bounds the mean alone.
    """
    widest = max(sizes) // 2
    if not compact:
        return widest, widest
    if not (_visible(sigma) and _visible(offset)):
        if max_sigma is not None:
            shift = 0.0 if offset is None or isinstance(offset, Tensor) else abs(offset)
            return widest, exact_reach(max_sigma, shift, widest)
        if not (_readable(sigma) and _readable(offset)):
            return widest, widest
    if isinstance(sigma, float) and not isinstance(offset, Tensor):
        reach = exact_reach(sigma, abs(offset or 0.0), widest)
        return reach, reach
    reach, mean = _read_reach(sigma, offset, widest)
    # of numbers that only a GPU holds the kept width is the same in every call, captured or not
    return (reach if _visible(sigma) and _visible(offset) else widest), mean


def _read_reach(sigma, offset, widest: int) -> tuple[int, float]:
    """The largest and the mean radius of exact kernels; numbers on a GPU are reduced there and cost
    one wait.
    """
    if not all(value.numel() for value in (sigma, offset) if isinstance(value, Tensor)):
        return 0, 0
    device = next(value.device for value in (sigma, offset) if isinstance(value, Tensor))
    sigma, shift = (
        torch.as_tensor(value or 0.0, dtype=torch.float64, device=device)
        if not isinstance(value, Tensor)
        else value.detach().to(device, torch.float64)
        for value in (sigma, offset)
    )
    radii = exact_radius(sigma, shift.abs().max(), 2 * widest, True)
    most, mean = torch.stack((radii.max(), radii.mean())).tolist()
    if not math.isfinite(mean):
        raise ValueError("sigma, offset: got numbers that are not finite, want finite ones")
    return int(most), mean
