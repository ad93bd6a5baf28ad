"""Whether storage keeps to the conditions on a request; without them a photo could be lost, or planned twice."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import obstore

from store.errors import StorageRefused, UnsafeStorage
from store.home import Home
from store.objects.faults import Fault, fault_of, is_fault, retry_storage
from store.objects.location import StorageLocation
from store.objects.operations import delete_all, overwrite
from store.objects.s3 import bucket_and_key, s3_client

_OTHER_ETAG = '"00000000000000000000000000000000"'


def check_conditions(home: Home, clean: str) -> None:
    """Refuse a server of S3's protocol that lacks or ignores a condition which this stream relies on.

    A small object is written, requested with conditions that do not hold, and deleted; on disk nothing is done.
    Raises UnsafeStorage, StorageRefused, StorageUnavailable; a killed check leaves that object, which nobody reads.
    Protocol: `If-None-Match` and `If-Match` of PutObject, `If-Match` of DeleteObject (Amazon S3).
    """
    if not home.root.is_local:
        place, harm = home.state, "Two streams could plan a photo twice: use another server, or a home on disk."
        with _probe_object(place) as name:
            create = partial(obstore.put, place.store, name, b"again", mode="create")
            _check(place, "If-None-Match of a put", create, harm)
            replace = partial(obstore.put, place.store, name, b"again", mode={"e_tag": _OTHER_ETAG})
            _check(place, "If-Match of a put", replace, harm)
    if not home.landing.is_local and clean != "keep":
        place = next(place for place in (home.state, home.archive, home.landing) if not place.is_local)
        harm = "Clearing away could delete a photo that nobody has read: use --clean keep."
        with _probe_object(place) as name:
            bucket, key = bucket_and_key(place, name)
            delete = partial(s3_client(place).delete_object, Bucket=bucket, Key=key, IfMatch=_OTHER_ETAG)
            _check(place, "If-Match of a delete", delete, harm)


@contextmanager
def _probe_object(place: StorageLocation) -> Iterator[str]:
    # Hidden, so that it is no photo where there is only a landing.
    name = f".fruits-{uuid.uuid4().hex}"
    overwrite(place, name, b"conditions")
    try:
        yield name
    finally:
        delete_all(place, [name])


def _check(place: StorageLocation, condition: str, request: Callable[[], object], harm: str) -> None:
    """Raise UnsafeStorage unless the server refuses a request with a condition that does not hold."""

    def is_done() -> bool:
        try:
            request()
        except Exception as error:
            if is_fault(error) and fault_of(error) is Fault.CHANGED:
                return False
            raise
        return True

    try:
        failure = "passes over" if retry_storage(f"try a condition at {place.uri}", is_done) else None
    except StorageRefused as refused:
        # A permission that lacks is no matter of conditions.
        if refused.__cause__ is not None and fault_of(refused.__cause__) is Fault.REFUSED_OBJECT:
            raise
        failure = "lacks"
    if failure is not None:
        raise UnsafeStorage(f"The server of {place.uri} {failure} the condition {condition}. {harm}")
