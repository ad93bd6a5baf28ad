"""What was asked to be forgotten: what the stream passes over since then, and how many rows the tables lack for it.

`state/erasures.json` names nobody: a person, a key or a photo stands in it as a keyed hash. It is kept for as long as
a message of S3 can come late, because without it such a message would bring the name of a photo back as a reject.
`state/erased_rows.json` counts rows by day and batch, so that nobody takes them for lost.
"""

import hashlib
import unicodedata
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Literal

from deltalake import DeltaTable
from pydantic import TypeAdapter, ValidationError

from store.errors import HomeInUse, StateDamaged
from store.home import Home
from store.objects.landing import LandedObject, key_groups
from store.objects.location import StorageLocation, to_nfc
from store.objects.operations import change, read_if_exists

Kind = Literal["subject", "source", "image"]

# SQS keeps a message for 14 days at most.
PASSED_OVER_FOR = timedelta(days=14)

_KEY = "erasures.json"
_ROWS_KEY = "erased_rows.json"


@dataclass(frozen=True)
class Erasure:
    """One request: what arrived `before` and matches is passed over; `digests` are keyed hashes.

    The first digest is that of what was asked for; those of an image are followed by the versions of objects that hold
    it. `key_patterns` are those by which a key tells its subject.
    """

    id: str
    kind: Kind
    digests: tuple[str, ...]
    before: datetime
    key_patterns: tuple[str, ...] = ()
    finished_at: datetime | None = None


@dataclass(frozen=True)
class Erasures:
    """All requests that are still remembered, and how many there ever were; `salt` is the key of the hashes."""

    salt: str
    begun: int = 0
    erasures: tuple[Erasure, ...] = ()

    @property
    def unfinished(self) -> tuple[Erasure, ...]:
        return tuple(erasure for erasure in self.erasures if erasure.finished_at is None)


NONE = Erasures("")


@dataclass(frozen=True)
class ErasedRows:
    """Rows that erasures removed, by table, day and batch.

    `pending` counts once the table carries the transaction with its number, which brings the removal itself.
    """

    rows: Mapping[str, Mapping[date, Mapping[int, int]]] = field(default_factory=dict)
    pending: "Pending | None" = None


@dataclass(frozen=True)
class Pending:
    """What a transaction, known by its application and number, removes from a table."""

    table: str
    application: str
    number: int
    rows: Mapping[date, Mapping[int, int]]


class PassedOver:
    """Which landed objects are to be forgotten."""

    def __init__(self, erasures: Erasures) -> None:
        self._salt = erasures.salt
        self._before: dict[str, datetime] = {}
        self._key_patterns: set[str] = set()
        for erasure in erasures.erasures:
            self._key_patterns.update(erasure.key_patterns)
            for digest in erasure.digests:
                self._before[digest] = max(erasure.before, self._before.get(digest, erasure.before))

    def covers(self, landing: StorageLocation, landed: LandedObject) -> bool:
        """Whether this object was there when it was asked to be forgotten."""
        return bool(self._before) and any(
            _came_at(landing, landed) < self._before[digest]
            for digest in self._digests(landing, landed)
            if digest in self._before
        )

    def covers_version(self, source: str, etag: str, before: datetime) -> bool:
        """Whether a request of that moment or a later one named this version of an object."""
        named = self._before.get(digest_of(self._salt, "version", source, etag)) if self._before else None
        return named is not None and named >= before

    def _digests(self, landing: StorageLocation, landed: LandedObject) -> Iterable[str]:
        source = landing.source_of(landed.key)
        yield digest_of(self._salt, "version", source, landed.etag)
        # Whoever asks may name an object by its key, too.
        named = {("source", source), ("source", landed.key)}
        for pattern in self._key_patterns:
            named.update(("subject", subject) for subject in key_groups(pattern, landed.key, "subject"))
        for kind, text in named:
            yield from _digests_of(self._salt, kind, text)


def _came_at(landing: StorageLocation, landed: LandedObject) -> datetime:
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
    """That of a request for a text first, and those that requests of former releases have: they took it as it was."""
    forms = (to_nfc(text), text, unicodedata.normalize("NFD", text))
    return tuple(digest_of(salt, kind, form) for form in dict.fromkeys(forms))


def read_erasures(home: Home) -> Erasures:
    """What is remembered of erasures. Raises StateDamaged, StorageRefused, StorageUnavailable."""
    return _parsed(home, read_if_exists(home.state, _KEY))


def passed_over(home: Home) -> PassedOver:
    """What the stream is to pass over at this moment. Raises as `read_erasures`."""
    return PassedOver(read_erasures(home))


def begin_erasure(home: Home, kind: Kind, value: str, key_patterns: Iterable[str], now: datetime) -> Erasure:
    """Remember a request, from which on the stream plans nothing that it covers.

    A request for the same, in whichever form its accents are written, that was not finished is taken up again, with its
    own time. Raises as `read_erasures`.
    """
    fresh = uuid.uuid4().hex

    def edited(body: bytes | None) -> bytes:
        known = _parsed(home, body)
        salt = known.salt or uuid.uuid4().hex
        digests = _digests_of(salt, kind, value)
        if any(_is_the_same(standing, kind, digests) for standing in known.unfinished):
            return body or b""
        erasure = Erasure(fresh, kind, digests[:1], now, tuple(sorted(set(key_patterns))))
        return _ERASURES.dump_json(
            Erasures(salt, known.begun + 1, (*_still_needed(known.erasures, now), erasure)), indent=1
        )

    standing = _parsed(home, change(home.state, _KEY, edited))
    digests = _digests_of(standing.salt, kind, value)
    return next(erasure for erasure in standing.unfinished if _is_the_same(erasure, kind, digests))


def pass_over_versions(home: Home, id: str, versions: Iterable[tuple[str, str]]) -> None:
    """Add versions of objects (source, etag) to what a request covers. Replay changes nothing."""
    wanted = sorted(versions)

    def edited(known: Erasures, erasure: Erasure) -> Erasure:
        digests = [digest_of(known.salt, "version", *version) for version in wanted]
        return replace(erasure, digests=tuple(dict.fromkeys([*erasure.digests, *digests])))

    _change(home, id, edited)


def finish_erasure(home: Home, id: str, now: datetime) -> None:
    """Remember that everything a request covers is gone. Replay changes nothing."""
    _change(home, id, lambda _, erasure: replace(erasure, finished_at=erasure.finished_at or now))


def forget_old_erasures(home: Home, now: datetime) -> None:
    """Forget requests that no message can undo any more. Replay changes nothing."""

    def edited(body: bytes | None) -> bytes:
        known = _parsed(home, body)
        return _ERASURES.dump_json(replace(known, erasures=_still_needed(known.erasures, now)), indent=1)

    if read_erasures(home).erasures:
        change(home.state, _KEY, edited)


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


def erased_rows(home: Home, handles: Mapping[str, DeltaTable | None]) -> Mapping[str, Mapping[date, Mapping[int, int]]]:
    """How many rows erasures removed from the tables, as these handles know them: by table, day and batch."""
    known = _rows(home, read_if_exists(home.state, _ROWS_KEY))
    return _settled(known, handles.get(known.pending.table) if known.pending else None).rows


def about_to_erase(home: Home, pending: Pending) -> None:
    """Write down what the next transaction removes; for whoever holds the lease, when nothing else is pending.

    A kill afterwards counts nothing twice and forgets nothing. Replay changes nothing.
    """

    def edited(body: bytes | None) -> bytes:
        known = _rows(home, body)
        if known.pending not in (None, pending):
            raise HomeInUse("Another erasure changes the tables; run this again.")
        return _ERASED_ROWS.dump_json(replace(known, pending=pending), indent=1)

    change(home.state, _ROWS_KEY, edited)


def settle_erased_rows(home: Home, handles: Mapping[str, DeltaTable | None]) -> None:
    """Count what is pending if its transaction came about, else forget it; before anyone else changes the tables."""
    standing = read_if_exists(home.state, _ROWS_KEY)
    if standing is None or _rows(home, standing).pending is None:
        return

    def edited(body: bytes | None) -> bytes:
        known = _rows(home, body)
        handle = handles.get(known.pending.table) if known.pending else None
        return _ERASED_ROWS.dump_json(_settled(known, handle), indent=1)

    change(home.state, _ROWS_KEY, edited)


def _settled(known: ErasedRows, handle: DeltaTable | None) -> ErasedRows:
    pending = known.pending
    if pending is None:
        return known
    came_about = handle is not None and (handle.transaction_version(pending.application) or 0) >= pending.number
    if not came_about:
        return replace(known, pending=None)
    rows = {table: {day: dict(batches) for day, batches in days.items()} for table, days in known.rows.items()}
    days = rows.setdefault(pending.table, {})
    for day, batches in pending.rows.items():
        of_day = days.setdefault(day, {})
        for batch, count in batches.items():
            of_day[batch] = of_day.get(batch, 0) + count
    return ErasedRows(rows)


def _is_the_same(erasure: Erasure, kind: Kind, digests: Collection[str]) -> bool:
    return erasure.kind == kind and erasure.digests[0] in digests


def _still_needed(erasures: Iterable[Erasure], now: datetime) -> tuple[Erasure, ...]:
    return tuple(one for one in erasures if one.finished_at is None or now - one.finished_at < PASSED_OVER_FOR)


def _change(home: Home, id: str, edit: Callable[[Erasures, Erasure], Erasure]) -> None:
    def edited(body: bytes | None) -> bytes:
        known = _parsed(home, body)
        changed = tuple(edit(known, one) if one.id == id else one for one in known.erasures)
        return _ERASURES.dump_json(replace(known, erasures=changed), indent=1)

    change(home.state, _KEY, edited)


def _parsed(home: Home, body: bytes | None) -> Erasures:
    try:
        return NONE if body is None else _ERASURES.validate_json(body)
    except ValidationError as error:
        raise StateDamaged(f"{home.state.uri_of(_KEY)} cannot be read; restore it.") from error


def _rows(home: Home, body: bytes | None) -> ErasedRows:
    try:
        return ErasedRows() if body is None else _ERASED_ROWS.validate_json(body)
    except ValidationError as error:
        raise StateDamaged(f"{home.state.uri_of(_ROWS_KEY)} cannot be read; restore it.") from error


_ERASURES = TypeAdapter(Erasures)
_ERASED_ROWS = TypeAdapter(ErasedRows)
