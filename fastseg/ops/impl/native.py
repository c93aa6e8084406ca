"""Tensors to addresses: the spectral kernels of `fastseg._C.cpu` and `fastseg._C.cuda`."""

import math
from contextlib import nullcontext
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from fastseg.ops import tables

DTYPE_CODES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
_SINGLE_AXIS = (0, 0, 1, 1, 0, tables.TABLE_PADDING)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def lane(x: Tensor) -> int:
    """What a kernel of x's device runs on: a number of threads, or the current stream's handle."""
    if x.device.type == "cuda":
        return torch.cuda.current_stream(x.device).cuda_stream
    return torch.get_num_threads()


def on_device_of(x: Tensor):
    """Kernels go to CUDA's current device: makes x's device that one inside a `with`."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def run(kernel, x: Tensor, *arguments):
    """kernel(*arguments, lane) on the device of x."""
    with on_device_of(x):
        return kernel(*arguments, lane(x))


# a, b → out over batch n, groups g, channels i (in) and o (out) of a group, modes m; the second
# operand or, in the weight gradient, the first one is conjugated
MIXES = {
    "ngim,igom->ngom": (False, False),  # forward
    "ngom,igom->ngim": (False, True),  # input gradient
    "ngim,ngom->igom": (True, False),  # weight gradient
}


def _strides(subscripts: str, shape: dict[str, int]) -> dict[str, int]:
    strides, step = {}, 1
    for axis in reversed(subscripts):
        strides[axis], step = step, step * shape[axis]
    return strides


@lru_cache(maxsize=512)
def mix_layout(subscripts: str, shape_a: tuple, shape_b: tuple):
    names_a, rest = subscripts.split(",")
    names_b, names_out = rest.split("->")
    shape = dict(zip(names_a, shape_a, strict=True)) | dict(zip(names_b, shape_b, strict=True))
    a, b, out = (_strides(names, shape) for names in (names_a, names_b, names_out))
    (p,) = set(names_a) & set(names_out) - set("gm")
    (q,) = set(names_b) & set(names_out) - set("gm")
    (r,) = set(names_a) & set(names_b) - set("gm")
    return (
        [shape[axis] for axis in ("g", p, q, r, "m")],
        [a["g"], a[p], a[r]],
        [b["g"], b[r], b[q]],
        [out["g"], out[p], out[q]],
        [shape[axis] for axis in names_out],
    )


class _Plan(NamedTuple):
    transform: object
    tables: list  # kept alive: the transform holds their addresses


def _axis(size: int, kept: tables.Kept, pair: tuple[Tensor, ...], padded: int) -> tuple:
    cos, sin = pair[0].data_ptr(), pair[-1].data_ptr()
    return (cos, sin, size, kept.positive, kept.negative, padded)


class Spectral:
    """One table's truncated transforms and channel mixes; the meaning of each is in `impl`."""

    def __init__(self, library, table):
        self.library, self.table = library, table
        self.plan = lru_cache(maxsize=512)(self._plan)

    def _plan(self, sizes, modes, two_sided, synthesis, scale, weighted, dtype, device) -> _Plan:
        kept = tables.kept_axes(modes, two_sided)
        last = tables.last_tables(sizes[-1], modes[-1], synthesis, scale, weighted, dtype, device)
        axes, alive = [_axis(sizes[-1], kept[-1], last, last[0].shape[1])], [last]
        for size, axis in zip(reversed(sizes[:-1]), reversed(kept[:-1]), strict=True):
            outer, padded = self.outer(size, axis, synthesis, dtype, device)
            alive.append(outer)
            axes.insert(0, _axis(size, axis, outer, padded))
        axes = [_SINGLE_AXIS] * (3 - len(axes)) + axes
        roots = self.roots(sizes, modes, dtype)
        addresses = [0] * (3 - len(roots)) + [r.data_ptr() for r in roots]
        return _Plan(self.library.Transform(*axes, addresses, scale, weighted), [*alive, *roots])

    def roots(self, sizes, modes, dtype) -> list[Tensor]:
        """Of unity, for every axis, where the kernels have an FFT that serves this spectrum."""
        return [tables.roots(n, dtype) for n in sizes] if tables.fft_serves(sizes, modes) else []

    def outer(self, *arguments) -> tuple[tuple[Tensor, ...], int]:
        """The tables of an axis other than the last, and the length of their rows where the kernels
        ask for it.
        """
        return tables.outer_tables(*arguments), tables.TABLE_PADDING

    def scratch(
        self, spectrum: Tensor, transform, images: int, sizes, modes, synthesis: bool
    ) -> Tensor | None:
        """What a transform keeps between its axes."""
        if len(sizes) < 3 or sizes[-3] == 1:
            return None
        plane = -(-math.prod(modes[-2:]) // 16) * 16
        return spectrum.new_empty((images, sizes[-3], plane, 2))

    def analysis(
        self, x: Tensor, modes, scale: float, weighted: bool, two_sided: bool, planar: bool = False
    ) -> Tensor:
        x, modes, sizes = x.contiguous(), tuple(modes), tuple(x.shape[2:])
        batch, channels = x.shape[:2]
        dtype = compute_dtype(x.dtype)
        native = self.plan(sizes, modes, two_sided, False, scale, weighted, dtype, x.device)
        shape = (batch, 2 * channels, *modes) if planar else (batch, channels, *modes, 2)
        spectrum = torch.empty(shape, dtype=dtype, device=x.device)
        planes = self.scratch(
            spectrum, native.transform, batch * channels, sizes, modes, synthesis=False
        )
        run(
            self.table.analysis, x, native.transform, x.data_ptr(), spectrum.data_ptr(),
            address(planes), batch * channels, DTYPE_CODES[x.dtype], planar,
        )  # fmt: skip
        return spectrum

    def synthesis(
        self, spectrum: Tensor, sizes, scale: float, weighted: bool, two_sided: bool,
        dtype: torch.dtype, bias: Tensor | None, planar: bool = False,
    ) -> Tensor:  # fmt: skip
        spectrum, sizes = spectrum.contiguous(), tuple(sizes)
        batch, channels = spectrum.shape[0], spectrum.shape[1] // (2 if planar else 1)
        modes = tuple(spectrum.shape[2:] if planar else spectrum.shape[2:-1])
        native = self.plan(
            sizes, modes, two_sided, True, scale, weighted, spectrum.dtype, spectrum.device
        )
        y = torch.empty((batch, channels, *sizes), dtype=dtype, device=spectrum.device)
        planes = self.scratch(
            spectrum, native.transform, batch * channels, sizes, modes, synthesis=True
        )
        bias = None if bias is None else bias.to(spectrum.dtype).contiguous()
        run(
            self.table.synthesis, spectrum, native.transform, spectrum.data_ptr(),
            address(planes), address(bias), y.data_ptr(), batch * channels, max(channels, 1),
            DTYPE_CODES[dtype], planar,
        )  # fmt: skip
        return y

    def mix(self, a: Tensor, b: Tensor, subscripts: str) -> Tensor:
        a, b = a.contiguous(), b.contiguous()
        extents, stride_a, stride_b, stride_out, shape = mix_layout(
            subscripts, a.shape[:-1], b.shape[:-1]
        )
        conj_a, conj_b = MIXES[subscripts]
        out = torch.empty((*shape, 2), dtype=a.dtype, device=a.device)
        run(
            self.table.mix, a, a.data_ptr(), b.data_ptr(), out.data_ptr(), extents, stride_a,
            stride_b, stride_out, conj_a, conj_b, a.dtype == torch.float64,
        )  # fmt: skip
        return out

    def convolve(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, sizes, groups: int,
        analysis_scale: float, synthesis_scale: float, two_sided: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        spectrum = self.analysis(x, weight.shape[2:-1], analysis_scale, False, two_sided)
        mixed = mix_channels("ngim,igom->ngom", self.mix, spectrum, weight, groups)
        return self.synthesis(
            mixed, sizes, synthesis_scale, True, two_sided, x.dtype, bias
        ), spectrum


class CpuSpectral(Spectral):
    """On small tensors three calls from Python cost more than the arithmetic: one does it all."""

    def __init__(self, library, table):
        super().__init__(library, table)
        self.convolution = lru_cache(maxsize=512)(self._convolution)

    def _convolution(
        self, sizes, out_sizes, modes, channels, groups, scales, two_sided, dtype, adjoint=False
    ):
        wide, device = compute_dtype(dtype), torch.device("cpu")
        analysis = self.plan(sizes, modes, two_sided, False, scales[0], adjoint, wide, device)
        synthesis = self.plan(
            out_sizes, modes, two_sided, True, scales[1], not adjoint, wide, device
        )
        inputs, outputs = (c // groups for c in channels)
        # the plans keep their tables alive
        return (analysis, synthesis), self.library.Convolution(
            analysis.transform, synthesis.transform, groups, inputs, outputs, math.prod(modes),
            DTYPE_CODES[dtype],
        )  # fmt: skip

    def prepared(self, x: Tensor, weight: Tensor, sizes, groups: int, scales, two_sided: bool):
        """The convolution of tensors like these as a function of x, weight and bias, the spectrum
        not kept: all that shapes and dtypes decide is decided here.
        """
        keep, native = self._convolution_of(x, weight, sizes, groups, scales, two_sided)
        convolve, batch, wide = self.table.convolve, x.shape[0], weight.dtype
        shape, dtype = (batch, weight.shape[1], *sizes), x.dtype
        same = shape == tuple(x.shape)

        def call(x: Tensor, weight: Tensor, bias: Tensor | None, alive=keep) -> Tensor:
            x, weight = x.contiguous(), weight.contiguous()
            # the quickest of torch's ways to an uninitialised tensor
            y = torch.empty_like(x) if same else torch.empty(shape, dtype=dtype, device=tables.CPU)
            if bias is not None:
                bias = (bias if bias.dtype is wide else bias.to(wide)).contiguous()
            convolve(
                native, x.data_ptr(), weight.data_ptr(), address(bias), 0, y.data_ptr(), batch,
                torch.get_num_threads(),
            )  # fmt: skip
            return y

        return call

    def convolve(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, sizes, groups: int,
        analysis_scale: float, synthesis_scale: float, two_sided: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        scales = analysis_scale, synthesis_scale
        return self._call(
            self.table.convolve, x, weight, None, bias, sizes, groups, scales, two_sided
        )

    def convolve_block(
        self, x: Tensor, weight: Tensor, skip_weight: Tensor, bias: Tensor | None, groups: int,
        analysis_scale: float, synthesis_scale: float, two_sided: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        scales = analysis_scale, synthesis_scale
        skip = skip_weight.contiguous()
        return self._call(
            self.table.convolve_block, x, weight, skip, bias, x.shape[2:], groups, scales, two_sided
        )

    def convolve_block_backward(
        self, grad: Tensor, x: Tensor, spectrum: Tensor, weight: Tensor, skip_weight: Tensor,
        bias: Tensor | None, groups: int, analysis_scale: float, synthesis_scale: float,
        two_sided: bool, wants_x: bool, wants_skip: bool,
    ) -> tuple[Tensor | None, Tensor, Tensor | None]:  # fmt: skip
        scales = analysis_scale, synthesis_scale
        sizes, (batch, outputs) = x.shape[2:], grad.shape[:2]
        tensors = [t.contiguous() for t in (x, weight, skip_weight, spectrum, grad)]
        x, weight, skip, spectrum, grad = tensors
        bias = None if bias is None else bias.to(weight.dtype).contiguous()
        forward = self._convolution_of(x, weight, sizes, groups, scales, two_sided)
        adjoint = self._convolution_of(
            x, weight, sizes, groups, scales[::-1], two_sided, adjoint=True
        )
        dx = torch.empty_like(x) if wants_x else None
        grad_mixed = weight.new_empty((batch, outputs, *weight.shape[2:]))
        chunks = self.table.convolve_block_chunks(forward[1], batch)
        dskip = weight.new_empty((chunks, *skip.shape)) if wants_skip else None
        self.table.convolve_block_backward(
            forward[1], adjoint[1],
            [address(t) for t in (x, weight, skip, bias, spectrum, grad, dx, grad_mixed, dskip)],
            batch, torch.get_num_threads(),
        )  # fmt: skip
        return dx, grad_mixed, dskip.sum(0) if wants_skip else None

    def _convolution_of(self, x, weight, sizes, groups, scales, two_sided, adjoint=False):
        channels, modes = (x.shape[1], weight.shape[1]), tuple(weight.shape[2:-1])
        return self.convolution(
            tuple(x.shape[2:]), tuple(sizes), modes, channels, groups, scales, two_sided, x.dtype,
            adjoint,
        )  # fmt: skip

    def _call(self, function, x, weight, skip, bias, sizes, groups, scales, two_sided):
        x, weight = x.contiguous(), weight.contiguous()
        batch, channels = x.shape[:2]
        _, native = self._convolution_of(x, weight, sizes, groups, scales, two_sided)
        spectrum = weight.new_empty((batch, channels, *weight.shape[2:]))
        y = x.new_empty((batch, weight.shape[1], *sizes))
        bias = None if bias is None else bias.to(weight.dtype).contiguous()
        skips = () if skip is None else (skip.data_ptr(),)
        function(
            native, x.data_ptr(), weight.data_ptr(), *skips, address(bias), spectrum.data_ptr(),
            y.data_ptr(), batch, torch.get_num_threads(),
        )  # fmt: skip
        return y, spectrum


class CudaSpectral(Spectral):
    """Tables are laid out for reads of 16 bytes; scratch depends on which kernels are taken."""

    def outer(self, *arguments) -> tuple[tuple[Tensor, ...], int]:
        table = tables.packed_table(*arguments)
        return (table,), table[0].numel()

    def scratch(
        self, spectrum: Tensor, transform, images: int, sizes, modes, synthesis: bool
    ) -> Tensor | None:
        with on_device_of(spectrum):
            floats = self.table.scratch(transform, images, synthesis)
        return spectrum.new_empty(floats) if floats else None

    def roots(self, sizes, modes, dtype) -> list[Tensor]:
        return []


def _grouped(spectrum: Tensor, groups: int) -> Tensor:
    batch, channels = spectrum.shape[:2]
    return spectrum.reshape(batch, groups, channels // groups, math.prod(spectrum.shape[2:-1]), 2)


def _grouped_weight(weight: Tensor, groups: int) -> Tensor:
    inputs, outputs = weight.shape[:2]
    return weight.reshape(inputs, groups, outputs // groups, math.prod(weight.shape[2:-1]), 2)


def mix_channels(subscripts: str, mix, a: Tensor, weight: Tensor, groups: int) -> Tensor:
    """The forward or the input gradient's product of spectra (B, C, *modes, 2) by a weight."""
    out = mix(_grouped(a, groups), _grouped_weight(weight, groups), subscripts)
    return out.reshape(a.shape[0], out.shape[1] * out.shape[2], *a.shape[2:])


def mix_weight_gradient(mix, spectrum: Tensor, gradient: Tensor, shape, groups: int) -> Tensor:
    product = mix(_grouped(spectrum, groups), _grouped(gradient, groups), "ngim,ngom->igom")
    return product.reshape(shape)
