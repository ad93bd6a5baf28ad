"""What is to be forgotten, as rows of the tables and as objects: by person, by object, or by photo."""

import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from store.home import Home
from store.objects.landing import LandedObject, archived_key, key_groups
from store.objects.location import StorageLocation, to_nfc
from store.objects.versions import Version
from store.state.erasures import ErasureFilter, Erasures, Kind
from store.state.plans import Plan
from store.tables.schemas import Table


@dataclass
class Selection:
    """What arrived `before` and matches; which versions of which objects hold a photo is learnt on the way.

    `value` is a subject, an image id, or a key below the landing or its whole URI. Its accents may be composed with
    their letters (NFC) or not: that tells systems apart, not people. `landings` are the places whose keys the tables
    hold; no link in them leads to `avoid`. `earlier` tells which objects a request covered before it was cut off.
    """

    kind: Kind
    value: str
    before: datetime
    key_patterns: tuple[str, ...]
    landings: tuple[StorageLocation, ...]
    earlier: ErasureFilter = field(default_factory=lambda: ErasureFilter(Erasures("")))
    versions: set[tuple[str, str]] = field(default_factory=set)
    sizes_bytes: set[int] = field(default_factory=set)
    avoid: tuple[StorageLocation, ...] = ()

    def columns_of(self, table: Table) -> list[str]:
        """The columns that `rows` needs of a table."""
        wanted = ("image_id", "subject", "source", "etag", "arrived_at", "batch", "bytes")
        return [name for name in wanted if name in table.file_schema.names]

    def rows(self, rows: pa.RecordBatch) -> pa.BooleanArray:
        """Which rows are to be forgotten."""
        return pc.and_(self._matches(rows), pc.less(rows["arrived_at"], self._before(rows)))

    def later(self, rows: pa.RecordBatch) -> pa.BooleanArray:
        """Which rows match, but came after the request."""
        return pc.and_(self._matches(rows), pc.greater_equal(rows["arrived_at"], self._before(rows)))

    def learn(self, rows: pa.RecordBatch) -> None:
        """Take in, from feature rows to be forgotten, which versions of objects go with them, and a photo's size.

        Of a subject's those whose keys do not tell so by today's key patterns.
        """
        if not {"image_id", "etag"} <= set(rows.schema.names):
            return
        pairs = zip(rows["source"].to_pylist(), rows["etag"].to_pylist(), strict=True)
        if self.kind == "image":
            self.versions.update(pairs)
            self.sizes_bytes.update(rows["bytes"].to_pylist())
        elif self.kind == "subject":
            told = {s for s in rows["source"].to_pylist() if any(self._is_theirs(key) for _, key in self._keys(s))}
            self.versions.update(pair for pair in pairs if pair[0] not in told)

    def strangers(self, sources: Iterable[str]) -> list[str]:
        """Those of some rows' sources that lie below no landing that is known."""
        return [source for source in sources if not any(self._keys(source))]

    def landed(self, landing: StorageLocation, version: Version) -> bool:
        """Whether a version of an object of a landing is to be forgotten."""
        return version.came_at < self.before and self._names(landing, version.key, version.landed.etag)

    def archived(self, version: Version, kept: Collection[tuple[str, str]]) -> bool:
        """The same of the archive. What came there later is new only if a row of it is kept."""
        key, etag = archived_key(version.key)
        if not any(self._names(landing, key, etag) for landing in self.landings):
            return False
        is_kept = any((landing.source_of(key), etag) in kept for landing in self.landings)
        return version.came_at < self.before or not is_kept

    def planned(self, landing: StorageLocation, landed: LandedObject) -> bool:
        """Whether an object of a plan is to be forgotten."""
        return landed.arrived_at < self.before and self._names(landing, landed.key, landed.etag)

    def texts(self) -> list[str]:
        """What no file may hold any more, composed or not."""
        texts = (self.value, *(source for source, _ in self.versions))
        return [form for text in texts for form in {text, to_nfc(text), _decomposed(text)}]

    def _names(self, landing: StorageLocation, key: str, etag: str) -> bool:
        if self.kind == "subject" and self._is_theirs(key):
            return True
        if self.kind == "source":
            return to_nfc(self.value) in (to_nfc(key), to_nfc(landing.source_of(key)))
        source = landing.source_of(key)
        return (source, etag) in self.versions or self.earlier.covers_version(source, etag, self.before)

    def _is_theirs(self, key: str) -> bool:
        wanted = to_nfc(self.value)
        return any(
            to_nfc(name) == wanted for pattern in self.key_patterns for name in key_groups(pattern, key, "subject")
        )

    def is_folder_of_theirs(self, folder: str) -> bool:
        """Whether keys below a folder tell the subject by its name."""
        return self.kind == "subject" and any(self._is_theirs(f"{folder}{rest}") for rest in ("/-", "/-/-", "/-/-/-"))

    def _before(self, rows: pa.RecordBatch) -> pa.Scalar:
        return pa.scalar(self.before, rows["arrived_at"].type)

    def _matches(self, rows: pa.RecordBatch) -> pa.BooleanArray:
        if self.kind == "source":
            return _same_text(rows["source"], self._sources())
        if self.kind == "subject":
            by_key = self._by_key(rows["source"])
            if "subject" not in rows.schema.names:
                return by_key
            return pc.or_(_same_text(rows["subject"], [self.value]), by_key)
        if "image_id" in rows.schema.names:
            return pc.equal(rows["image_id"], self.value)
        pairs = zip(rows["source"].to_pylist(), rows["etag"].to_pylist(), strict=True)
        return pa.array([pair in self.versions for pair in pairs], pa.bool_())

    def _sources(self) -> list[str]:
        return [self.value, *(landing.source_of(self.value) for landing in self.landings)]

    def _by_key(self, sources: pa.StringArray) -> pa.BooleanArray:
        # Of most rows the text alone says that they are others'.
        told = _longest_without_marks(self.value)
        return pa.array(
            [
                told in _decomposed(source)
                and any(self._names(landing, key, "") for landing, key in self._keys(source))
                for source in sources.to_pylist()
            ],
            pa.bool_(),
        )

    def _keys(self, source: str) -> Iterable[tuple[StorageLocation, str]]:
        for landing in self.landings:
            if source.startswith(landing.source_of("")):
                yield landing, source.removeprefix(landing.source_of(""))


def landings_of(home: Home, plans: Iterable[Plan], former: Iterable[str] = ()) -> tuple[StorageLocation, ...]:
    """The landings a home knows, the usual one below it, those that its plans still tell of, and former ones."""
    by_name = {landing.source: landing for landing in home.landings}
    usual = home.root.child("landing")
    if not any(landing.uri == usual.uri for landing in home.landings):
        by_name.setdefault(usual.uri, usual)
    for name in (*(plan.landing for plan in plans), *former):
        by_name.setdefault(name, home.landing_named(name))
    return tuple(by_name[name] for name in sorted(by_name))


def _same_text(column: pa.StringArray, wanted: Iterable[str]) -> pa.BooleanArray:
    forms = {to_nfc(text) for text in wanted}
    same = [text for text in column.unique().to_pylist() if text is not None and to_nfc(text) in forms]
    return pc.is_in(column, value_set=pa.array(same, column.type))


def _decomposed(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def _longest_without_marks(text: str) -> str:
    """The longest part of a text that stays in one piece in whatever it is part of, once that is decomposed."""
    return max("".join("\0" if unicodedata.combining(c) else c for c in _decomposed(text)).split("\0"), key=len)
