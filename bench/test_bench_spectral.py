"""The spectral convolution under pytest-benchmark: the cases and providers of `fastseg bench`.

    pytest bench/ [--quick] [-k A1] [--benchmark-json FILE]

Every provider passes the accuracy gate first. Providers run one after another here; ratios to quote
come from `fastseg bench`, which interleaves them.
"""

import os
from functools import lru_cache

import pytest
import torch

from fastseg.bench import accuracy, cases, timing
from fastseg.bench.providers import BY_FAMILY, PROVIDERS, Unavailable


@lru_cache(maxsize=1)
def checked_inputs(case: cases.Case, dtype: str):
    inputs = accuracy.draw(case, getattr(torch, dtype))
    return inputs, accuracy.truth(case, inputs)


@pytest.fixture
def dtype(request: pytest.FixtureRequest) -> str:
    return request.config.getoption("--dtype")


@pytest.fixture
def case(request: pytest.FixtureRequest) -> cases.Case:
    return cases.quick(request.param) if request.config.getoption("--quick") else request.param


@pytest.mark.parametrize("case", cases.SPECTRAL, ids=lambda case: case.id, indirect=True)
@pytest.mark.parametrize("provider", BY_FAMILY["spectral"])
@pytest.mark.parametrize("which", cases.PASSES)
def test_spectral_conv(benchmark, case: cases.Case, provider: str, which: str, dtype: str) -> None:
    inputs, wanted = checked_inputs(case, dtype)
    try:
        layer = PROVIDERS[provider](case, inputs.weight)
    except Unavailable as error:
        pytest.skip(str(error))
    x = inputs.x.detach().requires_grad_()
    found = accuracy.errors(layer, x, inputs.dy, wanted)
    assert accuracy.refusal(provider, found, dtype) is None

    benchmark.group = f"{case.id} {which}"
    benchmark.extra_info |= {
        "shape": case.shape,
        "modes": case.modes,
        "dtype": dtype,
        "backend": layer.backend,
        "error": found,
        "threads": torch.get_num_threads(),
        "heap": {k: v for k, v in os.environ.items() if k.startswith("MALLOC_")} or "default",
    }
    benchmark(timing.passes(layer.forward, layer.parameters, x, inputs.dy)[which])
