"""The words of `fastseg bench`."""

import argparse
import os

# glibc returns large blocks to the system and pays page faults for them at every call, unless told
# to keep them
HEAPS = {
    "warm": {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184"},
    "default": {},
}
DTYPES = ("float32", "float64", "bfloat16", "float16")


def parse(argv=None) -> argparse.Namespace:
    """Read the command line; budgets and limits of a GPU are filled in.

    Args:
        argv: the words, those of the process by default.
    """
    parser = argparse.ArgumentParser(
        prog="fastseg bench",
        description="Time the kernels beside their rivals, after checking every result.",
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="conv2d-240, gaussian3d, … (all)")
    parser.add_argument("--case", nargs="+", default=[], metavar="CASE", help="the same")
    parser.add_argument("--only", metavar="FAMILY", help="the cases of one operator")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one image, few channels, few rounds: to try it, not to quote",
    )
    parser.add_argument(
        "--out", metavar="FILE", help="write a JSON record, and a .md and a .png beside it"
    )
    parser.add_argument(
        "--threads", type=_positive, default=_cores(), help="(%(default)s, every core)"
    )
    parser.add_argument(
        "--heap",
        choices=(*HEAPS, "both"),
        default="both",
        help="the allocator's setting (%(default)s)",
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="(%(default)s)")
    parser.add_argument(
        "--budget",
        type=float,
        metavar="SECONDS",
        help="for every pass of a case (10; 0.5 with --gpu)",
    )
    parser.add_argument(
        "--limit",
        type=float,
        metavar="MINUTES",
        help="no new case is begun after it (none; 8 with --gpu)",
    )
    parser.add_argument(
        "--rounds", type=_positive, default=5, help="of every pass, at least (%(default)s)"
    )
    parser.add_argument(
        "--compile", action="store_true", help="add torch.compile of the rivals and the reference"
    )
    parser.add_argument(
        "--without", nargs="+", default=[], metavar="PROVIDER", help="leave out triton, classic, …"
    )
    parser.add_argument("--gpu", action="store_true", help="on the CUDA device")
    parser.add_argument(
        "--tf32", action="store_true", help="let torch.matmul round float32 to TF32 there"
    )
    parser.add_argument(
        "--case-limit", type=float, metavar="SECONDS", help="for a case (none; 90 with --gpu)"
    )
    arguments = parser.parse_args(argv)
    arguments.cases += vars(arguments).pop("case")
    if arguments.budget is None:
        arguments.budget = 0.5 if arguments.gpu else 10.0
    if arguments.limit is None and arguments.gpu:
        arguments.limit = 8.0
    if arguments.case_limit is None and arguments.gpu:
        arguments.case_limit = 90.0
    return arguments


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}, wanted a positive number")
    return int(text)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
