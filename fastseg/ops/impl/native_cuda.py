"""The spectral kernels of `fastseg._C.cuda`: their tables, and which of them a device runs."""

import itertools
import os

import torch
from torch import Tensor

from fastseg.ops import fft, tables
from fastseg.ops.impl import architectures, bounds
from fastseg.ops.impl.contract import Geometry
from fastseg.ops.impl.fragments import last_fragments, outer_fragments
from fastseg.ops.impl.native import Whole, aligned, on_device_of

# "0": the kernels without tensor cores on every device; read once
TENSOR_CORES = os.environ.get("FASTSEG_CUDA_TENSOR_CORES", "1") != "0"


class CudaSpectral(Whole):
    """Run the CUDA kernels, whose tables are laid out for reads of 16 bytes, and whose scratch
    depends on which of them are taken.
    """

    def tensor_cores(self, device: torch.device) -> bool:
        """Tell whether a device, or the host in a build for tests, runs the kernels of those."""
        built = self.library.cuda_architectures
        return TENSOR_CORES and (
            device.type != "cuda"
            or architectures.code_for(built, torch.cuda.get_device_capability(device)) >= (8, 0)
        )

    def rooms(self, native, batch: int) -> dict:
        asked = itertools.product((False, True), repeat=2)
        return {
            (keeps, block): self.table.workspace(
                convolution=native, batch=batch, keeps=keeps, block=block
            )
            for keeps, block in asked
        }

    def outer(self, *arguments) -> tuple[tuple[Tensor, ...], int]:
        table = tables.packed_table(*arguments)
        return (table,), table[0].numel()

    def scratch(self, spectrum: Tensor, transform, images: int, sizes, modes, synthesis: bool):
        with on_device_of(spectrum):
            floats = self.table.scratch(transform=transform, images=images, synthesis=synthesis)
        return spectrum.new_empty(floats) if floats else None

    def more_tables(
        self, sizes, geometry: Geometry, synthesis: bool, storage: torch.dtype, device: torch.device
    ) -> list[dict[str, Tensor]]:
        named = self._fragments(sizes, geometry, synthesis, storage, device)
        if geometry.modes == tables.half_spectrum(sizes) and fft.serves_on_cuda(sizes):
            for size, axis in zip(sizes, named, strict=True):
                axis["roots"] = tables.roots(size, torch.float32, device)
        return named

    def _fragments(self, sizes, geometry, synthesis, storage, device) -> list[dict[str, Tensor]]:
        if not self.tensor_cores(device):
            return [{} for _ in sizes]
        *outer, _ = tables.kept_axes(geometry.modes, geometry.two_sided)
        found = []
        for size, axis in zip(sizes[:-1], outer, strict=True):
            at = (size, axis, synthesis)
            named = {"fragments": outer_fragments(*at, torch.float32, device)}
            if not synthesis and storage.itemsize == 2:
                named["halves"] = outer_fragments(*at, storage, device)
            found.append(named)
        last = last_fragments(
            sizes[-1], geometry.modes[-1], synthesis, geometry.scales[synthesis],
            synthesis != geometry.adjoint, device,
        )  # fmt: skip
        return [*found, {"fragments": last}]

    def tf32(self) -> bool:
        return bounds.tf32_allowed()

    def analysis(self, x: Tensor, geometry: Geometry, planar: bool = False) -> Tensor:
        return super().analysis(aligned(x), geometry, planar)

    def call(self, kernel, x: Tensor, *arguments) -> tuple[Tensor, Tensor | None]:
        return super().call(kernel, aligned(x), *arguments, tf32=self.tf32())
