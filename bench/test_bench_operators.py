"""Every operator under pytest-benchmark: the cases and providers of `fastseg bench`.

    pytest bench/ [--quick] [-k "conv2d-240 and classic"] [--benchmark-json FILE]

Every provider passes the accuracy gate first. Providers run one after another here; ratios to quote
come from `fastseg bench`, which interleaves them.
"""

import os
from functools import lru_cache

import pytest
import torch

from fastseg.bench import accuracy, cases, providers
from fastseg.bench.layers import Unavailable


@lru_cache(maxsize=1)
def checked_inputs(case: cases.Case, dtype: str):
    inputs = accuracy.draw(case, getattr(torch, dtype))
    wanted = accuracy.truth(case, inputs)
    for x in inputs.x:
        x.requires_grad_()
    return inputs, wanted


ROWS = [
    pytest.param(case, name, id=f"{case.id}-{name}")
    for case in cases.TIMED
    for name in providers.of(case, "cpu", torch.float32)
]


@pytest.fixture
def dtype(request: pytest.FixtureRequest) -> str:
    return request.config.getoption("--dtype")


@pytest.fixture
def case(request: pytest.FixtureRequest) -> cases.Case:
    return cases.quick(request.param) if request.config.getoption("--quick") else request.param


@pytest.mark.parametrize(("case", "provider"), ROWS, indirect=["case"])
@pytest.mark.parametrize("which", cases.PASSES)
def test_operator(benchmark, case: cases.Case, provider: str, which: str, dtype: str) -> None:
    inputs, wanted = checked_inputs(case, dtype)
    try:
        layer = providers.of(case, "cpu", getattr(torch, dtype))[provider](case, inputs)
    except Unavailable as error:
        pytest.skip(str(error))
    found = accuracy.errors(layer, inputs, wanted)
    factor = providers.FAMILIES[case.family].tolerance
    assert accuracy.refusal(provider, found, dtype, factor) is None

    benchmark.group = f"{case.id} {which}"
    benchmark.extra_info |= {
        "case": case.title,
        "dtype": dtype,
        "backend": layer.backend,
        "error": found,
        "threads": torch.get_num_threads(),
        "heap": {k: v for k, v in os.environ.items() if k.startswith("MALLOC_")} or "default",
    }
    benchmark(layer.passes(inputs.x, inputs.dy)[which])
