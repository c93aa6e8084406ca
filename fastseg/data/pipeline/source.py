"""Decode cases by id; a bad one is named, set aside and replaced before any batch sees it."""

import errno
import logging
import threading
import time
from itertools import chain

from fastseg.data.pipeline.cache import fingerprint, open_cache
from fastseg.data.pipeline.decode import Brain, Buffers, crop_to_brain, locate, read_case
from fastseg.errors import DataError, FastsegError, UsageError

log = logging.getLogger(__name__)
RETRY_PAUSES_S = (0.1, 0.5, 2.0)
_PASSING_ERRORS = {
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.EMFILE, errno.ENFILE
}  # fmt: skip


class CaseSource:
    """Decode the brain boxes of cases when asked for; safe to call from several threads.

    `quarantined` maps the id of each bad case met so far to the reason.

    Args:
        dataset: a `cases.Dataset`.
        ids: the cases of it to use.
        config: a `LoaderConfig`.

    Raises:
        UsageError: no ids, or unknown ones.
        DataError: cases without a label where `foreground_fraction` wants one.

    >>> from fastseg.data import phantom
    >>> from fastseg.data.cases import discover
    >>> from fastseg.data.pipeline import LoaderConfig
    >>> dataset = discover(phantom.write("phantoms", cases=2, size=(24, 24, 24)))
    >>> _ = dataset.cases[0].images["t1"].write_bytes(b"no volume")
    >>> source = CaseSource(dataset, ["Phantom00000", "Phantom00001"], LoaderConfig((16, 16)))
    >>> source.get(0)[0], list(source.quarantined)
    ('Phantom00001', ['Phantom00000'])
    """

    def __init__(self, dataset, ids, config):
        known = {case.id: case for case in dataset.cases}
        unknown = sorted(set(ids) - known.keys())
        if unknown:
            raise UsageError(f"case_ids: not in {dataset.root}: {', '.join(unknown[:5])}")
        if not known.keys() & set(ids):
            raise UsageError("case_ids is empty; wanted at least one case")
        self.cases = [known[name] for name in sorted(set(ids))]
        unlabelled = [case.id for case in self.cases if case.label is None]
        if unlabelled and config.foreground_fraction is not None:
            raise DataError(
                f"{dataset.root}: training needs labels; {len(unlabelled)} of {len(self.cases)} "
                f"cases have none: {', '.join(unlabelled[:5])}. Leave them out, or set "
                "data.foreground_fraction=null where the task uses no labels"
            )
        self.quarantined: dict[str, str] = {}
        self._blank: set[str] | None = set()  # labels without foreground, while there is no other
        self._dataset, self._config = dataset, config
        self._buffers, self._located = Buffers(), {}
        self._locks = {case.id: threading.Lock() for case in self.cases}
        self._cache = open_cache(config.cache, config.cache_dir, dataset, config.rule.located_by)

    def get(self, index: int) -> tuple[str, Brain]:
        """Return id and brain box of case `index` or, if it is bad, of the next good one by id.

        The box is valid until this thread's next call: it may lie in the thread's buffers.

        Raises:
            DataError: more than `max_bad` of the cases (at least one is allowed) or all are bad.
            FastsegError: naming the case, where something unforeseen happened.
        """
        for case in chain(self.cases[index:], self.cases[:index]):
            # One thread at a time decodes a case, so that it is cached, or set aside, only once.
            # A lock a case, not one for all: threads that want different cases do not wait.
            with self._locks[case.id]:
                brain = self._try(case)
            if brain is not None:
                return case.id, brain
        raise DataError(f"{self._dataset.root}: no usable case is left\n{self._listing()}")

    def check_allowance(self) -> None:
        """Raise DataError listing the bad cases when there are more than `max_bad` allows."""
        allowed = max(1, int(self._config.max_bad * len(self.cases)))
        if len(self.quarantined) > allowed:
            raise DataError(
                f"{self._dataset.root}: {len(self.quarantined)} bad cases, {allowed} allowed "
                f"(data.max_bad={self._config.max_bad:g} of {len(self.cases)}); mend their files "
                f"or allow more:\n{self._listing()}"
            )

    def _listing(self) -> str:
        return "\n".join(f"  {name}: {why}" for name, why in sorted(self.quarantined.items()))

    def _try(self, case) -> Brain | None:
        self.check_allowance()
        if case.id in self.quarantined:
            return None
        try:
            brain = self._brain(case)
            self._look_for_foreground(case, brain)
            return brain
        except DataError as error:
            self.quarantined[case.id] = str(error)
            log.warning("case %s set aside: %s", case.id, error)
            return None
        except Exception as error:
            kind = type(error).__name__
            raise FastsegError(f"case {case.id}: {kind}: {error}") from error

    def _look_for_foreground(self, case, brain: Brain) -> None:
        """Say once, when all cases were seen, that none has anything to learn to segment."""
        blank = self._blank
        if blank is None or case.label is None or self._config.foreground_fraction is None:
            return
        if brain.label.any():
            self._blank = None
            return
        blank.add(case.id)
        if len(blank) >= len(self.cases) - len(self.quarantined):
            self._blank = None
            log.warning("%s: the labels of all %d cases hold background alone; there is nothing "
                        "to learn to segment", self._dataset.root, len(blank))  # fmt: skip

    def _brain(self, case) -> Brain:
        brain = self._cache.get(case)
        if brain is not None:
            return brain
        raw = _retry(read_case, case, self._dataset.modalities, self._buffers)
        # Box and statistics cost as much as a third of the decoding and depend on the files alone.
        mark = fingerprint(case)
        if self._located.get(case.id, (None,))[0] != mark:
            self._located[case.id] = mark, locate(raw, case, self._config.rule)
        brain = crop_to_brain(raw, case, self._dataset.scheme, self._located[case.id][1])
        return self._cache.put(case, brain)


def _retry(call, *args):
    # Network file systems fail for a moment; a damaged file fails with another error and at once.
    for pause in RETRY_PAUSES_S:
        try:
            return call(*args)
        except DataError as error:
            if getattr(error.__cause__, "errno", None) not in _PASSING_ERRORS:
                raise
        time.sleep(pause)
    return call(*args)
