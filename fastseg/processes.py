"""Which of several processes this one is, as torchrun or SLURM's srun says.

torchrun --nproc-per-node 4 -m fastseg train RECIPE --data DATA --out RUN
srun --ntasks-per-node 4 --nodes 2 fastseg train RECIPE --data DATA --out RUN

When a process dies, torchrun ends the others. Under srun they notice by themselves: at once on CPUs
(gloo), after torch's timeout of ten minutes on GPUs (NCCL).
"""

import os
from typing import NamedTuple


class Place(NamedTuple):
    """The process `rank` of `world`, the process `local_rank` of `per_node` on its machine."""

    rank: int = 0
    local_rank: int = 0
    world: int = 1
    per_node: int = 1


def launched() -> Place | None:
    """This process's place where torchrun or srun started it, else None.

    A script that sbatch runs is no task of srun, and, as Lightning Fabric has it, SLURM jobs called
    bash or interactive are those of a person.
    """
    found = os.environ
    if {"RANK", "WORLD_SIZE"} <= found.keys():
        world = int(found["WORLD_SIZE"])
        local = int(found.get("LOCAL_RANK", 0))
        return Place(int(found["RANK"]), local, world, int(found.get("LOCAL_WORLD_SIZE", world)))
    by_hand = found.get("SLURM_JOB_NAME") in ("bash", "interactive")
    if not by_hand and {"SLURM_NTASKS", "SLURM_PROCID", "SLURM_STEP_ID"} <= found.keys():
        world = int(found["SLURM_NTASKS"])
        per_node = world // int(found.get("SLURM_NNODES", 1))
        local = int(found.get("SLURM_LOCALID", 0))
        return Place(int(found["SLURM_PROCID"]), local, world, per_node)
    return None


def lost_another(error: RuntimeError) -> bool:
    """Whether an error of torch.distributed says that another process cannot be reached."""
    from torch import distributed as dist

    return isinstance(error, dist.DistError) or any(
        word in str(error) for word in ("gloo", "NCCL", "Connection closed by peer")
    )
