"""Tensors to addresses: the spectral kernels of `fastseg._C.cpu` and `fastseg._C.cuda`."""

import math
from contextlib import nullcontext
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from fastseg.ops import fft, tables
from fastseg.ops.impl import composed, contract, mixes
from fastseg.ops.impl.contract import Geometry

DTYPE_CODES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
_HERE = nullcontext()


def _public_stream(index: int) -> int:
    return torch.cuda.current_stream(index).cuda_stream


# what torch's own generated code asks: the public functions make objects, which takes as long as
# the rest of a call
_stream = getattr(torch._C, "_cuda_getCurrentRawStream", _public_stream)
_current_device = getattr(torch._C, "_cuda_getDevice", torch.cuda.current_device)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which tensors of `dtype` are computed."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def dense(*tensors: Tensor | None) -> list[Tensor | None]:
    """Return tensors that are contiguous and whose memory holds their values, None as it is.

    Lazily negated tensors, such as the imaginary part of a conjugate, hold the negatives, and zero
    tensors of forward-mode gradients hold nothing: both are written out.
    """
    found = []
    for tensor in tensors:  # no comprehension: this is on the way of every call
        if tensor is not None:
            if tensor.is_neg() or tensor._is_zerotensor():
                tensor = tensor.clone()
            tensor = tensor.contiguous()
        found.append(tensor)
    return found


def aligned(x: Tensor) -> Tensor:
    """Return x where pairs of its numbers can be read at once, dense and from a place that is a
    multiple of theirs.
    """
    (x,) = dense(x)
    return x if x.data_ptr() % (2 * x.itemsize) == 0 else x.clone()


def address(tensor: Tensor | None) -> int:
    """Return where a tensor's numbers lie, 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


def lane(x: Tensor) -> int:
    """Return what a kernel of x's device runs on: a number of threads, or a stream's handle."""
    index = x.get_device()
    return torch.get_num_threads() if index < 0 else _stream(index)


def on_device_of(x: Tensor):
    """Make x's device CUDA's current one, which kernels go to, inside a `with`."""
    index = x.get_device()
    return _HERE if index < 0 or index == _current_device() else torch.cuda.device(index)


class _Plan(NamedTuple):
    transform: object
    tables: list  # kept alive: the transform holds their addresses


class Spectral(composed.Convolution, contract.Spectral):
    """Run one table's truncated transforms and channel mixes."""

    def __init__(self, library, table):
        self.library, self.table = library, table
        self.plan = lru_cache(maxsize=512)(self._plan)
        self.product = lru_cache(maxsize=512)(self._product)
        self._single = library.Axis(
            cos=0, sin=0, size=1, positive=1, negative=0, padded=tables.TABLE_PADDING
        )

    def _plan(
        self, sizes, geometry: Geometry, synthesis: bool, storage: torch.dtype,
        device: torch.device, tf32: bool,
    ) -> _Plan:  # fmt: skip
        """One direction of a geometry, between the grid `sizes`, whose numbers are of `storage`,
        and the kept modes.
        """
        modes, scale, dtype = geometry.modes, geometry.scales[synthesis], compute_dtype(storage)
        weighted = synthesis != geometry.adjoint
        kept = tables.kept_axes(modes, geometry.two_sided)
        last = tables.last_tables(sizes[-1], modes[-1], synthesis, scale, weighted, dtype, device)
        found = [
            (*self.outer(size, axis, synthesis, dtype, device), size, axis)
            for size, axis in zip(sizes[:-1], kept[:-1], strict=True)
        ]
        found.append((last, last[0].shape[1], sizes[-1], kept[-1]))
        more = self.more_tables(sizes, geometry, synthesis, storage, device)
        axes = [self._axis(*axis, named) for axis, named in zip(found, more, strict=True)]
        d, h, w = [self._single] * (3 - len(axes)) + axes
        transform = self.library.Transform(d=d, h=h, w=w, scale=scale, weighted=weighted, tf32=tf32)
        return _Plan(transform, [found, more])

    def _axis(self, pair: tuple, padded: int, size: int, kept: tables.Kept, more: dict):
        return self.library.Axis(
            cos=pair[0].data_ptr(), sin=pair[-1].data_ptr(), size=size, positive=kept.positive,
            negative=kept.negative, padded=padded, **{name: address(t) for name, t in more.items()},
        )  # fmt: skip

    def more_tables(
        self, sizes, geometry: Geometry, synthesis: bool, storage: torch.dtype, device: torch.device
    ) -> list[dict[str, Tensor]]:
        """Return tables of every axis that not every transform has, by their names in `Axis`: the
        roots of unity where the kernels have an FFT that serves this spectrum.
        """
        serves = fft.serves(sizes, geometry.modes)
        dtype = compute_dtype(storage)
        return [{"roots": tables.roots(n, dtype)} if serves else {} for n in sizes]

    def tf32(self) -> bool:
        """Tell whether products may be rounded to TF32."""
        return False

    def outer(self, *arguments) -> tuple[tuple[Tensor, ...], int]:
        """Return the tables of an axis other than the last, and the length of their rows where the
        kernels ask for it.
        """
        return tables.outer_tables(*arguments), tables.TABLE_PADDING

    def scratch(self, spectrum: Tensor, transform, images: int, sizes, modes, synthesis: bool):
        """Return what a transform keeps between its axes, None where it keeps nothing."""
        if len(sizes) < 3 or sizes[-3] == 1:
            return None
        plane = -(-math.prod(modes[-2:]) // 16) * 16
        return spectrum.new_empty((images, sizes[-3], plane, 2))

    def analysis(self, x: Tensor, geometry: Geometry, planar: bool = False) -> Tensor:
        (x,), modes, sizes = dense(x), geometry.modes, x.shape[2:]
        batch, channels = x.shape[:2]
        dtype = compute_dtype(x.dtype)
        native = self.plan(sizes, geometry, False, x.dtype, x.device, self.tf32())
        shape = (batch, 2 * channels, *modes) if planar else (batch, channels, *modes, 2)
        spectrum, images = torch.empty(shape, dtype=dtype, device=x.device), batch * channels
        planes = self.scratch(spectrum, native.transform, images, sizes, modes, synthesis=False)
        with on_device_of(x):
            self.table.analysis(
                transform=native.transform, real=x.data_ptr(), spectrum=spectrum.data_ptr(),
                planes=address(planes), images=images, dtype=DTYPE_CODES[x.dtype], planar=planar,
                lane=lane(x),
            )  # fmt: skip
        return spectrum

    def synthesis(
        self, spectrum: Tensor, geometry: Geometry, dtype: torch.dtype, bias: Tensor | None = None,
        planar: bool = False,
    ) -> Tensor:  # fmt: skip
        bias = None if bias is None else bias.to(spectrum.dtype)
        (spectrum, bias), sizes = dense(spectrum, bias), geometry.sizes
        batch, channels = spectrum.shape[0], spectrum.shape[1] // (2 if planar else 1)
        native = self.plan(sizes, geometry, True, dtype, spectrum.device, self.tf32())
        y = torch.empty((batch, channels, *sizes), dtype=dtype, device=spectrum.device)
        images, modes = batch * channels, geometry.modes
        planes = self.scratch(spectrum, native.transform, images, sizes, modes, synthesis=True)
        with on_device_of(spectrum):
            self.table.synthesis(
                transform=native.transform, spectrum=spectrum.data_ptr(), planes=address(planes),
                bias=address(bias), real=y.data_ptr(), images=images, channels=max(channels, 1),
                dtype=DTYPE_CODES[dtype], planar=planar, lane=lane(spectrum),
            )  # fmt: skip
        return y

    def _product(self, product: str, shape_a: tuple, shape_b: tuple, dtype: torch.dtype):
        """A product of spectra as the kernels take it, and the shape of its result."""
        at = mixes.layout(product, shape_a[:-1], shape_b[:-1])
        groups, p, q, r, modes = at.extents
        (a_group, a_p, a_r), (b_group, b_r, b_q), (out_group, out_p, out_q) = at.a, at.b, at.out
        conj_a, conj_b = mixes.PRODUCTS[product]
        return self.library.Mix(
            groups=groups, p=p, q=q, r=r, modes=modes, a_group=a_group, a_p=a_p, a_r=a_r,
            b_group=b_group, b_r=b_r, b_q=b_q, out_group=out_group, out_p=out_p, out_q=out_q,
            conj_a=conj_a, conj_b=conj_b, is_double=dtype == torch.float64,
        ), (*at.shape, 2)  # fmt: skip

    def mix(self, a: Tensor, b: Tensor, product: str) -> Tensor:
        a, b = dense(a, b)
        made, shape = self.product(product, a.shape, b.shape, a.dtype)
        out = torch.empty(shape, dtype=a.dtype, device=a.device)
        with on_device_of(a):
            self.table.mix(
                of=made, a=a.data_ptr(), b=b.data_ptr(), out=out.data_ptr(), lane=lane(a)
            )
        return out


class _Convolution(NamedTuple):
    """A convolution of tensors of given shapes, as `csrc/convolution.h` takes it."""

    native: object
    shape: tuple  # of the result
    spectrum_shape: tuple
    keeps_shape: bool  # whether the result has x's
    plans: tuple  # kept alive
    rooms: dict  # floats of the workspace, by whether the spectrum is kept and it is a block


class Whole(Spectral):
    """Run a whole convolution in one call: on small tensors three cost more than the arithmetic."""

    def __init__(self, library, table):
        super().__init__(library, table)
        self.convolution = lru_cache(maxsize=1024)(self._convolution)

    def _convolution(
        self, shape, weight_shape, geometry: Geometry, dtype: torch.dtype, device: torch.device,
        tf32: bool = False,
    ) -> _Convolution:  # fmt: skip
        groups = geometry.groups
        plans = (
            self.plan(shape[2:], geometry, False, dtype, device, tf32),
            self.plan(geometry.sizes, geometry, True, dtype, device, tf32),
        )
        outputs = weight_shape[1]
        native = self.library.Convolution(
            analysis=plans[0].transform, synthesis=plans[1].transform, groups=groups,
            inputs=shape[1] // groups, outputs=outputs // groups, modes=math.prod(geometry.modes),
            dtype=DTYPE_CODES[dtype],
        )  # fmt: skip
        result = (shape[0], outputs, *geometry.sizes)
        return _Convolution(
            native, result, (*shape[:2], *weight_shape[2:]), result == tuple(shape), plans,
            self.rooms(native, shape[0]),
        )  # fmt: skip

    def rooms(self, native, batch: int) -> dict:
        """Return how large a workspace the kernels want, none where they find it themselves."""
        return {}

    def convolve(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, keep: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        return self.call(self.table.convolve, x, weight, bias, geometry, keep)

    def call(
        self, kernel, x: Tensor, weight: Tensor, bias, geometry: Geometry, keep: bool,
        block: bool = False, tf32: bool = False,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Return the result of a kernel of whole convolutions, and the kept spectrum."""
        index = x.get_device()
        if index >= 0 and index != _current_device():
            with torch.cuda.device(index):
                return Whole.call(self, kernel, x, weight, bias, geometry, keep, block, tf32)
        if bias is not None and bias.dtype is not weight.dtype:
            bias = bias.to(weight.dtype)
        x, weight, bias = dense(x, weight, bias)
        made = self.convolution(x.shape, weight.shape, geometry, x.dtype, x.device, tf32)
        # the quickest of torch's ways to an uninitialised tensor
        y = torch.empty_like(x) if made.keeps_shape else x.new_empty(made.shape)
        spectrum = weight.new_empty(made.spectrum_shape) if keep else None
        workspace = weight.new_empty(made.rooms[keep, block]) if made.rooms else None
        kernel(
            convolution=made.native, x=x.data_ptr(), weight=weight.data_ptr(),
            bias=0 if bias is None else bias.data_ptr(), spectrum=address(spectrum) if keep else 0,
            y=y.data_ptr(), workspace=0 if workspace is None else workspace.data_ptr(),
            batch=x.shape[0], lane=torch.get_num_threads() if index < 0 else _stream(index),
        )  # fmt: skip
        return y, spectrum
