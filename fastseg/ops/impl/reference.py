"""The reference as a backend: its functions, by name in the profiler."""

from functools import partial

from fastseg import reference
from fastseg.ops.context import recorded

_recorded = partial(recorded, backend="reference")
anchor_gate = _recorded(reference.anchor_gate)
fno_block = _recorded(reference.fno_block)
fourier_unit = _recorded(reference.fourier_unit)
fu_finish = _recorded(reference.fu_finish)
fu_mix = _recorded(reference.fu_mix)
gaussian_filter = _recorded(reference.gaussian_filter)
spectral_conv = _recorded(reference.spectral_conv)
spectral_filter = _recorded(reference.spectral_filter)
truncated_irfftn = _recorded(reference.truncated_irfftn)
truncated_rfftn = _recorded(reference.truncated_rfftn)
