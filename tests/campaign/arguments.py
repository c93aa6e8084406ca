"""Every op with arguments of a wrong kind: ValueError, TypeError or a result, nothing else."""

import inspect
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from campaign.child import child

CALLS = 60  # of a round
MOST_NUMBERS = 300  # of a grid
HOSTILE = [
    None, True, 0, 1, -1, 3, 2**31, 2**63, 10**30, 0.0, 1.0, -1.5, 1e30, 1e308, float("nan"),
    float("inf"), "", "x", b"x", [], (), [0], (1,), (2, 2), (-1, 3), [1.0], ["x"], [None], {},
    object, 1j, np.float32(2), np.int64(3), np.zeros(3), range(2), torch.float16, torch.strided,
    torch.zeros(0), torch.zeros(()), torch.ones(3), torch.ones(2, 3, dtype=torch.int64),
    torch.ones(1, 1, 1), torch.full((1,), float("nan")), torch.ones(2, dtype=torch.complex64),
    torch.ones(3, device="meta"), torch.ones(1, 4, 4, dtype=torch.bool),
    torch.eye(3).to_sparse(), torch.ones(1, 4, 5, 6), torch.ones(1, 1, 2, 2, dtype=torch.float64),
]  # fmt: skip


class Part:
    """The operators' tests' rows, with one or two of their arguments replaced."""

    def __init__(self, scratch: Path):
        import operators

        from fastseg import ops

        self.tests, self.ops = operators, ops
        torch.set_num_threads(1)

    def round(self, rng: np.random.Generator, folder: Path) -> Counter:
        code = child(lambda: self._calls(rng, folder), folder, "a call")
        assert code == 0
        return Counter(calls=CALLS)

    def _calls(self, rng: np.random.Generator, folder: Path) -> int:
        for _ in range(CALLS):
            op = list(self.tests.ROWS)[rng.integers(len(self.tests.ROWS))]
            row, function = self.tests.ROWS[op], getattr(self.ops, op)
            grids = [grid for grid in row.grids if np.prod(grid) <= MOST_NUMBERS]
            tensors, options = row.draw(grids[rng.integers(len(grids))], torch.float32)
            arguments, names = tensors | options, list(inspect.signature(function).parameters)
            for name in rng.choice(names, rng.integers(1, 3), replace=False):
                arguments[str(name)] = HOSTILE[rng.integers(len(HOSTILE))]
            backend = self.tests.LIVE[rng.integers(len(self.tests.LIVE))]
            text = ", ".join(f"{name}={value!r:.200}" for name, value in arguments.items())
            (folder / "call.txt").write_text(f"{backend}: {op}({text})\n")
            with self.ops.use_backend(backend):
                _call(function, arguments)
        return 0


def _call(function, arguments: dict) -> None:
    with suppress(ValueError, TypeError):
        function(**arguments)
