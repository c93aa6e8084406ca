"""The states of an optimiser and of a loss scaler, as named tensors and a JSON-able rest."""

from typing import Any

import torch
from torch import Tensor

from fastseg.errors import CheckpointError

Tensors = dict[str, Tensor]
_OF_SGD, _OF_ADAM = {"momentum_buffer"}, {"step", "exp_avg", "exp_avg_sq"}


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[Tensors, dict[str, Any]]:
    """Part an optimiser's state into named tensors ("3.exp_avg") and a JSON-able rest."""
    state = optimizer.state_dict()
    tensors, values = {}, {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            target = tensors if isinstance(value, Tensor) else values
            target[f"{index}.{key}"] = value
    return tensors, {"values": values, "param_groups": state["param_groups"]}


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Tensors, rest: dict[str, Any]
) -> None:
    """Load what `pack_optimizer` gave. Settings stay those that the optimiser was made with.

    CheckpointError names an entry that is not of its parameters.
    """
    values = rest.get("values", {})
    if not isinstance(values, dict):
        raise CheckpointError(f"optimizer.values is {values!r:.80}, wanted a dict")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    known = _entries(optimizer)
    state: dict[int, dict[str, Any]] = {}
    for name, value in (tensors | values).items():
        index, _, key = name.partition(".")
        if not index.isdecimal() or int(index) >= len(parameters) or key not in known:
            raise CheckpointError(f"optimizer.{name}: is of no parameter")
        _check(name, key, value, parameters[int(index)])
        state.setdefault(int(index), {})[key] = value
    for index, entries in state.items():
        if missing := known - entries.keys():
            raise CheckpointError(f"optimizer.{index}.{min(missing)}: is missing")
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def load_scaler(scaler: Any, values: dict[str, Any]) -> None:
    """Load a loss scaler's state. CheckpointError names a value that is none."""
    for key, now in scaler.state_dict().items():
        value = values.get(key)
        least = 0 if key == "_growth_tracker" else 1e-30
        if type(value) not in (int, float) or not least <= value <= 2**100:
            raise CheckpointError(f"scaler.{key} is {value!r:.80}, wanted such as {now}")
    scaler.load_state_dict(values)


def _entries(optimizer: torch.optim.Optimizer) -> set[str]:
    if isinstance(optimizer, torch.optim.SGD):
        return _OF_SGD
    amsgrad = any(group.get("amsgrad") for group in optimizer.param_groups)
    return _OF_ADAM | ({"max_exp_avg_sq"} if amsgrad else set())


def _check(name: str, key: str, value: Any, parameter: Tensor) -> None:
    if value is None and key == "momentum_buffer":
        return
    wanted = () if key == "step" else tuple(parameter.shape)
    if not isinstance(value, Tensor) or tuple(value.shape) != wanted or value.is_complex():
        found = tuple(value.shape) if isinstance(value, Tensor) else repr(value)[:80]
        raise CheckpointError(f"optimizer.{name} is {found}, wanted a tensor of {wanted}")
