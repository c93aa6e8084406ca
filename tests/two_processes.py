"""What each of two processes does in test_processes.py: python two_processes.py DATA OUT."""

import json
import sys
from pathlib import Path

import torch

from fastseg.config import load_recipe
from fastseg.data.cases import discover
from fastseg.sample import sample
from fastseg.tasks.network import build_network
from fastseg.train import train
from fastseg.training.engine import launch

TINY = ("data.patch=24,24,24", "data.threads=1", "epochs=1", "log_every=1", "precision=fp32",
        "fractions=0.6,0.2,0.2", "model.width=8", "model.blocks_down=1,1", "model.blocks_up=1",
        "model.vffc_blocks=1", "model.dropout=0", "data.bezier_apart=false", "data.batch_size=2",
        "loader=torch", "val_every=0")  # fmt: skip


def recipe(*more: str):
    return load_recipe("E-full", [*TINY, *more])


def batch() -> dict:
    """Two samples, the same in every process."""
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(2, 1, 16, 16, 16, generator=generator)
    label = torch.randint(4, (2, 16, 16, 16), generator=generator, dtype=torch.uint8)
    return {"image": image, "label": label, "domain": torch.tensor([2, 0]), "progress": 0.4}


def gradients(module, net, shown: dict, backward) -> dict[str, list]:
    # torch takes oneDNN, which rounds otherwise, for some batch sizes and not for others
    with torch.backends.mkldnn.flags(enabled=False):
        loss, _ = net.training_loss(shown, torch.Generator())
        backward(loss)
    return {name: p.grad.flatten().tolist() for name, p in module.named_parameters()}


def main(data: Path, out: Path) -> None:
    torch.set_num_threads(1)
    fabric = launch(recipe())
    rank, world = fabric.global_rank, fabric.world_size
    module = build_network(recipe(), 1, discover(data).scheme)
    net = fabric.setup(module)
    net.mark_forward_method("training_loss")
    mine = {key: value[rank::world] if key != "progress" else value
            for key, value in batch().items()}  # fmt: skip
    found = gradients(module, net, mine, fabric.backward)
    train(recipe(), data, out / "run")
    paths = sample(out / "run", data, out / "pred")
    shares = {"gradients": found, "paths": [path.name for path in paths], "world": world}
    (out / f"rank-{rank}.json").write_text(json.dumps(shares))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
