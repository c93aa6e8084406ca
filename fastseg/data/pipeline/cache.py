"""Keep decoded cases: in memory, or on disk as .npy files that later runs find again."""

import hashlib
import json
import logging
import os
import threading
from pathlib import Path

import numpy as np

from fastseg.data.pipeline.decode import Brain
from fastseg.data.pipeline.intensity import PERCENTILES
from fastseg.errors import UsageError
from fastseg.host.files import write_bytes, written_whole
from fastseg.host.memory import meminfo

try:
    from deflate import crc32
except ImportError:
    from zlib import crc32

log = logging.getLogger(__name__)
_FORMAT = 1
_FREE_MEMORY_SHARE = 0.1


def open_cache(mode: str, folder, dataset, located_by=PERCENTILES):
    """Open the cache that `LoaderConfig.cache` names.

    Args:
        mode: "none", "ram" or "disk".
        folder: of a disk cache, `LoaderConfig.cache_dir`.
        dataset: the `cases.Dataset` of the cases.
        located_by: `Rule.located_by`: what boxes and statistics depend on besides the files.

    Returns:
        an object with `get(case)`, the `Brain` kept or None, and `put(case, brain)`, which returns
        the `Brain` to use from then on. Both are safe to call from several threads.

    Raises:
        UsageError: `folder` cannot be made.

    >>> cache = open_cache("none", None, dataset=None)
    >>> cache.put("case", "brain"), cache.get("case")
    ('brain', None)
    """
    if mode == "disk":
        return DiskCache(folder, dataset, located_by)
    return RamCache() if mode == "ram" else NoCache()


class NoCache:
    """Keep nothing."""

    def get(self, case) -> None:
        """Return None: nothing is kept."""
        return None

    def put(self, case, brain: Brain) -> Brain:
        """Return `brain` as it is."""
        return brain


class RamCache:
    """Keep brain boxes in memory until only a tenth of the machine's memory is free."""

    def __init__(self):
        self._held: dict[str, Brain] = {}
        self._full, self._lock = False, threading.Lock()

    def get(self, case) -> Brain | None:
        """Return the kept box of a case, or None."""
        return self._held.get(case.id)

    def put(self, case, brain: Brain) -> Brain:
        """Keep a copy of the box: the arrays passed in may be overwritten afterwards."""
        with self._lock:
            # The lock is for the warning, which is to come once; a dict is safe without.
            if not self._full and memory_is_short():
                self._full = True
                log.warning("memory is short: %d cases stay cached, no more join", len(self._held))
        if self._full:
            return brain
        kept = Brain(np.stack(brain.images), brain.label, brain.origin, brain.shape, brain.stats)
        self._held[case.id] = kept
        return kept


def memory_is_short() -> bool:
    """Tell whether less than a tenth of the machine's memory is available; False if unknown."""
    found = meminfo()
    return bool(found) and found["MemAvailable"] < _FREE_MEMORY_SHARE * found["MemTotal"]


class DiskCache:
    """Keep brain boxes as C-order .npy files, named after path, size and time of the source files.

    An entry is KEY.image.npy, KEY.label.npy and, written last, KEY.json with box, statistics and
    checksums: a run that is killed leaves arrays without a description, which nothing reads. An
    entry is checked once when first used; a damaged one is rebuilt. When the disk cannot be written
    the run goes on without further entries. Processes may share a folder: each writes whole files,
    and equal ones.
    """

    def __init__(self, folder, dataset, located_by=PERCENTILES):
        self._folder = Path(folder)
        self._identity = [_FORMAT, list(dataset.modalities), dataset.scheme.to_dict()]
        if located_by != PERCENTILES:  # which entries written before there were others have
            self._identity.append(list(located_by))
        self._held: dict[str, Brain] = {}
        self._writable, self._lock = True, threading.Lock()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cache_dir {folder}: {error.strerror}") from None

    def get(self, case) -> Brain | None:
        """Return the box of a case, memory-mapped, or None when there is no sound entry."""
        if case.id in self._held:
            return self._held[case.id]
        try:
            stem = self._stem(case)
        except OSError:
            return None  # Reading will fail too, and name the file.
        if not stem.with_suffix(".json").exists():
            return None
        try:
            self._held[case.id] = _load_entry(stem)
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("cache entry %s of case %s is damaged (%s): rebuilt", stem, case.id, error)
            return None
        return self._held[case.id]

    def put(self, case, brain: Brain) -> Brain:
        """Write the box of a case; `brain` itself stays in use until the next `get`."""
        if self._writable:
            try:
                _save_entry(self._stem(case), brain)
            except OSError as error:
                with self._lock:
                    first, self._writable = self._writable, False
                if first:
                    log.warning("cache_dir %s: %s; going on without", self._folder, error.strerror)
        return brain

    def _stem(self, case) -> Path:
        text = json.dumps([self._identity, fingerprint(case)], sort_keys=True)
        return self._folder / hashlib.sha256(text.encode()).hexdigest()[:32]


def fingerprint(case) -> tuple:
    """Return path, size and time of change of every file of a case: equal until one changes.

    Raises OSError where a file is not there.

    >>> from fastseg.data import phantom
    >>> from fastseg.data.cases import discover
    >>> [case] = discover(phantom.write("phantoms", cases=1, size=(24, 24, 24))).cases
    >>> before = fingerprint(case)
    >>> _ = case.label.write_bytes(b"something else")
    >>> fingerprint(case) == before
    False
    """
    files = [path for _, path in sorted(case.images.items())] + [case.label]
    facts = [(str(path), os.stat(path)) for path in files if path is not None]
    return tuple((path, fact.st_size, fact.st_mtime_ns) for path, fact in facts)


def _load_entry(stem: Path) -> Brain:
    checksum, body = stem.with_suffix(".json").read_text().split("\n")
    if f"{crc32(body.encode()):08x}" != checksum:
        raise ValueError("checksum of the description differs")
    meta = json.loads(body)
    arrays = {}
    for part in ("image", "label"):
        array = np.load(f"{stem}.{part}.npy", mmap_mode="r")
        if crc32(array) != meta["crc32"][part]:
            raise ValueError(f"checksum of the {part} differs")
        arrays[part] = array
    box = tuple(meta["origin"]), tuple(meta["shape"])
    return Brain(arrays["image"], arrays["label"], *box, np.array(meta["stats"], np.float32))


def _save_entry(stem: Path, brain: Brain) -> None:
    arrays = {"image": np.stack(brain.images), "label": np.ascontiguousarray(brain.label)}
    meta = {
        "crc32": {part: crc32(array) for part, array in arrays.items()},
        "origin": brain.origin,
        "shape": brain.shape,
        "stats": brain.stats.tolist(),
    }
    for part, array in arrays.items():
        with written_whole(Path(f"{stem}.{part}.npy")) as path, path.open("wb") as file:
            np.save(file, array)
    body = json.dumps(meta).encode()
    text = b"%08x\n%s" % (crc32(body), body)
    write_bytes(stem.with_suffix(".json"), text)
