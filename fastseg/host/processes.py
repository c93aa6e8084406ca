"""Which of several processes this one is, as torchrun or SLURM's srun says, and what they tell each
other outside training.

torchrun --nproc-per-node 4 -m fastseg train RECIPE --data DATA --out RUN
srun --ntasks-per-node 4 --nodes 2 fastseg train RECIPE --data DATA --out RUN

When a process dies, torchrun ends the others. Under srun they notice by themselves: at once on CPUs
(gloo), after ten minutes on GPUs (NCCL) and where a process is stopped. When the process that
started them dies, they do too.
"""

import ctypes
import functools
import itertools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

from fastseg.errors import FastsegError

TIMEOUT_S = 600.0  # of what processes do together
T = TypeVar("T")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PARENT = "FASTSEG_PARENT"
_openings = itertools.count()


class Place(NamedTuple):
    """The process `rank` of `world`, the process `local_rank` of `per_node` on its machine."""

    rank: int = 0
    local_rank: int = 0
    world: int = 1
    per_node: int = 1


def launched() -> Place | None:
    """Find the place that torchrun or srun gave this process; None where neither started it.

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


def die_with_parent() -> None:
    """End this process when the one that started it ends, if that was to run several of them.

    torchrun, and a run with `devices`, start processes that would else wait for ever for a lost
    company. Who calls this first, before any are started, is known to them as their parent.
    """
    parent = os.environ.get(_PARENT)
    started = "TORCHELASTIC_RUN_ID" in os.environ or (parent and "LOCAL_RANK" in os.environ)
    if not started or parent == str(os.getpid()):
        os.environ[_PARENT] = str(os.getpid())
        return
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # it may have ended before
    if "TORCHELASTIC_RUN_ID" not in os.environ and str(os.getppid()) != parent:
        raise FastsegError(f"process {parent}, which started this one, has ended")


def lost_another(error: RuntimeError) -> bool:
    """Tell whether an error of torch.distributed says that another process cannot be reached."""
    from torch import distributed as dist

    return isinstance(error, dist.DistError) or any(
        word in str(error) for word in ("gloo", "NCCL", "Connection closed by peer")
    )


@dataclass(frozen=True)
class Company:
    """The processes that do one thing together. All call its methods, in the same order."""

    place: Place

    def agree(self, do: Callable[[], T]) -> list[T]:
        """Call `do()` in each process and give all of them the results, by rank.

        A user's error in one is raised in all; FastsegError where a process has ended.
        """
        if self.place.world == 1:
            return [do()]
        mine: tuple[T | None, Exception | None]
        try:
            mine = do(), None
        except (FastsegError, OSError) as error:
            mine = None, error
        found = self._exchanged(mine)
        for _, error in found:
            if error is not None:
                raise error
        return [value for value, _ in found]

    def each(self, do: Callable[[], T]) -> T:
        """Call `do()` and keep its result; the other processes learn nothing but an error."""
        kept: list[T] = []
        self.agree(lambda: kept.append(do()))
        return kept[0]

    def first(self, do: Callable[[], None]) -> None:
        """Call `do()` in process 0 alone; the others wait, and its error is raised in all."""
        self.agree(do if self.place.rank == 0 else lambda: None)

    def _exchanged(self, mine: Any) -> list[Any]:
        from torch import distributed as dist

        found: list[Any] = [None] * self.place.world
        try:
            dist.all_gather_object(found, mine)
        except RuntimeError as error:
            if not lost_another(error):
                raise
            reason = f"process {self.place.rank} lost the others; start all again ({error})"
            raise FastsegError(reason) from error
        return found


@contextmanager
def company() -> Iterator[Company]:
    """Bring the processes that torchrun or srun started together in touch while entered.

    All of them must enter. Where they are in touch already, for training, they just go on.
    """
    place = launched() or Place()
    if place.world == 1:
        yield Company(place)
        return
    from torch import distributed as dist

    if dist.is_initialized():
        yield Company(place)
        return
    # torchrun's store outlives a group: the next one must not find this one's addresses
    store = dist.PrefixStore(f"company-{next(_openings)}", _meeting_point(place))
    timeout = timedelta(seconds=TIMEOUT_S)
    dist.init_process_group(
        "gloo", store=store, rank=place.rank, world_size=place.world, timeout=timeout
    )
    try:
        yield Company(place)
    finally:
        dist.destroy_process_group()


@functools.cache
def _meeting_point(place: Place) -> Any:
    """The store at MASTER_ADDR, open until this process ends: under srun process 0 serves it."""
    from torch import distributed as dist

    if not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        from lightning_fabric.plugins.environments import SLURMEnvironment

        slurm = SLURMEnvironment()
        os.environ["MASTER_ADDR"] = slurm.main_address
        os.environ["MASTER_PORT"] = str(slurm.main_port)
    store, _, _ = next(dist.rendezvous("env://", place.rank, place.world))
    return store
