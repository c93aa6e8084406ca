"""Try what nobody would write down as a test: damaged files, kills, hostile names, odd tensors.

    python tests/campaign                                # every part, five minutes in all
    python tests/campaign --only kills --minutes 30      # one of them
    python tests/campaign --only nifti --seed 7 --first 132 --rounds 1       # one round again

A part is rounds, each a function of (seed, part, number) alone. What a failed round worked on is
kept, and the line that fails says how to run it again. Exit code 1 when any has failed.
"""

import argparse
import os
import sys
from pathlib import Path

# children are forked: threads of OpenMP would not be in them
os.environ.setdefault("OMP_NUM_THREADS", "1")
# this folder's neighbours, not the checkout's package: the campaign is for what is installed
sys.path[0] = str(Path(__file__).resolve().parents[1])

from campaign.runner import PARTS, run  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="campaign", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5, help="of all parts (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="other rounds (%(default)s)")
    parser.add_argument(
        "--only", action="append", choices=PARTS, metavar="NAME",
        help=f"one part; may be given again: {', '.join(PARTS)}",
    )  # fmt: skip
    parser.add_argument("--first", type=int, default=0, help="number of each part's first round")
    parser.add_argument("--rounds", type=int, help="at most so many rounds of each part")
    parser.add_argument("--keep", type=Path, default=Path("campaign-failures"), metavar="FOLDER",
                        help="for what failed rounds worked on (%(default)s)")  # fmt: skip
    given = parser.parse_args()
    names = given.only or [name for name in PARTS if name != "sanitized"]
    results = run(names, 60 * given.minutes, given.seed, given.keep, given.first, given.rounds)
    return int(any(result.failures for result in results))


if __name__ == "__main__":
    sys.exit(main())
