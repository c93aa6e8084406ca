"""CUDA kernels without a GPU: csrc/cuda/host itself, and the production kernels run by it."""

import functools
import itertools
import math
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import host_build
import pytest

pytestmark = pytest.mark.skipif(bool(host_build.why_not()), reason=str(host_build.why_not()))

SEEDS = 4


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """Runs a kernel of host_kernels.cu → its exit status, the numbers it wrote, its complaint."""
    program = tmp_path_factory.mktemp("host") / "host_kernels"
    include = host_build.ROOT / "csrc" / "cuda"
    source = host_build.ROOT / "tests" / "host_kernels.cu"
    subprocess.run(
        [host_build.compiler(), "-std=c++17", "-O1", "-g", "-fsanitize=address", "-Wall", "-Wextra",
         "-Werror", "-DFASTSEG_CUDA_HOST", f"-I{include}", "-x", "c++", source, "-o", program],
        check=True,
    )  # fmt: skip

    def run(name: str, seed: int = 0):
        done = subprocess.run(
            [program, name], env={"FASTSEG_HOST_SEED": str(seed)}, capture_output=True, text=True
        )
        return done.returncode, [float(line) for line in done.stdout.split()], done.stderr

    return run


REVERSED = [63.0 - i for i in range(64)]
ROTATED = [(i + 2.0) % 64 for i in range(64)]
LANES = [float(i % 32) for i in range(64)]
RIGHT = {
    "reverse": REVERSED,
    "rotate_twice": ROTATED,
    "shuffles": [496 + 1000 * (lane // 8 * 8) + 1e5 * min(lane + 1, 31) for lane in LANES],
    "counts": [64.0] * 64,
    "multiplies_tf32": [0.0] * 64,
    "multiplies_half": [0.0] * 64,
    "multiplies_bfloat16": [0.0] * 64,
    "splits": [1.0] * 32 + [1.5] + [2.0] * 31,
    "positions": [],
    "refuse": [],
}


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("name", RIGHT)
def test_right_kernels_are_right_in_any_order(kernels, name, seed):
    status, numbers, complaint = kernels(name, seed)
    assert (status, numbers) == (0, RIGHT[name]), complaint


@pytest.mark.parametrize(
    ("name", "right"),
    [("reverse_without_barrier", REVERSED), ("rotate_twice_with_one_barrier", ROTATED)],
)
def test_a_missing_barrier_shows(kernels, name, right):
    runs = [kernels(name, seed) for seed in range(SEEDS)]
    assert all(status == 0 for status, _, _ in runs)
    assert any(numbers != right for _, numbers, _ in runs)


def test_a_seed_names_an_order(kernels):
    orders = [str(kernels("rotate_twice_with_one_barrier", seed)[1]) for seed in (0, 0, 1, 2)]
    assert orders[0] == orders[1]
    assert len(set(orders)) == 3


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("shared_overrun", "heap-buffer-overflow"),
        ("global_overrun", "heap-buffer-overflow"),
        ("deep_recursion", "stack-overflow"),
        ("misaligned", "store of 4 × 4 bytes to .* is misaligned"),
        ("leaves_early", r"\(0, 0, 0\) waits at the barrier .*, thread \(7, 0, 0\) has returned"),
        ("two_barriers", r"thread \(0, 0, 0\) waits .*:\d+, thread \(32, 0, 0\) waits"),
        ("lost_lane", r"waits at .*:\d+ for lanes ffffffff, thread \(5, 0, 0\) has returned"),
        ("two_shuffles", "threads diverge"),
    ],
)  # fmt: skip
def test_faults_end_the_process(kernels, name, complaint):
    status, numbers, said = kernels(name)
    assert status != 0
    assert not numbers
    assert re.search(complaint, said), said


def test_what_is_not_written_is_nan(kernels):
    _, numbers, _ = kernels("skips_the_last")
    assert numbers[:-1] == [1.0] * 63
    assert math.isnan(numbers[-1])
    _, numbers, _ = kernels("unwritten_shared")
    assert all(map(math.isnan, numbers))


# slips of the hand: where, the statement that is left out, the operator that must notice
FAULTS = {
    "no_store": (
        "transform/planes.h", r"if \(k > 0\) samples\.store_q\(.*?;", "truncated_irfftn"
    ),
    "no_tensor_barrier": ("tensor/analysis.cu", r"__syncthreads\(\);", "truncated_rfftn"),
}  # fmt: skip


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """The module whose production kernels run on the CPU; FASTSEG_HOST_BUILD keeps its folder."""
    kept = os.environ.get("FASTSEG_HOST_BUILD")
    faults = {name: (f"csrc/cuda/{file}", there) for name, (file, there, _) in FAULTS.items()}
    return host_build.HostBuild(
        Path(kept) if kept else tmp_path_factory.mktemp("host_build"), faults=faults
    )


# what concerns kernels: the rest is Python that the CPU's go through too
OPERATORS = "(matches_float64 or empty_batch or results_repeat) and cuda and test_operators.py"
PARTS = {
    "float32": f"{OPERATORS} and float32",
    "other dtypes": f"{OPERATORS} and not float32",
    # epilogues and pairs of dtypes that no operator asks for
    "products": "cuda and test_pointwise.py",
    # tiles that no drawn case fills
    "blocks": "(fill_tiles or wherever) and cuda and test_spectral.py",
    "TF32": "tf32 and test_spectral.py",
    "taps": "taps_of_a_kernel and test_gaussian.py",
    "second derivatives": "match_float64 and cuda and float32 and test_second_order.py",
}
# in an interpreter each: an emulated grid takes one core
TOGETHER = [
    ["float32", "blocks"],
    ["other dtypes", "products", "TF32", "taps", "second derivatives"],
]


def run_selected(module, selected: str, *, tensor_cores: bool = True, **environment: str):
    files = [f"tests/{name}" for name in dict.fromkeys(re.findall(r"test_\w+\.py", selected))]
    return host_build.run_tests(
        module, *files, "-k", selected, FASTSEG_TEST_FEW="1",
        FASTSEG_CUDA_TENSOR_CORES=str(int(tensor_cores)), **environment,
    )  # fmt: skip


def run_parts(module, parts: list[str]):
    return run_selected(module, " or ".join(f"({PARTS[part]})" for part in parts))


def test_every_operator_is_right_through_the_cuda_kernels(build):
    assert sorted(itertools.chain(*TOGETHER)) == sorted(PARTS)
    with ThreadPoolExecutor() as pool:
        runs = list(pool.map(functools.partial(run_parts, build.module), TOGETHER))
    for done in runs:
        assert done.returncode == 0, done.stdout + done.stderr
        assert "passed" in done.stdout


def test_planes_are_right_without_tensor_cores_too(build):
    """Where a device has none: the same sizes through the other kernels."""
    done = run_selected(build.module, f"{OPERATORS} and truncated", tensor_cores=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(build, fault):
    file, _, operator = FAULTS[fault]
    selected = f"{operator}-cuda-torch.float32 and {OPERATORS}"
    done = run_selected(
        build.module, selected, tensor_cores="tensor" in file, **{host_build.FAULT: fault}
    )
    seen = " failed" in done.stdout or "AddressSanitizer" in done.stderr
    assert done.returncode != 0
    assert seen, done.stdout + done.stderr
