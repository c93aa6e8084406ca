"""What every task has."""

import hashlib

import numpy as np
import torch


def case_generator(seed: int, case_id: str, device: torch.device) -> torch.Generator:
    """The noise of one case: the same in whatever order, part or company it is predicted."""
    word = int.from_bytes(hashlib.sha256(case_id.encode()).digest()[:8], "little")
    key = np.random.SeedSequence((seed, word)).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(key >> np.uint64(1)))
