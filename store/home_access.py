"""Checks that a home exists and that it can be written. They run before anything slow begins, and leave no trace."""

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
    """Refuse a location on disk that is a link to a directory whose name is not in UTF-8. Raises InvalidSetting."""
    for location in (home.root, home.landing, home.archive):
        if location.is_local:
            check_is_unicode(os.path.realpath(location.directory))


def check_is_home(home: Home) -> None:
    """Refuse what is no home; an empty home is one. Raises HomeMissing, AccessDenied, StorageUnavailable."""
    refused: StorageRefused | None = None
    for is_found in _signs(home):
        try:
            if is_found():
                return
        except StorageRefused as error:
            # A user who may only query, or only erase, need not see all of a home.
            refused = error
    if refused is not None:
        raise AccessDenied(
            f"Access to {home.root.uri} was refused: {reason(refused.__cause__ or refused)}. "
            f"{_remedy(home.root, 'read', _READING)}"
        ) from refused
    raise HomeMissing(
        f"There is no home at {home.root.uri}; check --home, or make one with `fruits stream` or `fruits weights`."
    )


def check_is_writable(location: StorageLocation) -> None:
    """Refuse a location below a home in which nothing can be written; it need not exist yet.

    Raises HomeNotWritable, StorageUnavailable.
    Protocol: a put with `If-Match` to a key that does not exist; S3 answers 404 or 412 to a user who may write.
    """
    if location.is_local:
        _check_directory(location.directory)
        return
    try:
        retry_storage(f"write {location.uri}", lambda: _put_nothing(location))
    except StorageRefused as error:
        raise HomeNotWritable(
            f"Nothing can be written below {location.uri}: {reason(error.__cause__ or error)}. "
            f"{_remedy(location, 'write', _WRITING)}"
        ) from error


def _signs(home: Home) -> Iterator[Callable[[], bool]]:
    # Loaded only here: it opens tables.
    from store.state.landing_names import HOME_KEY

    # First what every home has had since names are kept, then what outlives a lost `state/`, then what a new home has.
    yield lambda: read_if_exists(home.state, HOME_KEY) is not None
    yield lambda: _has_any_object(home.features.child("_delta_log"))
    yield lambda: current_featurizer(home) is not None
    yield lambda: read_if_exists(home.state, HEARTBEAT_KEY) is not None


def _has_any_object(location: StorageLocation) -> bool:
    try:
        return retry_storage(f"list {location.uri}", lambda: any(obstore.list(location.store, chunk_size=1)))
    except FileNotFoundError:
        return False


def _check_directory(directory: Path) -> None:
    existing = directory
    try:
        while not existing.exists():
            existing = existing.parent
        if not existing.is_dir():
            raise HomeNotWritable(f"{directory} cannot be made, because {existing} is no directory; choose another.")
        with tempfile.NamedTemporaryFile(dir=existing, prefix=".fruits-"):
            pass
    except OSError as error:
        raise HomeNotWritable(
            f"Nothing can be written below {existing}: {reason(error)}. Choose another directory, or let this user "
            "write there."
        ) from error


def _put_nothing(location: StorageLocation) -> None:
    key = f"writable-{uuid.uuid4().hex}"
    try:
        obstore.put(location.store, key, b"", mode={"e_tag": '"none"'})
    except (NotFoundError, FileNotFoundError, PreconditionError):
        return
    # A server that knows no conditions.
    delete_all(location, [key])


def _remedy(location: StorageLocation, verb: str, actions: str) -> str:
    if location.is_local:
        return f"Run this as a user who may {verb} there."
    return f"Use credentials that may {verb} there ({actions}), or grant that to these."
