"""Memory of one training step of the volumetric networks, estimated from what autograd keeps.

    python bench/training_memory.py --size 128

Counts saved activations of a step at a smaller size on the CPU, in bf16 with group norms in fp32 as
autocast has them on CUDA, and scales them by the number of voxels. Adds weights, gradients and
Adam's three averages (amsgrad) in fp32. With checkpointing: the inputs of blocks, and what the
largest block keeps while it is computed again. Left out: workspaces, fragmentation, CUDA itself,
about 1 GB together.
"""

import argparse

import torch
from torch import nn
from torch.nn import functional as F

from fastseg import models
from fastseg.bench.memory import saved_bytes
from fastseg.data.cases.labels import BRATS

SYSTEMS = ("segresnet", "segresnet-vffc", "unet3d")


class Fp32GroupNorm(nn.GroupNorm):
    def forward(self, x):
        return F.group_norm(x.float(), self.num_groups, self.weight, self.bias, self.eps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128, help="of the patch, voxels (128)")
    parser.add_argument("--counted", type=int, default=32, help="size that is counted (32)")
    arguments = parser.parse_args()
    scale = (arguments.size / arguments.counted) ** 3
    print(f"one sample of {arguments.size}³ in bf16, GB (10^9 bytes)")
    print("system          weights+Adam  activations   total  checkpointing total")
    for name in SYSTEMS:
        fixed, kept, again = estimate(name, arguments.counted)
        kept, again = kept * scale, again * scale
        print(f"{name:14}  {fixed / 1e9:12.2f}  {kept / 1e9:11.2f}  {(fixed + kept) / 1e9:6.2f}  "
              f"{(fixed + again) / 1e9:19.2f}")  # fmt: skip


def estimate(name: str, size: int) -> tuple[float, float, float]:
    """Bytes of weights and optimiser, of activations, and of activations with checkpointing."""
    net = models.build(name, in_channels=1, classes=4, head="regions",
                       regions=BRATS.region_indices())  # fmt: skip
    for module in net.modules():
        if type(module) is nn.GroupNorm:
            module.__class__ = Fp32GroupNorm
    image = torch.rand(1, 1, size, size, size)
    batch = {"image": image, "label": torch.zeros(1, size, size, size, dtype=torch.uint8)}
    parameters, blocks = tuple(net.parameters()), []
    fixed = sum(p.numel() for p in parameters) * 4 * (1 + 1 + 3)

    def measured(module, *inputs):
        # its own part of the graph: counted apart, joined to nothing
        blocks.append((sum(x.nbytes for x in inputs), saved_bytes(module, parameters, *inputs)))
        return module(*inputs)

    def step(image):
        return net.training_loss(batch | {"image": image}, torch.Generator())[0]

    with torch.autocast("cpu", torch.bfloat16):
        kept = saved_bytes(step, parameters, image)
        net._run = measured
        step(image)
    inputs, inside = zip(*blocks, strict=True)
    outside = max(kept - sum(inside), 0)
    return fixed, kept, sum(inputs) + outside + max(inside)


if __name__ == "__main__":
    main()
