"""`python -m fastseg`: the same as the `fastseg` command."""

import os
import sys
from contextlib import suppress

from fastseg.cli import main


def run() -> int:
    """`main` for a process of its own, which a failure or a signal ends at once.

    To take down an interpreter that holds torch takes seconds, for which whoever sent the signal
    may not wait; where there was no memory, it may never end.
    """
    if code := main():
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(run())
