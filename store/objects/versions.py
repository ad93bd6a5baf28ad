"""All versions of the objects below a place, also those that listings do not show: list, read, delete for good."""

import errno
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from store.objects.faults import retry_storage
from store.objects.landing import LandedObject, landed_files, listed_object
from store.objects.landing_files import folders_below
from store.objects.location import StorageLocation, printable
from store.objects.operations import delete_in_groups
from store.objects.s3 import bucket_and_key, list_in_pages, s3_client

if TYPE_CHECKING:
    from types_boto3_s3.type_defs import ObjectIdentifierTypeDef

# What XML 1.0, in which a request names many keys, cannot hold.
_NOT_IN_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


@dataclass(frozen=True)
class Version:
    """One version of an object, or its delete marker. On disk each file has one version, without an id."""

    landed: LandedObject
    id: str | None
    is_current: bool
    is_mark: bool

    @property
    def key(self) -> str:
        return self.landed.key


def list_versions(place: StorageLocation, avoid: Sequence[StorageLocation] = ()) -> Iterator[Version]:
    """Every version below a place, a key's newest first on S3; nothing if the place does not exist.

    On disk, links are followed, but not into the places in `avoid`.
    Raises StorageRefused, StorageUnavailable. Protocol: ListObjectVersions (Amazon S3).
    """
    if not place.is_local:
        return _versions_in_bucket(place)
    return (Version(landed, None, is_current=True, is_mark=False) for landed in landed_files(place, avoid))


def read_version(place: StorageLocation, version: Version) -> bytes | None:
    """The bytes of one version, or None when it is gone. Raises StorageRefused, StorageUnavailable."""
    read = _read_file if place.is_local else _read_version
    try:
        return retry_storage(f"read {place.uri_of(version.key)}", partial(read, place, version))
    except FileNotFoundError:
        return None


def delete_versions(place: StorageLocation, versions: Iterable[Version]) -> int:
    """Delete versions for good, and return how many. Replay finds nothing left to do. Raises StorageUnavailable."""
    return delete_in_groups(place, versions, _unlink if place.is_local else _delete)


def remove_empty_folders(
    place: StorageLocation, is_removable: Callable[[str], bool], avoid: Sequence[StorageLocation] = ()
) -> None:
    """Remove the empty folders of a place on disk whose path below it is removable; on S3 there are none.

    A link is removed with the empty folder that it leads to. Raises StorageUnavailable.
    """
    if not place.is_local:
        return
    directories = [other.directory for other in avoid if other.is_local]
    for folder in reversed(folders_below(place.directory, directories)):
        if is_removable(printable(folder)):
            retry_storage(f"remove {place.directory / folder}", partial(_rmdir, place.directory / folder))


def _rmdir(folder: Path) -> None:
    try:
        folder.resolve().rmdir()
        if folder.is_symlink():
            folder.unlink()
    except OSError as error:
        # Somebody else's photos are in it, or were put there just now.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise


def _versions_in_bucket(place: StorageLocation) -> Iterator[Version]:
    _, below = bucket_and_key(place, "")
    markers = {"NextKeyMarker": "KeyMarker", "NextVersionIdMarker": "VersionIdMarker"}
    for page in list_in_pages(place, f"the versions below {place.uri}", "list_object_versions", markers):
        for entry in page.get("Versions", []):
            yield Version(listed_object(entry, below), entry["VersionId"], entry["IsLatest"], is_mark=False)
        for mark in page.get("DeleteMarkers", []):
            landed = listed_object({"Size": 0, "ETag": "", **mark}, below)
            yield Version(landed, mark["VersionId"], mark["IsLatest"], is_mark=True)


def _read_file(place: StorageLocation, version: Version) -> bytes:
    return _path(place, version).read_bytes()


def _path(place: StorageLocation, version: Version) -> Path:
    path = place.directory
    for segment in version.key.split("/"):
        # A name that is not Unicode is listed in a printable form.
        if not (path / segment).exists() and path.is_dir():
            segment = next((entry.name for entry in path.iterdir() if printable(entry.name) == segment), segment)
        path /= segment
    return path


def _read_version(place: StorageLocation, version: Version) -> bytes:
    bucket, key = bucket_and_key(place, version.key)
    found = s3_client(place).get_object(Bucket=bucket, Key=key, VersionId=version.id or "null")
    return found["Body"].read()


def _unlink(place: StorageLocation, versions: list[Version]) -> None:
    for version in versions:
        path = _path(place, version)
        if path.is_symlink():
            # The photo is what the link leads to.
            path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def _delete(place: StorageLocation, versions: list[Version]) -> None:
    from botocore.exceptions import ClientError

    client = s3_client(place)
    named: list[ObjectIdentifierTypeDef] = []
    for version in versions:
        bucket, key = bucket_and_key(place, version.key)
        id = version.id or "null"
        if _NOT_IN_XML.search(key):
            client.delete_object(Bucket=bucket, Key=key, VersionId=id)
        else:
            named.append({"Key": key, "VersionId": id})
    if not named:
        return
    answer = client.delete_objects(Bucket=bucket, Delete={"Objects": named, "Quiet": True})
    for error in answer.get("Errors", []):
        # Of a request that succeeds for some keys nothing is raised.
        code, message = error.get("Code", ""), error.get("Message", "")
        raise ClientError({"Error": {"Code": code, "Message": message}}, "DeleteObjects")
