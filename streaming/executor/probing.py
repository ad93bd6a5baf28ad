"""Whether storage answers at all, asked when one object of it does not."""

from collections.abc import Collection, Iterable
from concurrent.futures import FIRST_COMPLETED, wait
from functools import partial
from itertools import islice

from features.rejects import Rejected
from store.errors import StorageUnavailable
from store.objects.faults import is_fault
from store.objects.landing import LandedObject, fetch_once, list_landed
from store.objects.location import STALL_TIMEOUT, StorageLocation
from store.objects.page_cache import advise_kernel
from streaming.threads import in_thread

# So many objects are looked at, and the smallest so many of these are read.
_LISTED = 1000
_READ = 8


def answers(
    landing: StorageLocation, archive: StorageLocation, key: str, unread: Collection[str], patience_s: float
) -> bool:
    """Whether storage lists a landing and hands out another object than the one under `key` and those `unread`.

    An archive in the same bucket or on the same disk serves as well. Without any other object in the landing its
    listing is enough. Waits for each answer for 30 s, or for `patience_s` if that is less; what hangs is left to its
    thread. Raises nothing for storage's sake.
    """
    wait_s = min(patience_s, STALL_TIMEOUT.total_seconds())
    objects = _listed_in_time(landing, wait_s)
    if objects is None:
        return False
    others = [landed for landed in objects if landed.key != key]
    if not others or _hands_out_one(landing, [landed for landed in others if landed.key not in unread], wait_s):
        return True
    is_same_storage = _storage_of(landing) == _storage_of(archive)
    return is_same_storage and _hands_out_one(archive, _listed_in_time(archive, wait_s) or (), wait_s)


def _hands_out_one(landing: StorageLocation, objects: Iterable[LandedObject], wait_s: float) -> bool:
    # The smallest at once; an empty file says least of a disk.
    some = sorted(objects, key=lambda landed: (landed.size_bytes == 0, landed.size_bytes))[:_READ]
    reading = {in_thread(partial(_can_be_read, landing, landed)) for landed in some}
    while reading:
        done, reading = wait(reading, wait_s, FIRST_COMPLETED)
        if not done or any(one.result() for one in done):
            return bool(done)
    return False


def _listed_in_time(landing: StorageLocation, wait_s: float) -> list[LandedObject] | None:
    listing = in_thread(partial(_listed, landing))
    wait([listing], wait_s)
    return listing.result() if listing.done() else None


def _storage_of(place: StorageLocation) -> str | int | None:
    if not place.is_local:
        return place.bucket_and_prefix[0]
    try:
        return place.directory.stat().st_dev
    except OSError:
        return None


def _listed(landing: StorageLocation) -> list[LandedObject] | None:
    if landing.is_local and not landing.directory.is_dir():
        return None
    try:
        return list(islice(list_landed(landing), _LISTED))
    except StorageUnavailable:
        return None


def _can_be_read(landing: StorageLocation, landed: LandedObject) -> bool:
    if landing.is_local:
        # What the kernel still holds says nothing of the disk.
        advise_kernel(landing, landed, is_needed=False)
    try:
        fetch_once(landing, landed)
    except Rejected:
        # Storage said so.
        return True
    except Exception as error:
        if not is_fault(error):
            raise
        return False
    return True
