"""Deletes a stage: first what costs money by the hour; data, which cannot be restored, only on request."""

from collections.abc import Callable
from itertools import islice

from bootstrap.aws.cloud import Cloud
from bootstrap.aws.handover import stop_stream
from bootstrap.aws.stack import Event, change_parameters, delete_stack, existing_stack, find_stack
from store.aws import aws_call, try_aws_call
from store.home import Home
from store.objects.location import StorageLocation
from store.objects.versions import delete_versions, list_versions

KEY_WAITS_DAYS = 30
_DELETED_AT_ONCE = 1000


def delete_compute(cloud: Cloud, home: Home, echo: Callable[[str], None], on_event: Callable[[Event], None]) -> None:
    """Stop the stream and delete the cluster, its network and its schedules; buckets, queue, roles and tables stay.

    `fruits deploy` makes it all again, and then processes what landed meanwhile. Replay changes nothing.
    Raises InvalidSetting when there is no such stage, StackFailed, CloudRefused, CloudUnavailable.
    """
    stack = existing_stack(cloud)
    if not stack.has_compute:
        return
    if "ClusterId" in stack.outputs and cluster_is_up(cloud, stack.outputs["ClusterId"]):
        stop_stream(cloud, stack.outputs["ClusterId"], home, echo)
    echo("Deleting the cluster, its network and its schedules (5 to 15 minutes); `fruits deploy` makes them again …")
    change_parameters(cloud, {"Artifacts": ""}, on_event)


def delete_data(cloud: Cloud, echo: Callable[[str], None], on_event: Callable[[Event], None]) -> None:
    """Delete every photo, row and model with all their versions, then the stack; the key goes after 30 days.

    `delete_compute` comes first. Replay goes on after a kill.
    Raises StackFailed, CloudRefused, CloudUnavailable, StorageUnavailable.
    """
    stack = find_stack(cloud)
    # Before the stack goes, which takes the key's alias along and leaves the key.
    alias = f"alias/{cloud.stack_name}"
    with aws_call(f"look for the key {alias}"):
        pages = cloud.kms.get_paginator("list_aliases").paginate()
        keys = [each["TargetKeyId"] for page in pages for each in page["Aliases"] if each["AliasName"] == alias]
    buckets = [bucket for bucket in (cloud.data_bucket, cloud.ops_bucket) if bucket_exists(cloud, bucket)]
    if stack is not None:
        for bucket in buckets:
            echo(f"Emptying {bucket} …")
            _empty(cloud, bucket, echo)
        # From here on there is no way back, and a key that is left alone would cost for ever.
        for key in keys:
            with aws_call(f"delete the key {key}"):
                if cloud.kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] != "PendingDeletion":
                    cloud.kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=KEY_WAITS_DAYS)
        echo("Deleting the stack (some minutes) …")
        delete_stack(cloud, on_event)
    for bucket in buckets:
        # The template retains the photos' bucket, so that nobody deletes it by a slip in the console.
        if bucket_exists(cloud, bucket):
            _empty(cloud, bucket, echo)
            with aws_call(f"delete {bucket}"):
                cloud.s3.delete_bucket(Bucket=bucket)


def is_deleted(cloud: Cloud) -> bool:
    """Whether nothing of the stage is left but, for a while, its key. Raises CloudRefused, CloudUnavailable."""
    return find_stack(cloud) is None and not any(
        bucket_exists(cloud, name) for name in (cloud.data_bucket, cloud.ops_bucket)
    )


def bucket_exists(cloud: Cloud, bucket: str) -> bool:
    """Whether this account has the bucket. Raises CloudRefused, CloudUnavailable."""
    found = try_aws_call(
        f"look for the bucket {bucket}",
        lambda: cloud.s3.head_bucket(Bucket=bucket, ExpectedBucketOwner=cloud.account),
        *("404", "NoSuchBucket"),
    )
    return found is not None


def cluster_is_up(cloud: Cloud, cluster: str) -> bool:
    """Whether the cluster runs or starts. Raises CloudRefused, CloudUnavailable."""
    state = try_aws_call(
        f"describe the cluster {cluster}",
        lambda: cloud.emr.describe_cluster(ClusterId=cluster)["Cluster"]["Status"]["State"],
        # EMR forgets a cluster two months after its end.
        *("InvalidRequestException", "ClusterNotFound"),
    )
    return state is not None and not state.startswith("TERMINAT")


def _empty(cloud: Cloud, bucket: str, echo: Callable[[str], None]) -> None:
    place = StorageLocation.at(f"s3://{bucket}", s3_region=cloud.region)
    versions = list_versions(place)
    while count := delete_versions(place, islice(versions, _DELETED_AT_ONCE)):
        echo(f"  {count:,} objects")
