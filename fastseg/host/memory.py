"""How much memory there is for this process: the machine's, a container's, or a limit's."""

import resource
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_LIMITS = (  # of a control group, as containers see their own: version 2, version 1
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


def meminfo() -> dict[str, int]:
    """Read the machine's memory in bytes, by the kernel's names; empty where it says nothing."""
    lines = [line.split() for line in _text(Path("/proc/meminfo")).splitlines()]
    return {words[0].rstrip(":"): int(words[1]) << 10 for words in lines if len(words) > 1}


def available_bytes() -> int | None:
    """Tell how much more this process can take; None where nothing says so.

    >>> (available_bytes() or 1) > 0
    True
    """
    found = [meminfo().get("MemAvailable"), *map(_left_in_group, _LIMITS), _left_of_limit()]
    return min((max(0, left) for left in found if left is not None), default=None)


def _left_in_group(names: tuple[str, str, str]) -> int | None:
    limit, used, stat = (_text(_GROUPS / name).split() for name in names)
    if not (limit and limit[0].isdigit() and used):
        return None
    # what is kept of files goes when it is in the way
    facts = dict(zip(stat[::2], map(int, stat[1::2]), strict=False))
    cached = facts.get("active_file", 0) + facts.get("inactive_file", 0)
    return int(limit[0]) - int(used[0]) + cached


def _left_of_limit() -> int | None:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    pages = _text(Path("/proc/self/statm")).split()
    if limit == resource.RLIM_INFINITY or not pages:
        return None
    return limit - int(pages[0]) * resource.getpagesize()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
