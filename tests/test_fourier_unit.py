"""What is the Fourier unit's own: planar spectra, statistics, equality with published layers."""

import pytest
import torch
from operators import LIVE
from rows_fourier_unit import GRIDS
from tolerances import F32, F64

from fastseg import plan
from fastseg.ops import _backends

pytestmark = pytest.mark.usefixtures("poisoned_memory", "one_thread")
SPECTRAL = [name for name in LIVE if name in _backends.SPECTRAL]


@pytest.mark.parametrize("backend", SPECTRAL)
@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_a_planar_spectrum_is_the_interleaved_one(backend, two_sided, dtype):
    kernels = _backends.SPECTRAL[backend]
    if _backends.unable(backend, _backends.SERVES[backend], dtype):
        pytest.skip("computes in float32")
    for sizes in [*GRIDS, (9, 40, 37), (70, 3, 5)]:
        x = torch.randn(2, 3, *sizes, dtype=dtype, device=_backends.SERVES[backend])
        half = plan.half_spectrum(sizes)
        for modes in (half, tuple((m + 1) // 2 for m in half)):
            pairs = kernels.analysis(x, modes, 0.5, True, two_sided)
            planar = kernels.analysis(x, modes, 0.5, True, two_sided, planar=True)
            assert torch.equal(planar, pairs.movedim(-1, 2).flatten(1, 2)), (sizes, modes)
            given = 0.5, True, two_sided, dtype, None
            y = kernels.synthesis(pairs, sizes, *given)
            assert torch.equal(kernels.synthesis(planar, sizes, *given, planar=True), y), sizes
