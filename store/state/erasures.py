"""Erasures: which objects the stream skips because somebody asked to erase them, and how many rows were erased.

`state/erasures.json` names nobody: it holds keyed hashes of a person, a key or a photo. It is kept for as long as a
message of S3 can be late; without it such a message would bring the name of an erased photo back, as a reject.
`state/erased_rows.json` counts the erased rows by day and batch, so that nobody takes them for lost.
"""

import hashlib
import unicodedata
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Literal

from store.errors import HomeInUse
from store.home import Home
from store.objects.document import Document
from store.objects.landing import LandedObject, key_groups
from store.objects.location import StorageLocation, to_nfc
from store.tables.handles import TableHandles

Kind = Literal["subject", "source", "image", "labeller"]

# SQS keeps a message for 14 days at most.
ERASURES_KEPT = timedelta(days=14)


@dataclass(frozen=True)
class Erasure:
    """One request: the stream skips what arrived `before` and matches; `digests` are keyed hashes.

    The first digest is that of the request itself. The others are those of versions of objects, for example of all that
    hold a requested image. `key_patterns` are the patterns that find the subject in a key.
    """

    id: str
    kind: Kind
    digests: tuple[str, ...]
    before: datetime
    key_patterns: tuple[str, ...] = ()
    finished_at: datetime | None = None


@dataclass(frozen=True)
class Erasures:
    """All requests that are still kept, and how many there ever were; `salt` is the key of the hashes."""

    salt: str
    begun: int = 0
    erasures: tuple[Erasure, ...] = ()

    @property
    def unfinished(self) -> tuple[Erasure, ...]:
        return tuple(erasure for erasure in self.erasures if erasure.finished_at is None)

    @property
    def progress(self) -> tuple[int, int]:
        """How many requests began, and how many are unfinished: never the same again once one began or finished."""
        return self.begun, len(self.unfinished)


@dataclass(frozen=True)
class ErasedRows:
    """How many rows erasures removed, by table, day and batch; `pending` counts once the table has its transaction."""

    rows: Mapping[str, Mapping[date, Mapping[int, int]]] = field(default_factory=dict)
    pending: "Pending | None" = None


@dataclass(frozen=True)
class Pending:
    """What a transaction, known by its application and number, removes from a table."""

    table: str
    application: str
    number: int
    rows: Mapping[date, Mapping[int, int]]


_ERASURES = Document(Erasures, "erasures.json", remedy="restore it")
_ERASED_ROWS = Document(ErasedRows, "erased_rows.json", remedy="restore it")


class ErasureFilter:
    """Which landed objects the stream skips because they are to be erased."""

    def __init__(self, erasures: Erasures) -> None:
        self._salt = erasures.salt
        self._before: dict[str, datetime] = {}
        self._key_patterns: set[str] = set()
        for erasure in erasures.erasures:
            self._key_patterns.update(erasure.key_patterns)
            for digest in erasure.digests:
                self._before[digest] = max(erasure.before, self._before.get(digest, erasure.before))

    def covers(self, landing: StorageLocation, landed: LandedObject) -> bool:
        """Whether this object was in the landing when somebody asked to erase it."""
        return bool(self._before) and any(
            _first_visible_at(landing, landed) < self._before[digest]
            for digest in self._digests(landing, landed)
            if digest in self._before
        )

    def covers_version(self, source: str, etag: str, before: datetime) -> bool:
        """Whether a request of that moment or a later one names this version of an object."""
        requested_at = self._before.get(digest_of(self._salt, "version", source, etag)) if self._before else None
        return requested_at is not None and requested_at >= before

    def _digests(self, landing: StorageLocation, landed: LandedObject) -> Iterable[str]:
        source = landing.source_of(landed.key)
        yield digest_of(self._salt, "version", source, landed.etag)
        # A request can also name an object by its key.
        texts = {("source", source), ("source", landed.key)}
        for pattern in self._key_patterns:
            texts.update(("subject", subject) for subject in key_groups(pattern, landed.key, "subject"))
        for kind, text in texts:
            yield from _digests_of(self._salt, kind, text)


def _first_visible_at(landing: StorageLocation, landed: LandedObject) -> datetime:
    """When an object came to the landing: on disk a file that was moved or copied may be older than that."""
    if not landing.is_local:
        return landed.arrived_at
    try:
        return datetime.fromtimestamp((landing.directory / landed.key).stat().st_ctime, UTC)
    except OSError:
        return landed.arrived_at


def digest_of(salt: str, *words: str) -> str:
    """A keyed hash (BLAKE2b, RFC 7693) of some words, 32 hexadecimal digits."""
    text = "\0".join(words).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16, key=bytes.fromhex(salt)).hexdigest()


def _digests_of(salt: str, kind: str, text: str) -> tuple[str, ...]:
    """Today's digest of a text first, then those that requests of former releases have: they hashed it as written."""
    forms = (to_nfc(text), text, unicodedata.normalize("NFD", text))
    return tuple(digest_of(salt, kind, form) for form in dict.fromkeys(forms))


def read_erasures(home: Home) -> Erasures:
    """The requests that are kept. Raises StateDamaged, StorageRefused, StorageUnavailable."""
    return _ERASURES.read(home.state) or Erasures("")


def erasure_filter(home: Home) -> ErasureFilter:
    """What the stream is to skip at this moment. Raises as `read_erasures`."""
    return ErasureFilter(read_erasures(home))


def begin_erasure(home: Home, kind: Kind, value: str, key_patterns: Iterable[str], now: datetime) -> Erasure:
    """Write down a request; from then on the stream plans nothing that it covers. Raises as `read_erasures`.

    An unfinished request for the same, in whichever form its accents are written, is continued, with its own time.
    """
    fresh_salt, fresh_id = uuid.uuid4().hex, uuid.uuid4().hex

    def edit(known: Erasures | None) -> Erasures:
        known = known or Erasures("")
        salt = known.salt or fresh_salt
        digests = _digests_of(salt, kind, value)
        if _unfinished(known, kind, digests):
            return known
        erasure = Erasure(fresh_id, kind, digests[:1], now, tuple(sorted(set(key_patterns))))
        return Erasures(salt, known.begun + 1, (*_still_needed(known.erasures, now), erasure))

    stored = _ERASURES.change(home.state, edit)
    return _unfinished(stored, kind, _digests_of(stored.salt, kind, value))[0]


def add_erased_versions(home: Home, id: str, versions: Iterable[tuple[str, str]]) -> None:
    """Add versions of objects (source, etag) to what a request covers. Replay changes nothing."""
    versions = sorted(versions)

    def edit(known: Erasures, erasure: Erasure) -> Erasure:
        digests = [digest_of(known.salt, "version", *version) for version in versions]
        return replace(erasure, digests=tuple(dict.fromkeys([*erasure.digests, *digests])))

    _change(home, id, edit)


def finish_erasure(home: Home, id: str, now: datetime) -> None:
    """Write down that everything a request covers is deleted. Replay changes nothing."""
    _change(home, id, lambda _, erasure: replace(erasure, finished_at=erasure.finished_at or now))


def delete_old_erasures(home: Home, now: datetime) -> None:
    """Delete requests that no late message can undo any more. Replay changes nothing."""
    _ERASURES.change_existing(home.state, lambda known: replace(known, erasures=_still_needed(known.erasures, now)))


def check_no_erasure_unfinished(home: Home) -> int:
    """How many erasures there ever were. Raises HomeInUse while one is not finished."""
    known = read_erasures(home)
    if known.unfinished:
        began_at = min(erasure.before for erasure in known.unfinished)
        raise HomeInUse(
            f"The erasure that was asked for at {began_at:%Y-%m-%d %H:%M} UTC is not finished; "
            "if none is at work, run it again with the same option, and then this."
        )
    return known.begun


def check_no_erasure_started(home: Home, begun: int) -> None:
    """Raise HomeInUse when an erasure began since `begun` of them had: what was read before may hold its rows."""
    if read_erasures(home).begun != begun:
        raise HomeInUse("An erasure began meanwhile, so what was read may not be used any more; run this again.")


def erased_rows(home: Home, tables: TableHandles) -> Mapping[str, Mapping[date, Mapping[int, int]]]:
    """How many rows erasures removed from the tables, as these handles know them: by table, day and batch."""
    return _settled(_ERASED_ROWS.read(home.state) or ErasedRows(), tables).rows


def record_pending_erasure(home: Home, pending: Pending) -> None:
    """Write down what the next transaction removes; for the holder of the lease, when nothing else is pending.

    A kill afterwards counts nothing twice and loses no count. Replay changes nothing.
    """

    def edit(known: ErasedRows | None) -> ErasedRows:
        known = known or ErasedRows()
        if known.pending not in (None, pending):
            raise HomeInUse("Another erasure changes the tables; run this again.")
        return replace(known, pending=pending)

    _ERASED_ROWS.change(home.state, edit)


def settle_erased_rows(home: Home, tables: TableHandles) -> None:
    """Count what is pending if the table has its transaction, else drop it; before anyone else changes the tables."""
    _ERASED_ROWS.change_existing(home.state, lambda known: _settled(known, tables))


def _settled(known: ErasedRows, tables: TableHandles) -> ErasedRows:
    pending = known.pending
    if pending is None:
        return known
    handle = tables.handles.get(pending.table)
    if handle is None or (handle.transaction_version(pending.application) or 0) < pending.number:
        return replace(known, pending=None)
    days = dict(known.rows.get(pending.table, {}))
    for day, batches in pending.rows.items():
        counts = Counter(days.get(day, {}))
        counts.update(batches)
        days[day] = dict(counts)
    return ErasedRows({**known.rows, pending.table: days})


def _unfinished(known: Erasures, kind: Kind, digests: Collection[str]) -> list[Erasure]:
    return [erasure for erasure in known.unfinished if erasure.kind == kind and erasure.digests[0] in digests]


def _still_needed(erasures: Iterable[Erasure], now: datetime) -> tuple[Erasure, ...]:
    return tuple(one for one in erasures if one.finished_at is None or now - one.finished_at < ERASURES_KEPT)


def _change(home: Home, id: str, edit: Callable[[Erasures, Erasure], Erasure]) -> None:
    def edit_one(known: Erasures) -> Erasures:
        return replace(known, erasures=tuple(edit(known, one) if one.id == id else one for one in known.erasures))

    _ERASURES.change_existing(home.state, edit_one)
