"""What an erasure covers, as rows of the tables and as objects: by person, by object, or by photo."""

import unicodedata
from collections.abc import Collection, Iterable, Iterator
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
    """What arrived `before` and matches; which versions of which objects hold a photo is noted on the way.

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
        """The columns of a table that `row_mask` needs."""
        columns = ("image_id", "subject", "source", "etag", "arrived_at", "batch", "bytes")
        return [name for name in columns if name in table.file_schema.names]

    def row_mask(self, rows: pa.RecordBatch) -> pa.BooleanArray:
        return pc.and_(self._matches(rows), pc.less(rows["arrived_at"], self._before(rows)))

    def newer_row_mask(self, rows: pa.RecordBatch) -> pa.BooleanArray:
        """Which rows match, but came after the request."""
        return pc.and_(self._matches(rows), pc.greater_equal(rows["arrived_at"], self._before(rows)))

    def note_objects(self, rows: pa.RecordBatch) -> None:
        """Note which versions covered rows are of (for a subject, if their keys do not name it), and a photo's size."""
        if not {"image_id", "etag"} <= set(rows.schema.names):
            return
        pairs = zip(rows["source"].to_pylist(), rows["etag"].to_pylist(), strict=True)
        if self.kind == "image":
            self.versions.update(pairs)
            if "bytes" in rows.schema.names:
                self.sizes_bytes.update(rows["bytes"].to_pylist())
        elif self.kind == "subject":
            self.versions.update(
                (source, etag) for source, etag in pairs if not any(map(self._names_subject, self._keys(source)))
            )

    def unknown_sources(self, sources: Iterable[str]) -> list[str]:
        """Those of some rows' sources that lie below no landing that is known."""
        return [source for source in sources if not any(True for _ in self._keys(source))]

    def covers_landed(self, landing: StorageLocation, version: Version) -> bool:
        """Whether a version of an object of a landing is covered."""
        return version.landed.visible_at < self.before and self._covers(landing, version.key, version.landed.etag)

    def covers_archived(self, version: Version, newer_versions: Collection[tuple[str, str]]) -> bool:
        """The same of the archive. A later copy counts as newer only if its object has a newer row."""
        key, etag = archived_key(version.key)
        if not any(self._covers(landing, key, etag) for landing in self.landings):
            return False
        is_newer = any((landing.source_of(key), etag) in newer_versions for landing in self.landings)
        return version.landed.visible_at < self.before or not is_newer

    def covers_planned(self, landing: StorageLocation, landed: LandedObject) -> bool:
        return landed.arrived_at < self.before and self._covers(landing, landed.key, landed.etag)

    def may_cover(self, landing: StorageLocation, key: str) -> bool:
        """Whether a key of a landing alone tells that its object may be covered."""
        return self._covers(landing, key, "")

    def names(self) -> list[str]:
        """The names that no file may hold any more, with composed and with decomposed accents."""
        names = (self.value, *(source for source, _ in self.versions))
        return [form for name in names for form in {name, to_nfc(name), _decomposed(name)}]

    def is_subjects_folder(self, folder: str) -> bool:
        """Whether the name of a folder names the subject of keys below it."""
        return self.kind == "subject" and any(
            self._names_subject(f"{folder}{rest}") for rest in ("/-", "/-/-", "/-/-/-")
        )

    def _covers(self, landing: StorageLocation, key: str, etag: str) -> bool:
        if self.kind == "subject" and self._names_subject(key):
            return True
        if self.kind == "source":
            return to_nfc(self.value) in (to_nfc(key), to_nfc(landing.source_of(key)))
        return self._is_noted(landing.source_of(key), etag)

    def _names_subject(self, key: str) -> bool:
        subject = to_nfc(self.value)
        return any(
            to_nfc(name) == subject for pattern in self.key_patterns for name in key_groups(pattern, key, "subject")
        )

    def _before(self, rows: pa.RecordBatch) -> pa.Scalar:
        return pa.scalar(self.before, rows["arrived_at"].type)

    def _matches(self, rows: pa.RecordBatch) -> pa.BooleanArray:
        if self.kind == "source":
            return _is_any_of(rows["source"], [self.value, *(place.source_of(self.value) for place in self.landings)])
        if self.kind == "subject":
            by_key = self._by_key(rows["source"])
            if "subject" in rows.schema.names:
                return pc.or_(_is_any_of(rows["subject"], [self.value]), by_key)
            # Where keys do not name the person any more, the feature rows did.
            return pc.or_(by_key, self._of_versions(rows)) if "image_id" in rows.schema.names else by_key
        if "image_id" in rows.schema.names:
            return pc.equal(rows["image_id"], self.value)
        return self._of_versions(rows)

    def _of_versions(self, rows: pa.RecordBatch) -> pa.BooleanArray:
        pairs = zip(rows["source"].to_pylist(), rows["etag"].to_pylist(), strict=True)
        return pa.array([self._is_noted(*pair) for pair in pairs], pa.bool_())

    def _is_noted(self, source: str, etag: str) -> bool:
        return (source, etag) in self.versions or self.earlier.covers_version(source, etag, self.before)

    def _by_key(self, sources: pa.StringArray) -> pa.BooleanArray:
        # Most rows are others', which a search for part of the text shows without matching patterns.
        part = _longest_without_marks(self.value)
        return pa.array(
            [
                part in _decomposed(source) and any(map(self._names_subject, self._keys(source)))
                for source in sources.to_pylist()
            ],
            pa.bool_(),
        )

    def _keys(self, source: str) -> Iterator[str]:
        """The key of a source below each landing that it lies in."""
        prefixes = (landing.source_of("") for landing in self.landings)
        return (source.removeprefix(prefix) for prefix in prefixes if source.startswith(prefix))


def landings_of(home: Home, plans: Iterable[Plan], former: Iterable[str] = ()) -> tuple[StorageLocation, ...]:
    """The landings a home knows, the usual one below it, those that its plans still tell of, and former ones."""
    by_name = {landing.source: landing for landing in home.landings}
    usual = home.root.child("landing")
    if not any(landing.uri == usual.uri for landing in home.landings):
        by_name.setdefault(usual.uri, usual)
    for name in (*(plan.landing for plan in plans), *former):
        by_name.setdefault(name, home.landing_named(name))
    return tuple(by_name[name] for name in sorted(by_name))


def _is_any_of(column: pa.StringArray, texts: Iterable[str]) -> pa.BooleanArray:
    forms = {to_nfc(text) for text in texts}
    same = [text for text in column.unique().to_pylist() if text is not None and to_nfc(text) in forms]
    return pc.is_in(column, value_set=pa.array(same, column.type))


def _decomposed(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def _longest_without_marks(text: str) -> str:
    """The longest part of a text that stays in one piece in whatever it is part of, once that is decomposed."""
    return max("".join("\0" if unicodedata.combining(c) else c for c in _decomposed(text)).split("\0"), key=len)
