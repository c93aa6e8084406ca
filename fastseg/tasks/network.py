"""The network of a recipe, fresh or with a checkpoint's weights, and what it runs on."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from fastseg import backends, checkpoint, config, models, use_backend
from fastseg.data.cases.labels import LabelScheme
from fastseg.errors import UsageError
from fastseg.host.device import keep_freed_memory, warn_of_idle_gpu, why_no_gpu
from fastseg.host.processes import Place


def input_channels(recipe: config.Recipe, modalities: Sequence[str]) -> int:
    """Channels of the network's input, where a run has `modalities`."""
    return 1 if recipe.data.single_modality else len(modalities)


def load_network(
    recipe: config.Recipe,
    channels: int,
    scheme: LabelScheme,
    groups: dict[str, dict[str, Tensor]],
    modalities: Sequence[str] = (),
) -> nn.Module:
    """The recipe's network for evaluation, with averaged weights where there are any."""
    net = build_network(recipe, channels, scheme, modalities)
    try:
        net.load_state_dict(groups.get("ema", groups["model"]))
    except RuntimeError as error:
        raise checkpoint.CheckpointError(
            f"weights do not fit system {recipe.system}: {error}"
        ) from None
    return net.eval().requires_grad_(False)


def build_network(
    recipe: config.Recipe, channels: int, scheme: LabelScheme, modalities: Sequence[str] = ()
) -> nn.Module:
    """The recipe's untrained network; its weights follow from the recipe's seed alone. A system of
    synthesis needs the names of the `modalities` too.
    """
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        return models.build(
            recipe.system, in_channels=channels, classes=len(scheme.classes),
            regions=scheme.region_indices(), modalities=tuple(modalities), **recipe.model,
        )  # fmt: skip


def pick_device(name: str) -> torch.device:
    """ "auto" is the first GPU when there is one. Prepares memory management for the CPU.
    UsageError for "cuda" where torch has none, with the reason.
    """
    reason = why_no_gpu() if name != "cpu" else None
    if name == "cuda" and reason:
        raise UsageError(f"device: is cuda, wanted device=auto or device=cpu: {reason}")
    if reason:
        warn_of_idle_gpu()
    if name == "auto":
        name = "cpu" if reason else "cuda"
    if name == "cpu":
        keep_freed_memory()
    return torch.device(name)


def own_device(name: str, place: Place) -> torch.device:
    """`pick_device`, and of several GPUs the one of this process."""
    device = pick_device(name)
    if device.type == "cuda" and place.world > 1:
        # under srun a task may see its own GPU alone
        return torch.device("cuda", place.local_rank % torch.cuda.device_count())
    return device


def kernels_on(device_type: str, name: str) -> str:
    """The backend that serves tensors of a device, where it has kernels worth it, by its name."""
    from fastseg.ops import context, dispatch, impl

    name = context.setting() if name == "auto" else name
    if name != "auto":
        return name
    return dispatch.select(impl.SPECTRAL, name, device_type, torch.float32)


def use_kernels(name: str) -> AbstractContextManager:
    """`fastseg.use_backend` for a user's choice; "auto" leaves FASTSEG_BACKEND its word.

    UsageError when this machine cannot serve it.
    """
    if name == "auto":
        return nullcontext()
    status = backends().get(name)
    if status is None:
        raise UsageError(f"kernels: is {name!r}, wanted auto, {', '.join(backends())}")
    if not status:
        raise UsageError(f"kernels: {name} cannot run here: {status.detail}")
    return use_backend(name)
