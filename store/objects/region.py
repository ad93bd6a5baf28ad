"""Where buckets and queues lie: photos of people's fruit, and what is made of them, stay in the European Union."""

import re
from collections.abc import Callable
from urllib.parse import urlsplit

from features.errors import InvalidSetting
from store.errors import AccessDenied, BucketMissing, OutsideEurope, StorageRefused
from store.home import Home
from store.objects.faults import reason, retry_storage
from store.objects.location import StorageLocation
from store.objects.s3 import s3_client

EU_REGIONS = {
    "eu-central-1": "Frankfurt",
    "eu-west-1": "Dublin",
    "eu-west-3": "Paris",
    "eu-north-1": "Stockholm",
    "eu-south-1": "Milan",
    "eu-south-2": "Zaragoza",
}

_BUCKET_REGION = "x-amz-bucket-region"
_AMAZONS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")
_REGION = re.compile(r"[a-z]{2,}(?:-[a-z]+)+-[0-9]+")


def check_home(home: Home, queue: str | None, allow_region: str | None, say: Callable[[str], None]) -> str | None:
    """Refuse a home whose buckets or queue lie outside the EU, and return the region of its own bucket.

    One on disk is not looked at, and nothing is loaded; its region is that of its landing, None if that is on disk too.
    `say` is told of each that only `allow_region` lets pass. Raises OutsideEurope, also when a server does not tell its
    region, BucketMissing, AccessDenied, StorageRefused when there is no such queue, StorageUnavailable.
    Protocol: `x-amz-bucket-region` of HeadBucket, which S3 sends whether access is granted or not.
    """
    places = (home.root, home.landing, home.archive)
    buckets = {place.bucket_and_prefix[0]: place for place in places if not place.is_local}
    regions = {bucket: _region_of_bucket(place) for bucket, place in buckets.items()}
    for bucket, region in regions.items():
        _check(region, f"The bucket {bucket}", allow_region, say)
    own = next((regions[place.bucket_and_prefix[0]] for place in (home.root, home.landing) if not place.is_local), None)
    if queue is not None:
        _check(_region_of_queue(queue, home.landing.s3_region or own), f"The queue {queue}", allow_region, say)
    return own


def check_in_europe(region: str | None, what: str, allow_region: str | None) -> None:
    """Raises OutsideEurope unless a region is one of the six, or the one that is allowed besides.

    `what` begins the sentence "... lies in"; a `region` of None was not told, and is refused, too.
    """
    if region in EU_REGIONS or (region is not None and region == allow_region):
        return
    if region is None:
        raise OutsideEurope(
            f"{what} does not tell its region, so it cannot be known to lie in the EU; "
            "use storage that tells it (S3 in the answer to HeadBucket, SQS in a queue's ARN)."
        )
    six = ", ".join(f"{name} ({city})" for name, city in EU_REGIONS.items())
    raise OutsideEurope(
        f"{what} lies in {region}, outside the EU regions {six}. "
        f"Use one that lies there, or allow this one with --allow-region {region}."
    )


def _check(region: str | None, what: str, allow_region: str | None, say: Callable[[str], None]) -> None:
    check_in_europe(region, what, allow_region)
    if region not in EU_REGIONS:
        say(f"{what} lies in {region}, outside the EU; allowed by allow_region.")


def _region_of_bucket(place: StorageLocation) -> str | None:
    bucket, _ = place.bucket_and_prefix

    def ask() -> str | None:
        from botocore.exceptions import ClientError, NoCredentialsError

        try:
            headers = s3_client(place).head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPHeaders"]
        except ClientError as error:
            headers = error.response["ResponseMetadata"]["HTTPHeaders"]
            if _BUCKET_REGION not in headers:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] == 403:
                    raise AccessDenied(
                        f"Access to the bucket {bucket} was refused ({reason(error)}), and its region is not told; "
                        "use credentials that have s3:ListBucket on it."
                    ) from error
                raise
        except NoCredentialsError as error:
            raise StorageRefused(
                f"No AWS credentials were found for the bucket {bucket}; "
                "give this machine a role, or set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            ) from error
        return headers.get(_BUCKET_REGION)

    try:
        at = f" at {place.s3_endpoint}" if place.s3_endpoint else ""
        return retry_storage(f"learn the region of the bucket {bucket}{at}", ask)
    except FileNotFoundError as error:
        raise BucketMissing(f"There is no bucket {bucket}; create it, or name another one.") from error


def _region_of_queue(url: str, signed_for: str | None) -> str | None:
    host = urlsplit(url).hostname
    if host is None:
        raise InvalidSetting(f"{url!r} is no queue's URL; write https://sqs.REGION.amazonaws.com/ACCOUNT/NAME.")
    if f".{host}".endswith(_AMAZONS):
        # The oldest form of a URL, queue.amazonaws.com, names no region and means this one.
        return next((label for label in host.split(".") if _REGION.fullmatch(label)), "us-east-1")
    return retry_storage(f"learn the region of the queue {url}", lambda: _region_by_arn(url, signed_for))


def _region_by_arn(url: str, signed_for: str | None) -> str | None:
    import boto3
    from botocore.exceptions import ClientError

    server = urlsplit(url)._replace(path="", query="", fragment="").geturl()
    client = boto3.client("sqs", endpoint_url=server, region_name=signed_for)
    try:
        found = client.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500:
            raise
        raise StorageRefused(
            f"The queue {url} cannot be asked for its region: {reason(error)}; check --queue, and its permissions."
        ) from error
    return next((part for part in found["Attributes"]["QueueArn"].split(":") if _REGION.fullmatch(part)), None)
