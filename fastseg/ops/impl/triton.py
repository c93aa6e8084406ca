"""Tensors and tables for `fastseg.kernels`: the spectral family on tensor cores."""

import math
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from fastseg.ops import tables
from fastseg.ops.impl import composed, contract, mixes
from fastseg.ops.impl.contract import Epilogue, Geometry, Matrix
from fastseg.ops.impl.native import dense

# addends that carry a float32 table's digits in the type of the samples it meets
_ANALYSIS_PARTS = {torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}
# a result stored in 16 bits needs no more digits than two bfloat16 addends have
_SYNTHESIS_PARTS = {torch.float32: 1, torch.float16: 2, torch.bfloat16: 2}


def precision() -> str:
    """Return how products are taken: three in TF32 have float32's digits, one has not."""
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def guard(x: Tensor):
    """Make x's device the current one inside a `with`: kernels launch there."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


class Axis(NamedTuple):
    """Hold an axis: its samples, and the frequencies of it that are kept."""

    size: int
    kept: tables.Kept

    @property
    def modes(self) -> int:
        """Count the kept frequencies."""
        return self.kept.positive + self.kept.negative


def axes_of(sizes, geometry: Geometry) -> list[Axis]:
    """Return the axes that do anything: but for the last, one of a single sample is its own
    spectrum.
    """
    axes = list(map(Axis, sizes, tables.kept_axes(geometry.modes, geometry.two_sided)))
    return [axis for axis in axes[:-1] if axis.size > 1] + axes[-1:]


def modes_of(axes) -> int:
    """Count the modes of some axes together."""
    return math.prod(axis.modes for axis in axes)


def samples_of(axes) -> int:
    """Count the samples of some axes together."""
    return math.prod(axis.size for axis in axes)


def grouped(matrix: Matrix) -> Tensor:
    """Return the matrices as (groups, outputs, inputs), in the dtype of arithmetic."""
    weight = matrix.weight.float().unflatten(0, (matrix.groups, -1))
    return weight.transpose(1, 2) if matrix.transposed else weight


class Tables:
    """Make cosines and sines as the kernels read them, cached."""

    def __init__(self, kernels):
        self.kernels = kernels
        self.outer = tables.cached(self._outer)
        self.analysis = tables.cached(self._analysis)
        self.synthesis = tables.cached(self._synthesis)

    def _outer(self, axis: Axis, synthesis: bool, device: torch.device):
        matrix = tables.outer_matrix(*axis, torch.float64, tables.CPU)
        cos, sin = matrix.view(2, -1, axis.size)
        matrix = torch.stack([cos.T, sin.T] if synthesis else [cos, -sin])
        return self._table(matrix, 1, torch.float32, device)

    def _analysis(self, size: int, columns: int, weighted: bool, dtype, device):
        # the scale stays out: in float16 it would cost digits
        matrix = tables.last_matrix(size, columns, 1.0, weighted, torch.float64, tables.CPU)
        matrix = matrix.view(size, 2, columns).permute(1, 2, 0)
        return self._table(matrix, _ANALYSIS_PARTS[dtype], dtype, device)

    def _synthesis(self, size: int, columns: int, scale: float, weighted: bool, dtype, device):
        matrix = tables.last_matrix(size, columns, scale, weighted, torch.float64, tables.CPU)
        matrix, parts = matrix.view(size, 2, columns).transpose(0, 1), _SYNTHESIS_PARTS[dtype]
        return self._table(matrix, parts, torch.bfloat16 if parts > 1 else torch.float32, device)

    def _table(self, matrix: Tensor, parts: int, dtype: torch.dtype, device: torch.device):
        """matrix: (2, rows, columns) float64."""
        rows, columns = matrix.shape[1:]
        padded = self.kernels.tiles.padded
        padding = (0, padded(columns) - columns, 0, padded(rows) - rows)
        rest, addends = torch.nn.functional.pad(matrix, padding), []
        for _ in range(parts):
            addends.append(rest.to(dtype))
            rest = rest - addends[-1].double()
        return self.kernels.transform.Table(torch.stack(addends).to(device), rows, columns)


class Spectral(composed.Convolution, contract.Spectral):
    """Run the truncated transforms and channel mixes."""

    def __init__(self, kernels):
        self.kernels, self.transform, self.tables = kernels, kernels.transform, Tables(kernels)

    def layout(self, planar: bool):
        """Return how a spectrum lies, given the modes of its two parts."""
        return self.transform.planar if planar else self.transform.interleaved

    def analysis(self, x: Tensor, geometry: Geometry, planar: bool = False) -> Tensor:
        (x,), (batch, channels, *sizes) = dense(x), x.shape
        modes, scale = geometry.modes, geometry.scales[0]
        shape = (batch, 2 * channels, *modes) if planar else (batch, channels, *modes, 2)
        spectrum = torch.empty(shape, dtype=torch.float32, device=x.device)
        if spectrum.numel():
            last = self.tables.analysis(sizes[-1], modes[-1], geometry.adjoint, x.dtype, x.device)
            with guard(x):
                axes = axes_of(sizes, geometry)
                self._analyse(x, axes, last, spectrum, self.layout(planar), scale)
        return spectrum

    def _analyse(self, x: Tensor, axes, last, out: Tensor, layout, scale: float) -> None:
        """The last two axes in one kernel where their kept part fits, else one axis a kernel."""
        rows, columns = modes_of(axes[:-1]), modes_of(axes[-1:])
        if len(axes) == 1:
            at = layout(1, columns)
            return self.transform.analyse_rows(x, last, out, at, scale, precision())
        outer = self.tables.outer(axes[0], False, x.device)
        if len(axes) == 2 and rows <= self.kernels.tiles.ANALYSIS_ROWS:
            at = layout(rows, columns)
            return self.transform.analyse_planes(x, outer, last, out, at, scale, precision())
        planes, columns = x.numel() // samples_of(axes), modes_of(axes[1:])
        z = out.new_empty(planes, outer.columns, 2 * columns)
        self._analyse(x, axes[1:], last, z, self.transform.planar, scale)
        z_at, at = self.transform.row_planar(outer.columns, columns), layout(outer.rows, columns)
        return self.transform.rotate(z, z_at, outer, out, at, planes, columns, precision())

    def synthesis(
        self, spectrum: Tensor, geometry: Geometry, dtype: torch.dtype, bias: Tensor | None = None,
        planar: bool = False,
    ) -> Tensor:  # fmt: skip
        (spectrum,), (batch, channels, *_) = dense(spectrum), spectrum.shape
        shape = (batch, channels // 2 if planar else channels, *geometry.sizes)
        y = torch.empty(shape, dtype=dtype, device=spectrum.device)
        if y.numel():
            last = self._last(geometry, dtype, y.device)
            bias = None if bias is None else dense(bias.float())[0]
            with guard(y):
                axes = axes_of(geometry.sizes, geometry)
                self._synthesise(spectrum, self.layout(planar), axes, last, bias, y)
        return y

    def _last(self, geometry: Geometry, dtype: torch.dtype, device: torch.device):
        """The table of a synthesis along the last axis."""
        return self.tables.synthesis(
            geometry.sizes[-1], geometry.modes[-1], geometry.scales[1], not geometry.adjoint, dtype,
            device,
        )  # fmt: skip

    def _synthesise(self, spectrum: Tensor, layout, axes, last, bias, y: Tensor) -> None:
        rows, columns = modes_of(axes[:-1]), modes_of(axes[-1:])
        # planes, or lines, a channel
        where = y.shape[1], math.prod(y.shape[2:]) // samples_of(axes[-2:])
        if len(axes) == 1:
            at = layout(1, columns)
            return self.transform.synthesise_rows(spectrum, at, last, bias, y, *where, precision())
        if len(axes) == 2 and columns <= self.kernels.tiles.SYNTHESIS_COLUMNS:
            at, outer = layout(rows, columns), self.tables.outer(axes[0], True, y.device)
            return self.transform.synthesise_planes(
                spectrum, at, outer, last, bias, y, *where, precision()
            )
        z = self.unroll(spectrum, layout, axes, y.numel() // samples_of(axes))
        return self._synthesise(z, self.transform.planar, axes[1:], last, bias, y)

    def unroll(self, spectrum: Tensor, layout, axes, planes: int) -> Tensor:
        """Return the synthesis along axes[0] alone: [planes, size, 2, modes of the other axes]."""
        outer, columns = self.tables.outer(axes[0], True, spectrum.device), modes_of(axes[1:])
        z = spectrum.new_empty(planes, outer.rows, 2 * columns)
        at, z_at = layout(outer.columns, columns), self.transform.row_planar(outer.rows, columns)
        self.transform.rotate(spectrum, at, outer, z, z_at, planes, columns, precision())
        return z

    def mix(self, a: Tensor, b: Tensor, product: str) -> Tensor:
        a, b = dense(a, b)
        at = mixes.layout(product, a.shape[:-1], b.shape[:-1])
        out = torch.empty((*at.shape, 2), dtype=torch.float32, device=a.device)
        if out.numel():
            strides = self.kernels.mix.Product(
                at.extents, at.a, at.b, at.out, *mixes.PRODUCTS[product]
            )
            with guard(a):
                self.kernels.mix.mix(a, b, out, strides)
        return out

    def synthesis_product(
        self, spectrum: Tensor, bias: Tensor | None, geometry: Geometry, x: Tensor, matrix: Matrix,
        epilogue: Epilogue, dtype: torch.dtype | None = None,
    ) -> Tensor:  # fmt: skip
        """Return epilogue(synthesis(spectrum) + matrix·x + bias) on x's grid: a Fourier block's
        second half, reading x and writing the result once.
        """
        (x, factor), dtype = dense(x, epilogue.factor), dtype or x.dtype
        shape = (x.shape[0], spectrum.shape[1], *geometry.sizes)
        out = torch.empty(shape, dtype=dtype, device=x.device)
        if out.numel():
            table = self._last(geometry, dtype, x.device)
            bias = None if bias is None else dense(bias.float())[0]
            axes = axes_of(geometry.sizes, geometry)
            with guard(x):
                z, at = self._lines(dense(spectrum)[0], axes, out.numel())
                self.kernels.pointwise.product(
                    x, grouped(matrix), out, epilogue.kind, precision(),
                    self.kernels.pointwise.Lines(z, at, table), bias, factor=factor,
                )  # fmt: skip
        return out

    def _lines(self, spectrum: Tensor, axes, samples: int):
        """The synthesis along every axis but the last, and how it lies."""
        layout = self.transform.interleaved
        while len(axes) > 1:
            spectrum = self.unroll(spectrum, layout, axes, samples // samples_of(axes))
            layout, axes = self.transform.planar, axes[1:]
        return spectrum, layout(1, modes_of(axes))


class Block(composed.Block):
    """Run the block, whose second half is one kernel; its backward is composed."""

    def forward(
        self, x: Tensor, weight: Tensor, skip_weight: Tensor, bias: Tensor | None,
        geometry: Geometry, keep: bool = True,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        spectrum = self.spectral.analysis(x, geometry)
        mixed = mixes.forward(self.spectral, spectrum, weight, geometry.groups)
        matrix = Matrix(skip_weight, geometry.groups)
        y = self.spectral.synthesis_product(mixed, bias, geometry, x, matrix, Epilogue("gelu"))
        return y, spectrum if keep else None


class Pointwise(contract.Pointwise):
    """Run 1×1 convolutions and affine ReLUs."""

    def __init__(self, kernels):
        self.kernels = kernels.pointwise

    def product(
        self, x: Tensor, matrix: Matrix, epilogue: Epilogue = Epilogue(),  # noqa: B008  immutable
        dtype: torch.dtype | None = None, out: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        (x,), channels = dense(x), matrix.groups * matrix.outputs
        kind, addend, factor, scale, shift = epilogue
        if out is None:
            shape = (x.shape[0], channels, *x.shape[2:])
            out = torch.empty(shape, dtype=dtype or x.dtype, device=x.device)
        if not out.numel():
            return out, x.new_zeros(2, channels).float() if kind == "moments" else None
        addend, factor = dense(addend, factor)
        with guard(x):
            moments = self.kernels.product(
                x, grouped(matrix), out, kind, precision(), addend=addend, factor=factor,
                scale=scale, shift=shift,
            )  # fmt: skip
        return out, moments

    def affine_relu(self, z: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return self._affine_relu(z, None, scale, shift)[0]

    def affine_relu_backward(
        self, gradient: Tensor, z: Tensor, scale: Tensor, shift: Tensor
    ) -> tuple[Tensor, Tensor]:
        return self._affine_relu(z, dense(gradient)[0], scale, shift)

    def _affine_relu(self, z: Tensor, gradient: Tensor | None, scale: Tensor, shift: Tensor):
        z, scale, shift = dense(z, scale, shift)
        out = torch.empty_like(z)
        if not z.numel():
            return out, None if gradient is None else z.new_zeros(2, z.shape[1])
        with guard(z):
            return out, self.kernels.affine_relu(z, gradient, scale, shift, out)
