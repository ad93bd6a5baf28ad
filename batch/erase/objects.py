"""Photos taken out of the landing and the archive, in every version that the bucket keeps."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, compress

from batch.erase.selection import Selection
from store.home import Home
from store.objects.landing import archived_key
from store.objects.location import StorageLocation
from store.objects.versions import Version, delete_versions, list_versions, read_version, remove_empty_folders

_READ_AT_ONCE = 8


def find_photo(home: Home, selection: Selection) -> None:
    """Note in the selection which versions of landed and archived objects hold a photo, given by its image id.

    Objects of its size are read, or all, when no row tells the size. Raises StorageRefused, StorageUnavailable.
    """
    for landing in selection.landings:
        for version in _same_bytes(landing, selection):
            selection.versions.add((landing.source_of(version.key), version.landed.etag))
    for version in _same_bytes(home.archive, selection):
        key, etag = archived_key(version.key)
        selection.versions.update((landing.source_of(key), etag) for landing in selection.landings)


def count_objects(home: Home, selection: Selection) -> dict[str, int]:
    """How many versions of objects a selection covers now, by place. Raises StorageRefused, StorageUnavailable."""
    # A landing that has moved has several names.
    by_place: dict[str, list[StorageLocation]] = defaultdict(list)
    for landing in selection.landings:
        by_place[landing.uri].append(landing)
    landed = (
        not version.is_mark and any(selection.covers_landed(landing, version) for landing in same)
        for same in by_place.values()
        for version in list_versions(same[0], selection.avoid)
    )
    archived = (
        not version.is_mark and selection.covers_archived(version, ()) for version in list_versions(home.archive)
    )
    return {"landing": sum(landed), "archive": sum(archived)}


def erase_landed(landing: StorageLocation, selection: Selection) -> int:
    """Delete for good what a landing holds of a selection, and say how many versions that were.

    If the newest version of a key goes, older ones go too, because one of them would take its place.
    Replay deletes what is left. Raises StorageRefused, StorageUnavailable.
    """
    return _erase(landing, selection, lambda version: selection.covers_landed(landing, version), selection.avoid)


def erase_archived(home: Home, selection: Selection, newer_versions: Collection[tuple[str, str]]) -> int:
    """The same of the archive; `newer_versions` (source, etag) of objects have rows that came after the request."""
    return _erase(home.archive, selection, lambda version: selection.covers_archived(version, newer_versions))


def erase_old_versions(place: StorageLocation) -> int:
    """Delete for good what a bucket keeps of replaced and deleted objects below a place, and say how many versions.

    Replay deletes what is left. Raises StorageRefused, StorageUnavailable.
    """
    if place.is_local:
        return 0
    return delete_versions(place, (v for v in list_versions(place) if v.is_mark or not v.is_current))


def _same_bytes(place: StorageLocation, selection: Selection) -> Iterator[Version]:
    candidates = [
        version
        for version in list_versions(place, selection.avoid)
        if not version.is_mark and (not selection.sizes_bytes or version.landed.size_bytes in selection.sizes_bytes)
    ]

    def is_photo(version: Version) -> bool:
        body = read_version(place, version)
        return body is not None and hashlib.sha256(body).hexdigest() == selection.value

    with ThreadPoolExecutor(_READ_AT_ONCE, thread_name_prefix="hash") as pool:
        yield from compress(candidates, pool.map(is_photo, candidates))


def _erase(
    place: StorageLocation,
    selection: Selection,
    is_covered: Callable[[Version], bool],
    avoid: Sequence[StorageLocation] = (),
) -> int:
    # Memory holds the versions of covered keys only, so everything is listed twice.
    keys = {version.key for version in list_versions(place, avoid) if not version.is_mark and is_covered(version)}
    by_key: dict[str, list[Version]] = defaultdict(list)
    for version in list_versions(place, avoid) if keys else ():
        if version.key in keys:
            by_key[version.key].append(version)
    deleted = delete_versions(place, chain.from_iterable(_to_delete(some, is_covered) for some in by_key.values()))
    # A folder's name tells as much as a file's.
    if selection.kind == "subject":
        remove_empty_folders(place, selection.is_subjects_folder, selection.avoid)
    return deleted


def _to_delete(versions: list[Version], is_covered: Callable[[Version], bool]) -> list[Version]:
    # A listing gives the newest first; its times have whole seconds.
    real = [version for version in versions if not version.is_mark]
    newest = next((number for number, version in enumerate(real) if is_covered(version)), None)
    if newest is None:
        return []
    covered = real[newest:]
    marks = [version for version in versions if version.is_mark]
    # A mark that stays would name what was deleted. A mark that goes too early would bring an older version back.
    last_at = covered[0].landed.visible_at
    return covered + [mark for mark in marks if len(covered) == len(real) or mark.landed.visible_at <= last_at]
