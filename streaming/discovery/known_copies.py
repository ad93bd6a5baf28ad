"""Which photos of earlier batches have their copy, for who deletes originals."""

import time
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pyarrow.compute as pc

from store.home import Home
from store.objects.faults import Fault, retry_storage
from store.objects.landing import LandedObject
from store.tables.handles import open_table
from store.tables.schemas import COPY_ROWS
from streaming.discovery.processed_index import ProcessedEntry, identity, identity_of

# Pages of a listing name photos of the same batches again and again, and each batch has files of its own.
BELIEVED_FOR_S = 3600.0
MOST_KNOWN = 500_000


@dataclass(frozen=True)
class _Batch:
    identities: frozenset[bytes]
    read_s: float


class KnownCopies:
    """What the table of copies holds of the batches that were asked for; it is believed for an hour.

    The files of a batch are found by the log's statistics, so no other file is opened. Not for several threads.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._batches: OrderedDict[int, _Batch] = OrderedDict()
        self._known = 0

    def among(self, landed: Sequence[tuple[LandedObject, ProcessedEntry]]) -> list[LandedObject]:
        """Those of the landing's objects whose batch holds their copy.

        A file that an erasure or a retention takes away meanwhile is looked for again in the table as it is then.
        Raises StorageRefused, StorageUnavailable, also when a file of the table is lost.
        """
        oldest_s = time.monotonic() - BELIEVED_FOR_S
        asked = {entry.batch for _, entry in landed}
        known = {batch: self._batches[batch] for batch in asked if batch in self._batches}
        copied = {batch: each.identities for batch, each in known.items() if each.read_s >= oldest_s}
        copied |= self._read(asked - copied.keys())
        landing = self._home.landing
        return [each for each, entry in landed if identity(landing, each) in copied[entry.batch]]

    def _read(self, batches: Collection[int]) -> dict[int, frozenset[bytes]]:
        if not batches:
            return {}
        read_s, again = time.monotonic(), (Fault.TRANSIENT, Fault.MISSING)
        found = retry_storage(f"read {self._home.copies.uri}", lambda: _copies_of(self._home, batches), again)
        for batch, identities in found.items():
            self._forget(batch)
            self._batches[batch] = _Batch(identities, read_s)
            self._known += len(identities)
        while self._known > MOST_KNOWN and len(self._batches) > 1:
            self._forget(next(iter(self._batches)))
        return found

    def _forget(self, batch: int) -> None:
        if (old := self._batches.pop(batch, None)) is not None:
            self._known -= len(old.identities)


def _copies_of(home: Home, batches: Collection[int]) -> dict[int, frozenset[bytes]]:
    found: dict[int, set[bytes]] = {batch: set() for batch in batches}
    handle = open_table(home, COPY_ROWS)
    if handle is not None:
        of_these = pc.field("batch").isin(sorted(batches))
        scanner = handle.to_pyarrow_dataset().scanner(["batch", "source", "etag"], filter=of_these)
        for rows in scanner.to_batches():
            for batch, source, etag in zip(*(rows[name].to_pylist() for name in rows.schema.names), strict=True):
                found[batch].add(identity_of(source, etag))
    return {batch: frozenset(identities) for batch, identities in found.items()}
