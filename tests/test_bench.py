"""`fastseg bench`: cases and their work, the accuracy gate, timing, the record and the table."""

import contextlib
import io
import json
import subprocess
from typing import ClassVar

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastseg.bench import (
    accuracy,
    cases,
    layers,
    main,
    names,
    providers,
    runner,
    table,
    targets,
    timing,
    worker,
    workers,
)  # fmt: skip
from fastseg.bench.providers import spectral

SMALL = cases.Case("small", (2, 3, 12, 10), (5, 4), "a test")
VOLUME = cases.Case("volume", (1, 2, 6, 8, 10), (4, 4, 3), "a test")
JOB = {
    "dtype": "float32", "heap": "warm", "device": "cpu", "budget_s": 0.0, "rounds": 3, "pairs": 4,
    "compile": False, "threads": 1, "without": [], "tf32": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(exit code, stdout, record) of a real run in worker processes."""
    out = tmp_path_factory.mktemp("bench") / "records" / "record.json"
    options = ["--quick", "--budget", "0.05", "--threads", "1", "--out", str(out),
               "--without", "neuraloperator"]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as text:
        patch.setenv("FASTSEG_BACKEND", "reference")  # must not reach the workers
        code = main(["conv2d-64", "call", *options])
    assert out.with_suffix(".md").read_text() == text.getvalue()
    return code, text.getvalue(), json.loads(out.read_text()), out.with_suffix(".png")


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


def test_run_has_every_row_of_the_table(run):
    code, text, *_ = run
    assert code == 0
    header = next(line for line in text.splitlines() if line.startswith("| case | pass"))
    assert header == "| " + " | ".join(table.HEAD) + " |"
    rows = [line for line in text.splitlines() if line.startswith("| conv2d-64-quick")]
    found = set(providers.of(cases.CASES["conv2d-64"], "cpu", torch.float32))
    assert {"classic", "neuraloperator", "matmul", "reference", "fastseg"} <= found
    # which takes longest to import, and has a test of its own
    assert len(rows) == len(cases.PASSES) * len(found - {"neuraloperator"})
    assert all(line.count("|") == header.count("|") for line in rows)
    assert "QUICK" in text
    assert "MISS" not in text


def test_record_holds_machine_accuracy_and_raw_times(run):
    _, _, record, _ = run
    assert {"cpu", "isa", "cores", "threads", "torch", "commit", "load_average"} <= set(
        record["machine"]
    )
    assert record["machine"]["threads"] == 1
    assert record["date"][:2] == "20"
    assert [(c["id"], c["heap"]) for c in record["cases"]] == [
        ("conv2d-64-quick", "warm"),
        ("call", "warm"),
        ("conv2d-64-quick", "default"),
    ]
    warm, call, _ = record["cases"]
    ours = warm["providers"]["fastseg"]
    assert ours["backend"] == warm["auto"] != "reference"
    assert max(ours["error"].values()) < 2e-6
    for which in cases.PASSES:
        times = ours[which]
        low, median, high = times["quartiles_s"]
        assert 0 < min(times["seconds"]) <= low <= median <= high
        assert len(times["seconds"]) >= 5
        assert times["dispatch"]["pairs"] >= 15
        assert 0 < times["roofline_share"] < 2
        assert times["bytes_per_s"] == warm["floor"][which]["bytes"] / median
        assert 0 < ours["peak_bytes"][which] < 1e9
    assert call["providers"]["fastseg"]["call"]["quartiles_s"][1] < 0.1
    assert record["checks"] == []


@pytest.mark.parametrize("case", [SMALL, VOLUME], ids=lambda case: case.id)
def test_every_provider_is_right(measured, case):
    result = measured(case, JOB)
    for name in set(result["providers"]) - {"neuraloperator"}:
        row = result["providers"][name]
        assert row["status"] == "ok", name
        assert max(row["error"].values()) < 2e-6, name
        assert "forward+backward" in row, name


def test_neuraloperator_agrees_where_its_convention_does(measured):
    pytest.importorskip("neuralop", reason="it is in the extra `bench`")
    only = {"neuraloperator": spectral.neuraloperator}
    even = measured(VOLUME, JOB, only)["providers"]["neuraloperator"]
    assert max(even["error"].values()) < 2e-6
    odd_axis = cases.Case("odd", (1, 2, 9, 8), (4, 3), "a test")
    odd = measured(odd_axis, JOB, only)["providers"]["neuraloperator"]
    assert odd["error"]["y"] > 0.1
    assert odd["status"] == "ok"
    assert "forward" in odd


OURS = {
    name: layers.on_backend(providers.FAMILIES["spectral"], name) for name in ("auto", "matmul")
}


@pytest.mark.parametrize("part", ["y", "dx", "dw"])
def test_gate_refuses_a_wrong_provider(measured, part):
    def wrong(case, inputs):
        layer = spectral.classic(case, inputs)
        if part == "y":
            return layer._replace(forward=lambda x: layer.forward(x) * (1 + 1e-5))
        if part == "dw":
            return layer._replace(
                weight_gradients=lambda g: [w * (1 + 1e-5) for w in layer.weight_gradients(g)]
            )
        return layer._replace(forward=lambda x: layer.forward(_Scaled.apply(x)))

    result = measured(SMALL, JOB, {"fastseg": wrong, "matmul": OURS["matmul"]})
    row = result["providers"]["fastseg"]
    assert row["status"].startswith(f"wrong: error of {part}")
    assert not any(which in row for which in cases.PASSES)
    assert "forward" in result["providers"]["matmul"]
    record = record_of(result)
    assert targets.failures(record) == [f"small, fastseg: {row['status']}"]
    assert "FAILED small, fastseg: wrong" in table.markdown(record)


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * (1 + 1e-5)


def test_rival_that_raises_is_a_row_of_its_own(measured):
    def refuses(case, inputs):
        raise RuntimeError("no such\ndtype")

    rows = measured(SMALL, JOB, {"classic": refuses, "fastseg": OURS["auto"]})
    assert rows["providers"]["classic"]["status"] == "raises: no such dtype"
    assert "forward" in rows["providers"]["fastseg"]


def test_rounds_are_paired_and_rotate():
    calls = []
    runs = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = timing.interleave(runs, 0.0, 3)
    assert [len(values) for values in seconds.values()] == [3, 3, 3]
    assert "".join(calls[3:]) == "abcbcacab"
    assert timing.paired_ratio([2.0, 4.0, 9.0], [1.0, 2.0, 3.0]) == [2.0, 2.0, 2.5]


class _Event:
    """In the place of a CUDA event: a mark among the operators that are called."""

    def __init__(self, enable_timing):
        self.record = lambda: _Called.names.append("event")
        self.synchronize, self.elapsed_time = (lambda: None), (lambda end: 5.0)


class _Called(TorchDispatchMode):
    names: ClassVar = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.name().split("::")[1])
        return function(*args, **(kwargs or {}))


def test_the_last_that_a_gpu_does_before_a_run_is_to_read(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", _Event)
    clock, x = timing.DeviceClock(1 << 12, "cpu"), torch.ones(3)
    with _Called():
        assert clock(lambda: x.mul(2)) == 5e-3
    assert _Called.names == ["zero_", "sum.IntList_out", "event", "mul.Tensor", "event"]


@pytest.mark.parametrize(
    ("value", "at_most", "wanted"),
    [(7.0, False, "stretch"), (5.0, False, "pass"), (4.9, False, "MISS"),
     (5.0, True, "stretch"), (6.5, True, "pass"), (7.1, True, "MISS"),
     (float("nan"), False, "MISS")],
)  # fmt: skip
def test_verdict(value, at_most, wanted):
    must, stretch = (7, 5) if at_most else (5, 7)
    assert targets.verdict(value, must, stretch, at_most) == wanted


def test_targets_apply_to_full_cases_on_the_warm_heap_only(measured):
    result = measured(SMALL, JOB) | {"id": "conv2d-240"}
    found = {check["what"]: check for check in record_of(result)["checks"]}
    assert set(found) == {
        f"{which}: {what}"
        for which in cases.PASSES
        for what in ("× classic", "× matmul", "roofline share", "× reference")
    } | {"saved for backward / x"}
    assert (found["forward: × classic"]["must"], found["forward: × classic"]["stretch"]) == (5, 7)
    assert "### Targets" in table.markdown(record_of(result))
    assert record_of(result, quick=True)["checks"] == []
    assert record_of(result, dtype="bfloat16")["checks"] == []
    assert record_of(result | {"heap": "default"})["checks"] == []


def test_crossover_says_whether_the_choice_is_right(measured):
    case = cases.Case("crossover-12-n1", (1, 2, 12, 12), (12, 7), "a test", "crossover")
    result = measured(case, JOB)
    pairs = [result["providers"]["cpu"][which]["dispatch"] for which in cases.PASSES]
    for ratio, auto, rightly in (
        (2.0, "cpu", "yes"),
        (0.5, "cpu", "no: 2.00×"),
        (2.0, "reference", "no: 2.00×"),
    ):
        for pair in pairs:
            pair["ratio"] = [ratio] * 3
        (row,) = [
            line for line in table.markdown(record_of(result | {"auto": auto})).splitlines()
            if line.startswith("| crossover-12-n1 |")
        ]  # fmt: skip
        assert row.split(" | ")[-1].startswith(rightly)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["conv2d-64", "conv3d-120"], ["conv2d-64", "conv3d-120"]),
        (["block2d"], ["block2d-240", "block2d-192"]),
        (["gaussian2d-240"], ["gaussian2d-240"]),  # and none of its variants
        (["A3", "B2"], ["conv2d-64", "conv2d-85", "conv2d-421", "conv3d-120"]),
        (["D1-fixed", "X256-N/4", "C2-0.5", "tiny"],
         ["gaussian2d-240", "crossover-256-n4", "vffc-0.5", "call"]),
    ],
)  # fmt: skip
def test_cases_are_chosen_in_order_by_name_group_and_former_id(words, wanted):
    assert [case.id for case in cases.chosen(words, None)] == wanted


def test_cases_are_chosen_by_family():
    assert [case.id for case in cases.chosen([], "overhead")] == ["call"]
    assert {case.family for case in cases.chosen([], None)} == set(providers.FAMILIES)
    with pytest.raises(ValueError, match=r"'conv3d-120'.*call"):
        cases.chosen(["conv3d-120"], "overhead")
    with pytest.raises(ValueError, match=r"family: got 'gauss'.*gaussian"):
        cases.chosen([], "gauss")


def test_every_case_has_a_name_and_every_former_id_a_case():
    assert list(names.FORMER.values()) == [names.current(former) for former in names.FORMER]
    assert set(names.FORMER.values()) <= set(cases.CASES)
    assert all(len(name) >= 4 and name == name.lower() for name in cases.CASES)
    assert not set(cases.CASES) & set(names.FORMER)
    assert names.current("A1-quick") == "conv2d-240-quick"


def test_a_record_by_former_ids_is_shown_and_judged_by_the_names(measured):
    record = record_of(measured(SMALL, JOB) | {"id": "conv2d-240"})
    (result,) = record["cases"]
    was = {k: v for k, v in result.items() if k not in ("title", "x_bytes")}
    was |= {"id": "A1", "modes": SMALL.modes}
    former = record | {"cases": [was], "options": {}, "checks": [
        check | {"case": "A1"} for check in record["checks"]
    ]}  # fmt: skip
    assert targets.checks(former) == record["checks"] != []
    assert table.markdown(former) == table.markdown(record)


@pytest.mark.parametrize(
    "arguments",
    [["Z9"], ["--case", "Z9"], ["--only", "Z"], ["--gpu"], ["call", "--out", "/dev/null/r.json"]],
)
def test_mistakes_are_one_line(arguments, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(
        runner, "measure_case", lambda *_: {"id": "call", "family": "overhead", "heap": "warm"}
    )
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("fastseg bench: ")
    assert errors.count("\n") == 1


def test_a_worker_that_dies_fails_the_run_and_says_how(capsys, monkeypatch):
    monkeypatch.setattr(workers.sys, "executable", "/bin/false")
    assert main(["call", "--heap", "warm"]) == 1
    assert "FAILED call: exit code 1" in capsys.readouterr().out
    assert workers.cause_of(-9, "") == "killed by the system, most likely for memory"
    where = 'Fatal Python error: Segmentation fault\n\n  File "a.py", line 1 in f\n  File "b.py"\n'
    assert workers.cause_of(-11, where) == 'stopped by signal 11: File "a.py", line 1 in f'


# in the place of a worker: a process that answers with its number, sleeps, or dies
_ANSWERS = """
import json, os, sys, time
for line in sys.stdin:
    job = json.loads(line)
    if job["case"] == "dies":
        sys.exit("no memory")
    if job["case"] == "sleeps":
        time.sleep(60)
    with open(job["out"] + "-", "w") as file:
        json.dump({"pid": os.getpid()}, file)
    os.rename(job["out"] + "-", job["out"])
"""


def test_a_lasting_worker_serves_until_it_dies_or_is_late(monkeypatch):
    start = subprocess.Popen
    stand_in = [workers.sys.executable, "-c", _ANSWERS]
    monkeypatch.setattr(workers.subprocess, "Popen", lambda _, **how: start(stand_in, **how))
    names = ("a", "b", "dies", "c", "sleeps", "d")
    with workers.Workers("default", lasting=True) as lasting:
        found = [lasting.measure({"case": name}, limit_s=2) for name in names]
    assert found[0] == found[1]
    assert [found[i] for i in (2, 4)] == [
        {"failed": "no memory"}, {"failed": "ended after 2 seconds"}
    ]  # fmt: skip
    assert len({found[i]["pid"] for i in (1, 3, 5)}) == 3
    with workers.Workers("default", lasting=False) as each:
        assert each.measure({"case": "a"})["pid"] != each.measure({"case": "b"})["pid"]


def test_a_record_is_written_after_every_case(tmp_path, monkeypatch):
    out, seen = tmp_path / "record.json", []

    def measured(case, *_):
        if out.exists():
            seen.append([c["id"] for c in json.loads(out.read_text())["cases"]])
        return {"id": case.id, "family": case.family, "heap": "warm", "failed": "no time"}

    monkeypatch.setattr(runner, "measure_case", measured)
    assert main(["fourier-unit", "--heap", "warm", "--out", str(out)]) == 1
    names = [case.id for case in cases.chosen(["fourier-unit"], None)]
    assert seen == [names[:1], names[:2], names[:3]]


def test_rows_can_be_left_out_and_tf32_has_bounds_of_its_own(measured):
    result = measured(SMALL, JOB | {"without": ["neuraloperator", "reference"], "tf32": True})
    assert {"classic", "matmul", "fastseg"} == set(result["providers"])
    assert record_of(result | {"id": "conv2d-240"}, tf32=True)["checks"] == []
    assert accuracy.refusal("matmul", {"y": 1e-3, "dx": 3e-3}, "tf32") is None
    assert accuracy.refusal("matmul", {"y": 1e-3}, "float32").startswith("wrong: error of y")


def test_each_heap_has_its_own_environment(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    monkeypatch.setenv("FASTSEG_BACKEND", "matmul")
    for heap, count in (("warm", 2), ("default", 0)):
        found = workers.environment(heap)
        assert sum(name.startswith("MALLOC_") for name in found) == count
        assert "FASTSEG_BACKEND" not in found
