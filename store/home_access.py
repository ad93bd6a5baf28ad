"""Whether there is a home, and whether one can be written: asked before anything slow begins, and leaving no trace."""

import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import obstore
from obstore.exceptions import NotFoundError, PreconditionError

from store.errors import AccessDenied, HomeMissing, HomeNotWritable, StorageRefused
from store.home import Home
from store.models.registry import current_featurizer
from store.objects.faults import reason, retry_storage
from store.objects.location import StorageLocation, check_is_unicode
from store.objects.operations import delete_all, read_if_exists
from store.state.heartbeat import HEARTBEAT_KEY

_READING = "s3:ListBucket and s3:GetObject"
_WRITING = "s3:PutObject, s3:GetObject and s3:ListBucket"


def check_links(home: Home) -> None:
    """Refuse a place on disk that leads by a link to a directory whose name is not in UTF-8. Raises InvalidSetting."""
    for place in (home.root, home.landing, home.archive):
        if place.is_local:
            check_is_unicode(os.path.realpath(place.directory))


def check_is_home(home: Home) -> None:
    """Refuse a place that is no home; one in which nothing was ingested yet is one.

    Raises HomeMissing, AccessDenied, StorageUnavailable.
    """
    refused: StorageRefused | None = None
    for is_there in _signs(home):
        try:
            if is_there():
                return
        except StorageRefused as error:
            # Who may only query, or only erase, need not see all of a home.
            refused = error
    if refused is not None:
        raise AccessDenied(
            f"Access to {home.root.uri} was refused: {reason(refused.__cause__ or refused)}. "
            f"{_remedy(home.root, 'read', _READING)}"
        ) from refused
    raise HomeMissing(
        f"There is no home at {home.root.uri}; check --home, or make one with `fruits stream` or `fruits weights`."
    )


def check_is_writable(place: StorageLocation) -> None:
    """Refuse a place below a home in which nothing can be written, though it need not exist.

    Raises HomeNotWritable, StorageUnavailable.
    Protocol: a put to a key that does not exist with `If-Match`, which S3 refuses with 404 or 412 to who may write.
    """
    if place.is_local:
        _check_directory(place.directory)
        return
    try:
        retry_storage(f"write {place.uri}", lambda: _put_nothing(place))
    except StorageRefused as error:
        raise HomeNotWritable(
            f"Nothing can be written below {place.uri}: {reason(error.__cause__ or error)}. "
            f"{_remedy(place, 'write', _WRITING)}"
        ) from error


def _signs(home: Home) -> Iterator[Callable[[], bool]]:
    # Loaded only here: it opens tables.
    from store.state.landing_names import HOME_KEY

    # What every home has had since names are kept, then what outlives a lost `state/`, then what there is at first.
    yield lambda: read_if_exists(home.state, HOME_KEY) is not None
    yield lambda: _holds_anything(home.features.child("_delta_log"))
    yield lambda: current_featurizer(home) is not None
    yield lambda: read_if_exists(home.state, HEARTBEAT_KEY) is not None


def _holds_anything(place: StorageLocation) -> bool:
    def found() -> bool:
        return any(page for page in obstore.list(place.store, chunk_size=1))

    try:
        return retry_storage(f"list {place.uri}", found)
    except FileNotFoundError:
        return False


def _check_directory(directory: Path) -> None:
    standing = directory
    try:
        while not standing.exists():
            standing = standing.parent
        if not standing.is_dir():
            raise HomeNotWritable(f"{directory} cannot be made, because {standing} is no directory; choose another.")
        with tempfile.NamedTemporaryFile(dir=standing, prefix=".fruits-"):
            pass
    except OSError as error:
        raise HomeNotWritable(
            f"Nothing can be written below {standing}: {reason(error)}. Choose another directory, or let this user "
            "write there."
        ) from error


def _put_nothing(place: StorageLocation) -> None:
    key = f"writable-{uuid.uuid4().hex}"
    try:
        obstore.put(place.store, key, b"", mode={"e_tag": '"none"'})
    except (NotFoundError, FileNotFoundError, PreconditionError):
        return
    # A server that knows no conditions.
    delete_all(place, [key])


def _remedy(place: StorageLocation, verb: str, actions: str) -> str:
    if place.is_local:
        return f"Run this as a user who may {verb} there."
    return f"Use credentials that may {verb} there ({actions}), or grant that to these."
