"""Reads the logs of a step: its own output, and that of the drivers that ran for it."""

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass

from bootstrap.aws.cloud import Cloud
from bootstrap.aws.steps import SubmittedStep
from store.objects.location import StorageLocation
from store.objects.operations import keys_below, read

# Attempts of a driver are numbered, and the first container of each is the driver's. Java's log turns over: spark.log.2
# is older than spark.log (streaming/yarn-log4j2.properties).
_DRIVER = re.compile(r"container_\w+_000001/(stdout|stderr|spark\.log)(\.\d+)?(\.gz)?$")
_APPLICATION = re.compile(r"application_\d+_\d+")


@dataclass(frozen=True)
class Log:
    """One file of a log."""

    uri: str
    text: str


def read_logs(cloud: Cloud, endpoint: str | None, cluster: str, step: SubmittedStep) -> Iterator[Log]:
    """The step's output, then its driver's, attempt by attempt; nothing until EMR has written them.

    EMR copies logs to S3 every five minutes. Raises StorageUnavailable, StorageRefused.
    """
    root = StorageLocation.at(f"s3://{cloud.ops_bucket}/logs/{cluster}", endpoint, cloud.region)
    applications: dict[str, None] = {}
    for log in _read(root.child(f"steps/{step.id}")):
        applications |= dict.fromkeys(_APPLICATION.findall(log.text))
        yield log
    for application in applications:
        yield from _read(root.child(f"containers/{application}"), _DRIVER)


def _read(place: StorageLocation, pattern: re.Pattern[str] | None = None) -> Iterator[Log]:
    for key in sorted(keys_below(place)):
        if pattern is None or pattern.search(key):
            body = read(place, key)
            body = gzip.decompress(body) if key.endswith(".gz") else body
            yield Log(place.uri_of(key), body.decode(errors="replace"))
