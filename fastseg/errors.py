"""Errors a user can cause. The command line prints them as one line and exits with `exit_code`."""

import difflib
from collections.abc import Collection, Iterable
from pathlib import Path

_OFFERED = 6  # names


class FastsegError(Exception):
    """Base of every error that has an explanation instead of a traceback."""

    exit_code = 1


class FastsegWarning(UserWarning):
    """What is done differs from what was asked; the command line says it in one line."""


class UsageError(FastsegError, ValueError):
    """A wrong argument, option or configuration key."""

    exit_code = 2


class DataError(FastsegError):
    """A file or case that cannot be used as it is."""

    exit_code = 3


class NiftiError(DataError):
    """A NIfTI file that is damaged, unsupported or not NIfTI at all.

    `path` names the file, `reason` says what it was and what was wanted.
    """

    def __init__(self, path: str | Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = Path(path), reason

    def __reduce__(self):
        return type(self), (self.path, self.reason)


class CheckpointError(DataError):
    """A checkpoint that is damaged, incomplete or not one of ours."""


class NonFiniteError(FastsegError):
    """Training met too many non-finite steps in a row."""

    exit_code = 4


def no_memory(error: BaseException) -> bool:
    """Tell whether it is for want of memory, which torch says in words of a RuntimeError.

    >>> no_memory(MemoryError()), no_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    said = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc",
            "can't start new thread", "failed to map segment")  # fmt: skip
    return isinstance(error, MemoryError) or any(words in str(error) for words in said)


def offered(word: str, known: Collection[str]) -> str:
    """ "; it has …": the end of an error about `word`, what there is, the nearest first."""
    near = difflib.get_close_matches(word, known, n=_OFFERED, cutoff=0.5)
    names = [*near, *sorted(set(known) - set(near))]
    more = f" and {len(names) - _OFFERED} more" if len(names) > _OFFERED else ""
    return f"; it has {', '.join(names[:_OFFERED]) or 'none'}{more}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of an error: "; did you mean …?" with the nearest of `known`, or all of them.

    >>> did_you_mean("batch_size", ["lr", "data.batch_size"])
    '; did you mean data.batch_size?'
    """
    known, last = list(known), word.rpartition(".")[2]
    near = [key for key in known if key.rpartition(".")[2] == last]
    near = near or difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; it has {', '.join(sorted(known))}"
