"""The check that a home's buckets and its queue lie in the European Union: photos and results may not leave it."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from features.errors import InvalidSetting
from store.aws import make_client
from store.errors import BucketMissing, OutsideEurope
from store.home import Home
from store.objects.faults import retry_storage
from store.objects.location import StorageLocation
from store.objects.s3 import s3_client

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient

EU_REGIONS = {
    "eu-central-1": "Frankfurt",
    "eu-west-1": "Dublin",
    "eu-west-3": "Paris",
    "eu-north-1": "Stockholm",
    "eu-south-1": "Milan",
    "eu-south-2": "Zaragoza",
}
EU_REGIONS_IN_WORDS = ", ".join(f"{name} ({city})" for name, city in EU_REGIONS.items())

_BUCKET_REGION = "x-amz-bucket-region"
_AMAZONS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")
_REGION = re.compile(r"[a-z]{2,}(?:-[a-z]+)+-[0-9]+")


def check_home(home: Home, queue: str | None, allow_region: str | None, say: Callable[[str], None]) -> str | None:
    """Check that a home's buckets and its queue lie in the EU, and return the region of the home's bucket.

    A place on disk is not checked, and nothing is loaded for it. If the home is on disk, the region is its landing's;
    None if both are. `say` gets a line for each bucket or queue that only `allow_region` lets pass.
    Raises OutsideEurope, also when a server does not tell its region, BucketMissing, InvalidSetting when there is no
    such queue, StorageRefused, StorageUnavailable.
    Protocol: `x-amz-bucket-region` of HeadBucket, which S3 sends whether access is granted or not.
    """
    places = (home.root, home.landing, home.archive)
    buckets = {place.bucket_and_prefix[0]: place for place in places if not place.is_local}
    regions = {bucket: _region_of_bucket(bucket, place) for bucket, place in buckets.items()}
    for bucket, region in regions.items():
        check_in_europe(region, f"The bucket {bucket}", allow_region, say)
    own = next((regions[place.bucket_and_prefix[0]] for place in (home.root, home.landing) if not place.is_local), None)
    if queue is not None:
        region = _region_of_queue(queue, home.landing.s3_region or own)
        check_in_europe(region, f"The queue {queue}", allow_region, say)
    return own


def check_in_europe(region: str | None, subject: str, allow_region: str | None, say: Callable[[str], None]) -> None:
    """Raises OutsideEurope unless a region is one of the six, or is `allow_region`, which `say` is told.

    `subject` begins the sentence "... lies in". A `region` of None is unknown, and refused, too.
    """
    if region in EU_REGIONS:
        return
    if region is None:
        raise OutsideEurope(
            f"{subject} does not tell its region, so it cannot be known to lie in the EU; "
            "use storage that tells it (S3 in the answer to HeadBucket, SQS in a queue's ARN)."
        )
    if region != allow_region:
        raise OutsideEurope(
            f"{subject} lies in {region}, outside the EU regions {EU_REGIONS_IN_WORDS}. "
            f"Use one that lies there, or allow this one with --allow-region {region}."
        )
    say(f"{subject} lies in {region}, outside the EU; allowed by allow_region.")


def _region_of_bucket(bucket: str, place: StorageLocation) -> str | None:
    def head_bucket() -> str | None:
        from botocore.exceptions import ClientError

        try:
            headers = s3_client(place).head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPHeaders"]
        except ClientError as error:
            headers = error.response["ResponseMetadata"]["HTTPHeaders"]
            if _BUCKET_REGION not in headers:
                raise
        return headers.get(_BUCKET_REGION)

    try:
        at = f" at {place.s3_endpoint}" if place.s3_endpoint else ""
        return retry_storage(f"learn the region of the bucket {bucket}{at}", head_bucket)
    except FileNotFoundError as error:
        raise BucketMissing(f"There is no bucket {bucket}; create it, or name another one.") from error


def _region_of_queue(url: str, signing_region: str | None) -> str | None:
    parts = urlsplit(url)
    if parts.hostname is None:
        raise InvalidSetting(f"{url!r} is no queue's URL; write https://sqs.REGION.amazonaws.com/ACCOUNT/NAME.")
    if f".{parts.hostname}".endswith(_AMAZONS):
        # The oldest form of a URL, queue.amazonaws.com, names no region and means this one.
        return next((label for label in parts.hostname.split(".") if _REGION.fullmatch(label)), "us-east-1")

    def get_arn() -> str:
        client: SQSClient = make_client("sqs", signing_region, f"{parts.scheme}://{parts.netloc}")
        return client.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]

    try:
        arn = retry_storage(f"learn the region of the queue {url}", get_arn)
    except FileNotFoundError as error:
        raise InvalidSetting(f"There is no queue {url}; check --queue, and its region.") from error
    return next((part for part in arn.split(":") if _REGION.fullmatch(part)), None)
