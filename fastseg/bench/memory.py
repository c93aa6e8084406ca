"""Memory: what a layer keeps for its backward, and the most it holds at any moment."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from fastseg.bench.layers import outputs

_STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def saved_bytes(forward: Callable, parameters: tuple, *x: Tensor) -> int:
    """Count the bytes of the distinct storages that autograd keeps, without the parameters' own.

    Args:
        forward: the call.
        parameters: its weights.
        x: its inputs.
    """
    own = {p.untyped_storage().data_ptr() for p in parameters}
    kept = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = outputs(forward(*x))  # noqa: F841 - the graph, and with it every saved tensor, lives until the count is taken
        return sum(kept.values())


def peak_bytes(run: Callable, device: torch.device) -> int | None:
    """Return the bytes that a call holds at most beyond what was held before it; None where the
    system does not tell.

    Args:
        run: the call.
        device: that holds its tensors.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what the heap keeps for later is no use of the call
        CLEAR.write_text("5")  # resets the peak
        before = _resident("VmRSS")
        run()
        return max(_resident("VmHWM") - before, 0)
    except (OSError, AttributeError, KeyError):
        return None


def _resident(field: str) -> int:
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    found = dict(line.split(":", 1) for line in lines if line.startswith("Vm"))
    return int(found[field].split()[0]) * 1024
