"""Run neuraloperator's own tests with our layer in its place; see README.md beside this file.

python tests/peers/neuraloperator.py [PATH] [--theirs] [--out JSON] [-- PYTEST ARGUMENTS]
"""

import argparse
import importlib.util
import json
import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

LAYER = "neuralop.layers.spectral_convolution"
FILES = (
    "layers/tests/test_spectral_convolution.py", "layers/tests/test_fno_block.py",
    "models/tests/test_fno.py", "models/tests/test_uno.py", "models/tests/test_uqno.py",
    "models/tests/test_rno.py", "models/tests/test_fnogno.py", "models/tests/test_otno.py",
    "models/tests/test_local_no.py", "models/tests/test_codano.py", "models/tests/test_gino.py",
    "layers/tests/test_coda_layer.py", "layers/tests/test_local_no_block.py",
    "layers/tests/test_rno_block.py",
)  # fmt: skip


class Substitute:
    """A finder that puts our class where the peer's module defines its own, before anything else
    can import it from there.
    """

    def find_spec(self, name, path=None, target=None):
        if name != LAYER:
            return None
        spec = PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_module(module):
            from fastseg import nn

            execute(module)
            module.SpectralConv = nn.NeuralopSpectralConv

        spec.loader.exec_module = exec_module
        return spec


class Tally:
    """A plugin of pytest that counts outcomes, a test once."""

    def __init__(self):
        self.outcomes: dict[str, str] = {}

    def pytest_collectreport(self, report):
        if report.failed:
            self.outcomes[report.nodeid] = "not collected"

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or not report.passed:
            self.outcomes[report.nodeid] = report.outcome

    def counts(self) -> dict[str, int]:
        found = list(self.outcomes.values())
        return {outcome: found.count(outcome) for outcome in sorted(set(found))}


def package_of(path: Path | None) -> Path:
    """Return the folder of the peer's package, the installed one without a path, without importing
    it; a checkout is put before all else.
    """
    if path is not None:
        package = path / "neuralop"
        if not (package / "layers").is_dir():
            raise SystemExit(f"{path}: no package neuralop in it")
        sys.path.insert(0, str(path))
        return package
    spec = importlib.util.find_spec("neuralop")
    if spec is None:
        raise SystemExit("neuraloperator is not installed: give the path of a checkout")
    return Path(spec.origin).parent


def run(package: Path, theirs: bool, arguments: list[str]) -> Tally:
    """Run the tests of a package and return their outcomes.

    Args:
        package: the folder neuralop.
        theirs: with the peer's own layer, for comparison.
        arguments: further ones of pytest; names of test files replace ours.
    """
    if not theirs:
        sys.meta_path.insert(0, Substitute())
    tally = Tally()
    named = [str(package / word) for word in arguments if (package / word.split("::")[0]).exists()]
    others = [word for word in arguments if not (package / word.split("::")[0]).exists()]
    files = named or [str(package / name) for name in FILES if (package / name).exists()]
    fixed = ["-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(package.parent)]
    pytest.main([*fixed, "--tb=line", "-W", "ignore", *others, *files], plugins=[tally])
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", nargs="?", type=Path, help="a checkout; default: what is installed")
    parser.add_argument("--theirs", action="store_true", help="with the peer's own layer")
    parser.add_argument("--out", type=Path, help="write every outcome to this file as JSON")
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:cut])
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    tally = run(package_of(options.path), options.theirs, words[cut + 1 :])
    if options.out:
        options.out.write_text(json.dumps(tally.outcomes, indent=1))
    print(json.dumps(tally.counts()))
    return any(outcome in ("failed", "not collected") for outcome in tally.outcomes.values())


if __name__ == "__main__":
    raise SystemExit(main())
