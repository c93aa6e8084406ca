"""The table of `bench/architectures.py`, from what ptxas prints; accesses counted in PTX."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "bench" / "architectures.py"
PTXAS = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z4tileIfEvPT_' for 'sm_80'
ptxas info    : Function properties for _Z4tileIfEvPT_
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 384 bytes cmem[0]
ptxas info    : Compiling entry function '_Z3sumPf' for 'sm_80'
ptxas info    : Function properties for _Z3sumPf
    24 bytes stack frame, 16 bytes spill stores, 20 bytes spill loads
ptxas info    : Used 255 registers, 4096 bytes smem, 384 bytes cmem[0]
ptxas info    : Function properties for helper
    8 bytes stack frame, 8 bytes spill stores, 8 bytes spill loads
"""


def _loaded(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPT.with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def architectures():
    yield from _loaded("architectures")


@pytest.fixture(scope="module")
def accesses(architectures):
    yield from _loaded("accesses")


def test_registers_spills_and_shared_memory_are_read(architectures):
    found = architectures.parsed(PTXAS)
    assert found["_Z4tileIfEvPT_"] == architectures.Usage(40)
    assert found["_Z3sumPf"] == architectures.Usage(255, 16, 20, 4096)
    assert [u.spills for u in found.values()] == [False, True]


@pytest.mark.parametrize(
    ("demangled", "wanted"),
    [
        ("fastseg::cuda::(anonymous namespace)::sum(float*)", "sum"),
        ("void fastseg::cuda::(anonymous namespace)::tile<(int)4, fastseg::Half>(P, bool)",
         "tile<4, Half>"),
        ("void fastseg::cuda::tile<(fastseg::cuda::Kind)1, (bool)0>(float*)", "tile<1, 0>"),
    ],
)  # fmt: skip
def test_names_lose_namespaces_and_arguments(architectures, demangled, wanted):
    assert architectures.short(demangled) == wanted


def test_a_row_has_every_architecture(architectures):
    usage = architectures.Usage
    found = {80: {"a.cu": {"tile": usage(40)}}, 70: {"a.cu": {"tile": usage(64, 8, 4, 512)}}}
    text = architectures.table(found)
    assert text.splitlines()[-1] == "| a.cu | `tile` | 64, **spills** 8 + 4 B | 40 | 512 |"
    assert architectures.spilling(found) == [(70, "a.cu", "tile")]


def test_without_a_compiler_it_says_so(architectures, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["architectures", "--nvcc", "", "--clang", ""])
    assert architectures.main() == 2
    assert "sm_75: no nvcc (--nvcc)" in capsys.readouterr().err


PTX = """\
.visible .func helper()
{
	st.global.u8 	[%rd1], %rs1;
}
.visible .entry _Z5splitPf(
	.param .u64 _Z5splitPf_param_0
)
{
	ld.global.nc.v4.f32 	{%f1, %f2, %f3, %f4}, [%rd1];
	st.global.f32 	[%rd2], %f1;
	st.global.f32 	[%rd2+4], %f2;
	st.shared.v4.f32 	[%r1], {%f1, %f2, %f3, %f4};
}
.entry _Z4wideP6__half(
	.param .u64 _Z4wideP6__half_param_0
)
{
	st.global.wb.v2.u32 	[%rd2], {%r1, %r2};
	st.global.u16 	[%rd2], %rs1;
}
"""


def test_accesses_are_counted_by_their_bytes(accesses):
    found = accesses.parsed(PTX)
    assert found["_Z5splitPf"] == accesses.Accesses({16: 1}, {4: 2})
    assert found["_Z4wideP6__half"] == accesses.Accesses({}, {8: 1, 2: 1})
    gates = {f"gate_points<{kind}>": a for kind, a in zip("ab", found.values(), strict=True)}
    assert accesses.split("gate.cu", gates) == ["gate_points<a>"]


@pytest.mark.parametrize("source", ["gate.cu", "pointwise.cu", "transform/transform_synthesis.cu"])
def test_wide_stores_stay_wide(accesses, source):
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc")
    if not nvcc or not accesses.SOURCES.exists():
        pytest.skip("needs nvcc and csrc")
    path = accesses.SOURCES / source
    found = accesses.of_source(nvcc, path)
    assert {k.partition("<")[0] for k in found} >= set(accesses.STORES_WIDE[path.name])
    assert accesses.split(path.name, found) == []
