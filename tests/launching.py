"""Starting processes as torchrun and srun do."""

import os
import subprocess
import sys


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **more}


def torchrun(*arguments: object, processes: int = 2, timeout: float = 200):
    """What `processes` of them left behind: exit code and output."""
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run([sys.executable, *command, *map(str, arguments)], env=environment(),
                          capture_output=True, text=True, timeout=timeout)  # fmt: skip
