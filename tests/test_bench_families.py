"""`fastseg bench` in every family: inputs, rivals, work, memory, the picture."""

import math
from dataclasses import replace

import pytest
import torch

from fastseg import reference
from fastseg.bench import (
    accuracy,
    cases,
    chart,
    memory,
    options,
    providers,
    runner,
    table,
    targets,
    timing,
    work,
    worker,
    workers,
)  # fmt: skip
from fastseg.bench.providers import filters, fourier_unit, spectral
from fastseg.ops import tables

JOB = {
    "dtype": "float32", "heap": "warm", "device": "cpu", "budget_s": 0.0, "rounds": 3, "pairs": 4,
    "compile": False, "threads": 1, "without": [], "tf32": False,
}  # fmt: skip
PERHAPS = (
    "neuraloperator",
    "factorized",
    "reconstructed",
    "kornia",
    "torchvision",
)  # rivals with an extra of their own, or none
CASES = cases.CASES
SMALL = cases.Case("small", (2, 3, 12, 10), (5, 4), "a test")
VOLUME = cases.Case("volume", (1, 2, 6, 8, 10), (4, 4, 3), "a test")
GAUSSIANS = [
    replace(CASES[name], id=name.lower(), shape=(3, 2, *(25,) * axes))
    for name, axes in (("gaussian2d-240", 2), ("gaussian2d-240-sigmas", 2),
                       ("gaussian2d-240-monai", 2), ("gaussian2d-256-reflect", 2),
                       ("gaussian3d-128", 3), ("gaussian3d-128-monai", 3))
]  # fmt: skip
FAMILY_CASES = [
    replace(SMALL, id="block", family="fno_block"),
    *(
        cases.FactorisedCase(kind.lower(), (2, 4, 6, 10), (4, 4), kind=kind, rank=0.4)
        for kind in ("Tucker", "CP", "TT")
    ),
    cases.Case("unit", (2, 8, 7, 8, 6), (), "a test", "fourier_unit"),
    cases.VFFCCase("vffc", (2, 32, 6, 8, 8), ratio=0.5, local=True),
    cases.VFFCCase("vffc-global", (2, 8, 5, 6, 7), ratio=0.75),
    *GAUSSIANS,
    cases.Case("filter", (2, 3, 9, 8), (), "a test", "spectral_filter"),
    cases.GateCase("gate", (2, 5, 16, 12), cond_channels=4),
]


@pytest.fixture
def measured(monkeypatch):
    """`worker.measure` in this process, with ceilings that cost no time."""
    found = {"copy_bytes_per_s": 1e10, "sgemm_flops_per_s": 1e11}
    monkeypatch.setattr(timing, "ceilings", lambda device: found)
    threads = torch.get_num_threads()
    torch.set_num_threads(JOB["threads"])
    yield worker.measure
    torch.set_num_threads(threads)


def record_of(result: dict, **options) -> dict:
    record = {"machine": None, "date": "today", "cases": [result]}
    record["options"] = {"quick": False, "gpu": False, "dtype": "float32"} | options
    return record | {"checks": targets.checks(record)}


@pytest.mark.parametrize("case", FAMILY_CASES, ids=lambda case: case.id)
def test_every_provider_of_a_family_is_right(measured, case, tmp_path):
    result = measured(case, JOB)
    rivals = set(providers.FAMILIES[case.family].rivals(case))
    assert rivals
    for name, row in result["providers"].items():
        if name in PERHAPS and row["status"].startswith("unavailable"):
            continue
        assert row["status"] == "ok", (name, row["error"])
        assert {"forward", "forward+backward"} <= set(row), name
        assert row["forward"]["bytes_per_s"] > 0
    text = table.markdown(record_of(result))
    assert case.title in text
    rows = [line for line in text.splitlines() if line.count("|") == len(table.HEAD) + 1]
    assert len(rows) == 2 + 2 * len(result["providers"])


def test_rivals_stand_only_where_they_compute_the_same():
    def rivals(name):
        return set(providers.FAMILIES["gaussian"].rivals(CASES[name]))

    for name in ("gaussian2d-240", "gaussian2d-240-sigmas", "gaussian3d-240"):
        assert rivals(name) == {"FFT chain"}
    assert rivals("gaussian2d-240-monai") == rivals("gaussian3d-128-monai") == {"MONAI"}
    assert rivals("gaussian2d-256-reflect") == {"kornia", "torchvision"}


def test_a_picked_kernel_has_no_second_row(monkeypatch):
    case, names = CASES["conv2d-240"], {}
    for picked in ("cpu", "matmul"):
        family = providers.FAMILIES["spectral"]._replace(picks=lambda *_, name=picked: name)
        monkeypatch.setitem(providers.FAMILIES, "spectral", family)
        names[picked] = list(providers.of(case, "cpu", torch.float32))
    assert "cpu" not in names["cpu"]
    assert "matmul" in names["matmul"]
    assert "cpu" in names["matmul"]
    on_gpu = list(providers.of(case, "cuda", torch.float32, compiled=True))
    assert on_gpu[-1] == "fastseg"
    assert {"cuda", "triton", "classic, compiled", "reference, compiled"} <= set(on_gpu)


@pytest.mark.parametrize("case", [SMALL, VOLUME], ids=lambda case: case.id)
def test_truth_by_images_is_the_reference(case, monkeypatch):
    # several pieces, the last one shorter
    monkeypatch.setattr(spectral, "IMAGE_ELEMENTS", 1000)
    inputs = accuracy.draw(case, torch.float32)
    family = providers.FAMILIES["spectral"]._replace(truth=None)
    found = accuracy.truth(case, inputs)
    monkeypatch.setitem(providers.FAMILIES, "spectral", family)
    wanted = accuracy.truth(case, inputs)
    for values, others in zip(found[:3], wanted[:3], strict=True):
        assert accuracy.relative_l2(values, others) < 1e-14


def test_no_relu_of_a_fourier_unit_is_near_its_kink():
    case = cases.Case("unit", (2, 4, 8, 8, 8), (), "a test", "fourier_unit")
    x, (weight, scale, bias), _, _ = accuracy.draw(case, torch.float32).each(lambda t: t.double())
    z, *_ = reference.fu_mix(x[0], weight)
    z = torch.nn.functional.batch_norm(z, None, None, scale, bias, training=True)
    spacing = 0.5 / (z[:, 0].numel() * 0.4)  # of numbers around the middle of a normal distribution
    assert z.abs().transpose(0, 1).flatten(1).amin(1).min() > spacing
    shifted = torch.tensor([[[-0.1, 0.02, 0.2]], [[5.0, 6.0, 7.0]]]).movedim(0, 1)
    shift = fourier_unit.away_from_zero(shifted)
    torch.testing.assert_close(shift, torch.tensor([-0.11, 0.0]))


def test_no_maximum_of_the_gate_is_a_tie():
    case = cases.GateCase("gate", (1, 2, 40, 40), cond_channels=3)
    for dtype in (torch.float32, torch.bfloat16):
        inputs = accuracy.draw(case, dtype)
        cond, sigma = inputs.x[0].double(), inputs.weights[0].double()
        low = reference.gaussian_filter(cond, sigma[:, None], padding="reflect", radius=2)
        assert inputs.x[0].dtype == dtype
        assert (low - cond).abs().min() > 0.9 * filters.MARGIN


def folded_products(size: int, frequencies: int) -> int:
    """Multiply-adds of a line: samples that every cosine (sine) of a frequency maps to one value,
    up to its sign, are one product; none where a sample is its own mirror image with minus sign.
    """
    count = 0
    for k in range(frequencies):
        for sign in (1, -1) if k else (1,):  # cosine, sine
            mirrors = {0: sign} | ({size // 2: sign * (-1) ** k} if size % 2 == 0 else {})
            orbits = set()
            for n in range(size):
                orbit = {n}
                for about in mirrors:
                    orbit |= {(about - m) % size for m in orbit}
                if all((about - n) % size != n or s > 0 for about, s in mirrors.items()):
                    orbits.add(frozenset(orbit))
            count += len(orbits)
    return count


@pytest.mark.parametrize("case", [SMALL, VOLUME, CASES["conv2d-421"]], ids=lambda case: case.id)
def test_flops_are_those_of_the_tables(case):
    """One multiply-add per product of a folded line, and the mix."""
    batch, channels, *sizes = case.shape
    distinct = [axis.distinct for axis in tables.kept_axes(case.modes, True)]
    products = [folded_products(n, k) for n, k in zip(sizes, distinct, strict=True)]
    rows = 2 * distinct[-2] - 1  # real and imaginary parts, of frequency 0 one
    planes = batch * channels * 2 * (products[-2] * sizes[-1] + rows * products[-1])
    if len(sizes) == 3:
        planes *= sizes[0]
        planes += batch * channels * 2 * products[0] * 2 * case.modes[1] * case.modes[2]
    spectrum = math.prod(case.modes)
    assert work.flops(case, "forward") == 2 * planes + 8 * batch * channels**2 * spectrum
    assert work.flops(case, "forward+backward") == 4 * planes + 24 * batch * channels**2 * spectrum


def test_flops_of_whole_spectra_are_those_of_an_fft():
    case = next(case for case in cases.FILTER if case.id == "filter-16")
    images = 32 * 512
    assert work.flops(case, "forward") == images * (2 * 2.5 * 256 * 8 + 6 * 16 * 9)


def test_work_of_the_other_families():
    # R = 11, 17, 46: the sums of sampled Gaussians beyond are under 1e-8 of the whole
    for sigma, radius in ((2, 11), (3, 17), (8, 46)):
        samples = torch.exp(-(torch.arange(-400, 401).double() ** 2) / (2 * sigma**2))
        tails = [samples[: 400 - r].sum() * 2 / samples.sum() for r in (radius - 1, radius)]
        assert tails[0] > 1e-8 > tails[1]
        assert work.taps(sigma, 240, "circular") == radius + 1
    assert work.taps(1.0, 240, "circular") == 121
    assert work.taps(8.0, 64, "circular") == 33
    assert work.taps(3.0, 240, "MONAI's") == 13
    assert work.taps(3.5, 256, "reflect, 21 taps") == 11
    slices = CASES["gaussian2d-240"]
    elements = 16 * 4 * 240 * 240
    assert work.flops(slices, "forward") == 2 * 2 * 18 * elements
    assert work.least_bytes(slices, "forward", 4) == 3 * 4 * elements
    assert work.least_bytes(slices, "forward+backward", 2) == 6 * 2 * elements
    gate = CASES["gate-256"]
    assert work.least_bytes(gate, "forward", 4) == 4 * 2 * (32 + 2 * 128) * 256**2
    one_layer = cases.VFFCCase("vffc", (1, 8, 2, 2, 2), ratio=0.5)
    convolutions = 2 * 8 * (3 * 27 * 4 * 4 + 2 * 4 * 2)
    unit = work.flops(cases.Case("u", (1, 2, 2, 2, 2), family="fourier_unit"), "forward")
    assert work.flops(one_layer, "forward") == 2 * (convolutions + unit)


def test_saved_bytes_count_storages_once_and_parameters_never():
    x, weight = torch.randn(100, requires_grad=True), torch.randn(100, requires_grad=True)
    assert memory.saved_bytes(lambda x: x * weight, (weight,), x) == x.nbytes
    assert memory.saved_bytes(lambda x: x.sin() * x[:50].sum(), (), x) == 2 * x.nbytes + 4
    assert memory.saved_bytes(lambda x: x + 1, (), x) == 0
    assert memory.saved_bytes(lambda x: (x.sin(), x.cos()), (), x) == x.nbytes


def test_peak_bytes_are_a_calls_own():
    if not memory.CLEAR.exists():
        pytest.skip("this system has no /proc/self/clear_refs")
    kept = [torch.ones(1 << 24)]  # 64 MiB that were there before

    def run():
        torch.ones(1 << 23)
        kept.append(torch.ones(1 << 22))

    peak = memory.peak_bytes(run, torch.device("cpu"))
    assert 31 << 20 < peak < 56 << 20
    assert memory.peak_bytes(lambda: None, torch.device("cpu")) < 8 << 20


def test_time_limit_leaves_out_what_was_not_begun(capsys, monkeypatch):
    begun, now = [], [0.0]

    def measure(self, job, limit_s):
        begun.append(job["case"])
        now[0] += 40
        return {}

    monkeypatch.setattr(workers.Workers, "measure", measure)
    monkeypatch.setattr(runner.time, "perf_counter", lambda: now[0])
    assert runner.main(["fourier-unit", "--heap", "warm", "--limit", "1"]) == 1
    assert begun == ["fourier-unit-64x16", "fourier-unit-128x16"]
    assert "FAILED fourier-unit-48x32: not begun: 1 minutes were over" in capsys.readouterr().out


def test_gpu_run_fits_into_ten_minutes_and_judges_nothing(measured):
    arguments = options.parse(["--gpu"])
    assert (arguments.budget, arguments.limit) == (0.5, 8.0)
    assert all(case.family != "crossover" for case in runner.choose(arguments))
    result = measured(SMALL, JOB)
    checks = record_of(result, gpu=True)["checks"]
    assert {(c["what"], c["must"]) for c in checks if "matmul" in c["what"]} == {
        ("forward: × matmul", 1.3), ("forward+backward: × matmul", 1.3)
    }  # fmt: skip
    assert all(check["verdict"] == "" for check in checks)
    text = table.markdown(record_of(result, gpu=True))
    assert "| 1.3 | 1.8 |  |" in text
    assert "### Targets" not in text


def test_picture_has_a_bar_for_every_rival(measured, tmp_path):
    result = measured(SMALL, JOB)
    path = tmp_path / "record.png"
    assert chart.draw(record_of(result), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    drawn = [name for _, name, _ in chart.positions([result])]
    assert set(drawn) == set(result["providers"]) - {"fastseg"}
    assert not chart.draw(record_of({"id": "x", "family": "gaussian", "heap": "warm"}), path)


@pytest.fixture(scope="module")
def system():
    """A system small enough to sample and train in a test, measured once."""
    case = replace(CASES["system-fno-diffusion"], shape=(2, 2, 32, 32), width=4, steps=2)
    return case, worker.measure(case, JOB)


def test_systems_have_rates_and_no_targets(system):
    case, result = system
    assert set(result["providers"]) == {"reference", "fastseg"}
    # the same noise and dropout in every call, or the reference would differ from itself
    assert set(result["providers"]["reference"]["error"].values()) == {0.0}
    ours = result["providers"]["fastseg"]
    assert 0 < ours["error"]["y"] < 1e-4
    assert "dispatch" not in ours["forward"]
    record = record_of(result)
    assert not record["checks"]
    assert not targets.failures(record)
    text = table.markdown(record)
    assert case.title in text
    row = next(line for line in text.splitlines() if line.startswith(f"| {case.id} | **fastseg**"))
    cells = row.strip("| ").split(" | ")
    sampling, training = (ours[which]["quartiles_s"][1] for which in cases.PASSES)
    assert float(cells[2].split()[0]) == pytest.approx(2 / sampling, rel=0.01)
    assert float(cells[5].split()[0]) == pytest.approx(1 / training, rel=0.01)


def test_a_system_that_computes_something_else_is_refused(system):
    case, _ = system

    def builder(**changes):
        def build(case, inputs):
            layer = providers.of(case, "cpu", torch.float32)["fastseg"](case, inputs)
            return layer._replace(**{k: change(getattr(layer, k)) for k, change in changes.items()})

        return build

    def scaled(function):
        return lambda *x: 1.001 * function(*x)

    builders = {"forward": builder(forward=scaled), "evaluate": builder(evaluate=scaled)}
    rows = worker.measure(case, JOB, builders)["providers"]
    assert all(row["status"].startswith("wrong: error of y 1.0e-03") for row in rows.values())


@pytest.mark.parametrize(
    ("name", "shape", "settings"),
    [
        ("system-fgc2f-udiff", (1, 2, 16, 16), (("multipliers", (1, 2)), ("attention_levels", ()))),
        ("system-medsegdiff-v2", (2, 2, 32, 32), (("ssformer_channels", 8), ("ensemble", 1))),
        ("system-segresnet-vffc", (1, 1, 16, 16, 16), (("head", "softmax"),)),
    ],
)
def test_the_other_systems_are_right(name, shape, settings):
    case = replace(cases.quick(CASES[name]), shape=shape, settings=settings)
    rows = worker.measure(case, JOB)["providers"]
    assert {row["status"] for row in rows.values()} == {"ok"}


def test_systems_are_not_measured_in_float64():
    names = ["system", "conv2d-240"]
    for dtype, count in (("float32", 7), ("bfloat16", 7), ("float64", 1)):
        assert len(runner.choose(options.parse([*names, "--dtype", dtype]))) == count
