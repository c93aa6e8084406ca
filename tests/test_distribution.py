"""The other `fastseg` of the package index is recognised in every order of installing."""

import importlib.metadata
import runpy
from pathlib import Path

import pytest

import fastseg_mri
from fastseg import doctor

THEIRS = "from .model.lraspp import MobileV3Large, MobileV3Small\n"


@pytest.fixture
def other(tmp_path):
    """A folder of packages where the other `fastseg` of the package index is installed."""
    site = tmp_path / "site"
    metadata = site / "fastseg-0.1.2.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: fastseg\nVersion: 0.1.2\n")
    return site


def test_another_fastseg_is_recognised(other, tmp_path, monkeypatch, capsys):
    start = tmp_path / "__init__.py"
    assert fastseg_mri.conflict() is None
    assert "not this package's" in fastseg_mri.conflict(tmp_path)
    monkeypatch.syspath_prepend(other)
    for text, word in (
        (THEIRS, "has replaced files"),
        ("_FROM_BACKENDS = ()", "shares its folder"),
    ):
        start.write_text(text)
        found = fastseg_mri.conflict(tmp_path)
        assert all(w in found for w in (word, "fastseg 0.1.2", "fastseg-mri", fastseg_mri.REPAIR))
    assert doctor.doctor() == 0
    assert fastseg_mri.REPAIR in capsys.readouterr().err


def test_the_command_says_so_where_the_package_does_not_import(other, capsys):
    for name, text in (
        ("fastseg", THEIRS),
        ("fastseg_mri", Path(fastseg_mri.__file__).read_text()),
    ):
        (other / name).mkdir()
        (other / name / "__init__.py").write_text(text)
    assert runpy.run_path(str(other / "fastseg_mri" / "__init__.py"))["main"]() == 1
    err = capsys.readouterr().err
    assert err.startswith("fastseg: ")
    assert fastseg_mri.REPAIR in err


def test_an_extension_that_does_not_import_names_the_other_fastseg(other, run_python):
    code = (
        "import sys; sys.modules['fastseg._C'] = None; sys.path.insert(0, '{}'); import fastseg; "
        "print(fastseg.backends()['cpu'].detail)"
    )
    for site, words in ((other, "fastseg 0.1.2 is not this package"), ("", "reinstall with")):
        assert words in run_python(code.format(site)).stdout


def test_nothing_is_bounded_upwards_and_rivals_are_apart():
    try:
        wanted = importlib.metadata.requires(fastseg_mri.NAME)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("runs from a checkout that is not installed")
    assert not [line for line in wanted if "<" in line.partition(";")[0]]
    rivals = [line for line in wanted if line.startswith(("neuraloperator", "kornia"))]
    assert len(rivals) == 2
    assert all("extra == 'bench'" in line.replace('"', "'") for line in rivals)
