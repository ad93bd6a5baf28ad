"""What a job on the cluster said: its step's own words, and those of the driver that ran for it."""

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass

from bootstrap.aws.cloud import Cloud
from bootstrap.aws.steps import Submitted
from store.objects.location import StorageLocation
from store.objects.operations import keys_below, read

# Attempts of a driver are numbered, and the first container of each is the driver's.
_DRIVER = re.compile(r"container_\w+_000001/(stdout|stderr)(\.gz)?$")
_APPLICATION = re.compile(rb"application_\d+_\d+")


@dataclass(frozen=True)
class Log:
    """One file of a log."""

    uri: str
    text: str


def logs_of(cloud: Cloud, endpoint: str | None, cluster: str, step: Submitted) -> Iterator[Log]:
    """The step's output, then its driver's, an attempt after the other; nothing while EMR has not written them.

    EMR copies logs to S3 every five minutes. Raises StorageUnavailable, StorageRefused.
    """
    root = StorageLocation.at(f"s3://{cloud.ops_bucket}", endpoint, cloud.region)
    applications: list[str] = []
    for log, body in _read(root, f"logs/{cluster}/steps/{step.id}"):
        applications += [found.decode() for found in _APPLICATION.findall(body)]
        yield log
    for application in dict.fromkeys(applications):
        yield from (log for log, _ in _read(root, f"logs/{cluster}/containers/{application}", _DRIVER))


def _read(root: StorageLocation, folder: str, wanted: re.Pattern[str] | None = None) -> Iterator[tuple[Log, bytes]]:
    place = root.child(folder)
    for key in sorted(keys_below(place)):
        if wanted is None or wanted.search(key):
            body = read(place, key)
            body = gzip.decompress(body) if key.endswith(".gz") else body
            yield Log(place.uri_of(key), body.decode(errors="replace")), body
