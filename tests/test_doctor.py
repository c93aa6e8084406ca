"""The doctor reports what is there, warns of what goes wrong together, and never fails."""

import pytest

from fastseg import doctor


def test_report_names_every_backend_and_exits_zero(capsys):
    assert doctor.doctor() == 0
    out = capsys.readouterr().out
    for name in ("reference", "matmul", "cpu", "cuda", "triton"):
        assert f"backend {name}" in out
    assert "inflate" in out
    assert "DALI" in out


@pytest.mark.parametrize(
    ("torch_version", "cuda", "capabilities", "dali", "expected"),
    [
        ("2.9.1", "12.8", [(8, 0)], "", ["conv3d"]),
        ("2.13.0", "13.0", [(7, 0)], "nvidia-dali-cuda130 2.4.0", ["sm_70", "sm_75", "Triton"]),
        ("2.13.0", "12.6", [(7, 0)], "nvidia-dali-cuda120 2.4.0", ["Triton"]),
        ("2.13.0", "13.0", [(9, 0)], "nvidia-dali-cuda130 2.4.0", []),
        ("2.13.0+cpu", None, [], "", []),
    ],
)
def test_known_bad_combinations_warn(torch_version, cuda, capabilities, dali, expected):
    found = doctor.warnings_for(torch_version, cuda, capabilities, dali)
    assert len(found) == len(expected)
    assert all(word in warning for word, warning in zip(expected, found, strict=True))


def test_report_says_what_serves_a_device():
    assert doctor.kernels_for((6, 1)).startswith("no CUDA kernels (built for ")
    assert "no Triton kernels" in doctor.kernels_for((7, 0))
    assert "; Triton kernels; torch.matmul" in doctor.kernels_for((8, 6))


def test_report_says_up_to_which_work_kernels_are_taken():
    said = doctor.bounds_for(0)
    assert "multiply-adds a sample" in said
    assert "(model: " in said or "(measured" in said
