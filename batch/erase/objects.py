"""Photos taken out of the landing and the archive, in every version that the bucket keeps."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from batch.erase.selection import Selection
from store.home import Home
from store.objects.landing import archived_key
from store.objects.location import StorageLocation
from store.objects.versions import Version, delete_versions, list_versions, read_version, remove_empty_folders

_READ_AT_ONCE = 8


def find_photo(home: Home, selection: Selection) -> None:
    """Learn which versions of landed and archived objects hold a photo that is asked for by its image id.

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
        not version.is_mark and any(selection.landed(landing, version) for landing in same)
        for same in by_place.values()
        for version in list_versions(same[0], selection.avoid)
    )
    archived = (not version.is_mark and selection.archived(version, ()) for version in list_versions(home.archive))
    return {"landing": sum(landed), "archive": sum(archived)}


def erase_landed(landing: StorageLocation, selection: Selection) -> int:
    """Delete for good what a landing holds of a selection, and say how many versions that were.

    Of a key whose newest version goes, older ones go too, because one of them would take its place.
    Replay deletes what is left. Raises StorageRefused, StorageUnavailable.
    """
    deleted = _erase(landing, lambda version: selection.landed(landing, version), selection.avoid)
    _remove_folders(landing, selection)
    return deleted


def erase_archived(home: Home, selection: Selection, kept: Collection[tuple[str, str]]) -> int:
    """The same of the archive; `kept` are versions of objects with rows that came after the request."""
    deleted = _erase(home.archive, lambda version: selection.archived(version, kept))
    _remove_folders(home.archive, selection)
    return deleted


def erase_old_versions(place: StorageLocation) -> int:
    """Delete for good every version below a place that is not the current one, and say how many.

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

    def holds_it(version: Version) -> bool:
        body = read_version(place, version)
        return body is not None and hashlib.sha256(body).hexdigest() == selection.value

    with ThreadPoolExecutor(_READ_AT_ONCE, thread_name_prefix="hash") as pool:
        for version, same in zip(candidates, pool.map(holds_it, candidates), strict=True):
            if same:
                yield version


def _erase(place: StorageLocation, goes: Callable[[Version], bool], avoid: Sequence[StorageLocation] = ()) -> int:
    wanted = {version.key for version in list_versions(place, avoid) if not version.is_mark and goes(version)}
    if not wanted:
        return 0
    by_key: dict[str, list[Version]] = defaultdict(list)
    for version in list_versions(place, avoid):
        if version.key in wanted:
            by_key[version.key].append(version)
    return delete_versions(place, [version for versions in by_key.values() for version in _to_delete(versions, goes)])


def _remove_folders(place: StorageLocation, selection: Selection) -> None:
    # A folder's name tells as much as a file's.
    if selection.kind == "subject":
        remove_empty_folders(place, selection.is_folder_of_theirs, selection.avoid)


def _to_delete(versions: list[Version], goes: Callable[[Version], bool]) -> list[Version]:
    # A listing gives the newest first; its times have whole seconds.
    real = [version for version in versions if not version.is_mark]
    newest = next((number for number, version in enumerate(real) if goes(version)), None)
    if newest is None:
        return []
    gone = real[newest:]
    marks = [version for version in versions if version.is_mark]
    # A mark that stays would name what is gone; one that goes too early would bring back what is not.
    return gone + (
        marks if len(gone) == len(real) else [mark for mark in marks if mark.visible_at <= gone[0].visible_at]
    )
