"""Bridges to neuraloperator: stand in for its spectral convolution, take its models and
checkpoints, give them back.

`NeuralopSpectralConv` keeps the peer's modes: totals per axis, centred on zero, n//2 + 1 columns on
the last axis of real data. A layer of its own follows the float64 definition of
`fastseg.reference`; complex data keep the modes of both signs of every axis. The peer differs so:

* Odd axes: releases up to 2.0.0 shift the spectrum back with fftshift, which moves every frequency
  by one row. The development version has had ifftshift since November 2025 and equals ours.
* An odd n_modes below an even max_n_modes, in all versions: the peer takes rows −3 … 1 of its
  weight for the frequencies −2 … 2 (of 5 modes), and so for any odd count; ours takes the rows of
  these frequencies. Weights that the peer trained so go over by `roll(1)` on that axis.
* A change of resolution: the peer crops or pads the spectrum as the shift has left it.
* Complex data: the peer reads the lowest columns of the shifted last axis, the highest negative
  frequencies, and writes them to 0, 1, ….

A layer that `convert` made computes what the layer that it was made of did, in these cases too:
`follows` names the peer's shift. There torch.fft runs, at the peer's cost; elsewhere our operators.
"""

from fastseg.nn.neuralop.conversion import convert, neuralop_state_dict, restore
from fastseg.nn.neuralop.layer import NeuralopSpectralConv

__all__ = ["NeuralopSpectralConv", "convert", "neuralop_state_dict", "restore"]
