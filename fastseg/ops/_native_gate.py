"""Tensors to addresses: the anchor gate's kernels of `fastseg._C.cpu` and `fastseg._C.cuda`."""

import math

import torch
from torch import Tensor

from fastseg.ops._native import DTYPE_CODES, run


class Gate:
    """One table's gates; the meaning of each is in `_backends`."""

    def __init__(self, library, table):
        self.library, self.table = library, table

    def forward(
        self, low: Tensor, cond: Tensor, weight: Tensor, bias: Tensor, feat: Tensor
    ) -> tuple[Tensor, Tensor]:
        inputs = [t.contiguous() for t in (low, cond, weight, bias, feat)]
        extents = _extents(cond, feat)
        out = torch.empty_like(feat, memory_format=torch.contiguous_format)
        logits = weight.new_empty((cond.shape[0], extents[-1]))
        if math.prod(extents):
            run(
                self.table.gate,
                cond,
                *(t.data_ptr() for t in inputs),
                out.data_ptr(),
                logits.data_ptr(),
                extents,
                DTYPE_CODES[cond.dtype],
            )
        return out, logits

    def backward(
        self, low: Tensor, cond: Tensor, weight: Tensor, bias: Tensor, feat: Tensor,
        logits: Tensor, gradient: Tensor,
    ) -> list:  # fmt: skip
        """The gradients of low, cond, feat, weight and bias."""
        inputs = [t.contiguous() for t in (low, cond, weight, bias, feat, logits, gradient)]
        low, cond, weight, bias, feat, logits, _ = inputs
        extents = batch, channels, _, points = _extents(cond, feat)
        results = [torch.empty_like(t) for t in (low, cond, feat, logits, weight, bias)]
        blocks = self.library.moment_blocks(batch, points)
        results.append(weight.new_empty((blocks, channels + 1)))
        if math.prod(extents):
            run(
                self.table.gate_backward,
                cond,
                *(t.data_ptr() for t in inputs),
                tuple(t.data_ptr() for t in results),
                extents,
                DTYPE_CODES[cond.dtype],
            )
        else:
            for result in results:
                result.zero_()
        dlow, dcond, dfeat, _, dweight, dbias, _ = results
        return [dlow, dcond, dfeat, dweight, dbias]


def _extents(cond: Tensor, feat: Tensor) -> tuple:
    return (*cond.shape[:2], feat.shape[1], math.prod(cond.shape[2:]))
