"""The network of a recipe, fresh or with a checkpoint's weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fastseg import checkpoint, config, models
from fastseg.data.cases.labels import LabelScheme
from fastseg.tasks.bounded import fill, group_of, no_larger_than


@dataclass(frozen=True)
class Trained:
    """A checkpoint: the weights of a network, and what prediction has to know of its run.

    name: of the checkpoint's folder. modalities: channels that were trained on. split: case ids by
    part. weights: tensors by group. sha256: of the weights.
    """

    name: str
    recipe: config.Recipe
    modalities: tuple[str, ...]
    scheme: LabelScheme
    split: dict[str, list[str]]
    weights: dict[str, dict[str, Tensor]]
    sha256: str

    @classmethod
    def load(cls, place: str | Path) -> "Trained":
        """Read a checkpoint, or the best one of a run. What `fastseg.checkpoint.find` raises."""
        found, state, groups = checkpoint.load_run(checkpoint.find(place), ("model", "ema"))
        group_of(groups, "model")
        return cls(
            found.name, state.recipe, state.modalities, state.scheme, state.split, groups,
            state.sha256,
        )  # fmt: skip

    def network(self) -> nn.Module:
        """Build the network with these weights."""
        channels = input_channels(self.recipe, self.modalities)
        return load_network(self.recipe, channels, self.scheme, self.weights, self.modalities)


def input_channels(recipe: config.Recipe, modalities: Sequence[str]) -> int:
    """Count the channels of the network's input, where a run has `modalities`."""
    return 1 if recipe.data.single_modality else len(modalities)


def load_network(
    recipe: config.Recipe,
    channels: int,
    scheme: LabelScheme,
    groups: dict[str, dict[str, Tensor]],
    modalities: Sequence[str] = (),
) -> nn.Module:
    """Build the recipe's network for evaluation, with averaged weights where there are any."""
    weights = groups.get("ema", groups["model"])
    with no_larger_than(weights, recipe.system):
        net = build_network(recipe, channels, scheme, modalities)
    fill(net, weights, recipe.system)
    return net.eval().requires_grad_(False)


def build_network(
    recipe: config.Recipe, channels: int, scheme: LabelScheme, modalities: Sequence[str] = ()
) -> nn.Module:
    """Build the recipe's untrained network; its weights follow from the recipe's seed alone.

    A system that synthesises modalities needs the names of the `modalities` too.
    """
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        return models.build(
            recipe.system, in_channels=channels, classes=len(scheme.classes),
            regions=scheme.region_indices(), modalities=tuple(modalities), **recipe.model,
        )  # fmt: skip
