"""Which photos of earlier batches have their copy, for who deletes originals."""

import time
from collections import OrderedDict
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from store.errors import StorageUnavailable
from store.home import Home
from store.objects.landing import LandedObject
from store.tables.files import data_files, read_file
from store.tables.handles import open_table
from store.tables.schemas import COPY_ROWS
from streaming.discovery.processed_index import ProcessedEntry, identity, identity_of

# Pages of a listing name photos of the same files again and again.
BELIEVED_FOR_S = 600.0
MOST_KNOWN = 500_000
_READ_AT_ONCE = 16
_ANY_BATCH = (0, 2**62)


class KnownCopies:
    """What the table of copies holds of the batches that were asked for; its list of files is believed for 10 minutes.

    Only files of these batches are opened: the log tells which they are. Not for several threads.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._paths: list[str] = []
        self._batches = np.empty((0, 2), np.int64)
        self._listed_s = float("-inf")
        self._read: OrderedDict[str, frozenset[bytes]] = OrderedDict()

    def among(self, landed: Sequence[tuple[LandedObject, ProcessedEntry]]) -> list[LandedObject]:
        """Those of the landing's objects that have a copy in the files of their batches.

        A file that an erasure or a retention takes away meanwhile is looked for again in the table as it is then.
        Raises StorageRefused, StorageUnavailable, also when a file of the table is lost, and StateDamaged.
        """
        if not landed:
            return []
        batches = {entry.batch for _, entry in landed}
        if time.monotonic() - self._listed_s > BELIEVED_FOR_S:
            self._list_files()
        try:
            copied = self._copied(batches)
        except StorageUnavailable:
            self._list_files()
            copied = self._copied(batches)
        return [each for each, _ in landed if identity(self._home.landing, each) in copied]

    def _list_files(self) -> None:
        listed_s, files = time.monotonic(), data_files(open_table(self._home, COPY_ROWS))
        self._paths = [file.path for file in files]
        self._batches = np.array([file.batches or _ANY_BATCH for file in files], np.int64).reshape(-1, 2)
        self._listed_s = listed_s

    def _copied(self, batches: Collection[int]) -> set[bytes]:
        paths = [self._paths[place] for place in _places_of(self._batches, batches)]
        new = [path for path in paths if path not in self._read]
        with ThreadPoolExecutor(_READ_AT_ONCE, thread_name_prefix="copies") as pool:
            self._read.update(zip(new, pool.map(self._identities_in, new), strict=True))
        for path in paths:
            self._read.move_to_end(path)
        copied = {one for path in paths for one in self._read[path]}
        known = sum(map(len, self._read.values()))
        while known > MOST_KNOWN:
            known -= len(self._read.popitem(last=False)[1])
        return copied

    def _identities_in(self, path: str) -> frozenset[bytes]:
        parts = read_file(self._home, COPY_ROWS, path, ["source", "etag"])
        columns = ((rows["source"].to_pylist(), rows["etag"].to_pylist()) for rows in parts)
        return frozenset(identity_of(*row) for sources, etags in columns for row in zip(sources, etags, strict=True))


def _places_of(of_files: NDArray[np.int64], batches: Collection[int]) -> list[int]:
    asked = np.sort(np.fromiter(batches, np.int64))
    lowest, highest = of_files[:, 0], of_files[:, 1]
    # A file has one of them if its lowest number and the one after its highest fall between different ones.
    has_some = np.searchsorted(asked, lowest, "left") < np.searchsorted(asked, highest, "right")
    return [int(place) for place in np.flatnonzero(has_some)]
