"""The `fastseg` command's entry, and who else writes into the folder of the package `fastseg`.

On the package index `fastseg` is another project's name, and its files too go to a folder
`fastseg`: installed second, they replace our `__init__.py`; uninstalled, they take it with them.
So this stands outside that folder.
"""

import importlib.metadata
import sys
from pathlib import Path

NAME = "fastseg-mri"
REPAIR = (
    f"pip uninstall -y fastseg; pip install --force-reinstall --no-deps {NAME} (or its checkout)"
)
PACKAGE = Path(__file__).parents[1] / "fastseg"


def whole(package: Path = PACKAGE) -> bool:
    """Tells whether the `__init__.py` in the folder of the package is ours."""
    start = package / "__init__.py"
    return start.is_file() and "_FROM_BACKENDS" in start.read_text(encoding="utf8")


def conflict(package: Path = PACKAGE) -> str | None:
    """Says in one line who else is in the folder of the package and how to mend it, or None."""
    try:
        other = importlib.metadata.version("fastseg")
    except importlib.metadata.PackageNotFoundError:
        if whole(package):
            return None
        found = "fastseg/__init__.py is not this package's, as after `pip uninstall fastseg`"
    else:
        found = f"the distribution fastseg {other} is not this package, {NAME}, " + (
            "and shares its folder" if whole(package) else "and has replaced files in its folder"
        )
    return f"{found}; to mend that: {REPAIR}"


def main() -> int:
    """Runs the `fastseg` command, or says why it cannot; returns the exit code."""
    if not whole():
        print(f"fastseg: {conflict()}", file=sys.stderr)
        return 1
    from fastseg.__main__ import run

    return run()
