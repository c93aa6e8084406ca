"""Starting processes as torchrun and srun do."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **more}


def torchrun(*arguments: object, processes: int = 2, timeout: float = 200):
    """What `processes` of them left behind: exit code and output."""
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run([sys.executable, *command, *map(str, arguments)], env=environment(),
                          capture_output=True, text=True, timeout=timeout)  # fmt: skip


@contextmanager
def srun(command: Sequence[str]) -> Iterator[list[subprocess.Popen]]:
    """Two processes of a command, which nothing ends but themselves, while entered."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2",
              "SLURM_NNODES": "1",
              "SLURM_NODEID": "0", "SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train",
              "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
    both = [
        subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                         env=environment(**shared, SLURM_PROCID=rank, SLURM_LOCALID=rank))
        for rank in ("0", "1")
    ]  # fmt: skip
    try:
        yield both
    finally:
        for process in both:
            process.kill()
            process.wait()
