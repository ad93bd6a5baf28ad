"""Takes a stage down: first what costs money by the hour, and only when asked by name what cannot be had back."""

from collections.abc import Callable

from bootstrap.aws.cloud import Cloud, CloudRefused, asked
from bootstrap.aws.handover import stop
from bootstrap.aws.stack import Event, Stack, change_parameters, delete_stack, stack_of, standing_stack
from store.home import Home

KEY_WAITS_DAYS = 30
_DELETED_AT_ONCE = 1000


def take_down(cloud: Cloud, home: Home, say: Callable[[str], None], on_event: Callable[[Event], None]) -> Stack:
    """Stop the stream and delete the cluster, its network and its schedules; buckets, queue, roles and tables stay.

    `fruits deploy` brings it all back, and what landed meanwhile is processed then. Replay changes nothing.
    Raises InvalidSetting when there is no such stage, StackFailed, CloudRefused.
    """
    stack = standing_stack(cloud)
    if not stack.has_compute:
        return stack
    if "ClusterId" in stack.outputs and cluster_is_up(cloud, stack.outputs["ClusterId"]):
        stop(cloud, stack.outputs["ClusterId"], home, say)
    say("Deleting the cluster, its network and its schedules …")
    return change_parameters(cloud, {"Artifacts": ""}, on_event)


def delete_data(
    cloud: Cloud, say: Callable[[str], None], on_event: Callable[[Event], None], on_deleted: Callable[[int], None]
) -> None:
    """Delete every photo, row and model with all their versions, then the stack; the key goes after 30 days.

    The compute has been taken down before. `on_deleted` hears how many objects each request deleted. Killed on the
    way, the same command goes on. Raises StackFailed, CloudRefused.
    """
    stack = stack_of(cloud)
    # Before the stack goes, which takes the key's alias along and leaves the key.
    keys = _keys(cloud)
    buckets = [bucket for bucket in (cloud.data_bucket, cloud.ops_bucket) if bucket_exists(cloud, bucket)]
    if stack is not None:
        for bucket in buckets:
            say(f"Emptying {bucket} …")
            _empty(cloud, bucket, on_deleted)
        # From here on there is no way back, and a key that is left alone would cost for ever.
        _delete_keys(cloud, keys)
        say("Deleting the stack …")
        delete_stack(cloud, on_event)
    for bucket in buckets:
        # The template retains the photos' bucket, so that nobody deletes it by a slip in the console.
        if bucket_exists(cloud, bucket):
            _empty(cloud, bucket, on_deleted)
            with asked(f"to delete {bucket}"):
                cloud.s3.delete_bucket(Bucket=bucket)


def is_gone(cloud: Cloud) -> bool:
    """Whether nothing of the stage is left but, for a while, its key. Raises CloudRefused."""
    return stack_of(cloud) is None and not any(
        bucket_exists(cloud, name) for name in (cloud.data_bucket, cloud.ops_bucket)
    )


def bucket_exists(cloud: Cloud, bucket: str) -> bool:
    """Whether this account has the bucket. Raises CloudRefused."""
    from botocore.exceptions import ClientError

    with asked(f"for the bucket {bucket}"):
        try:
            cloud.s3.head_bucket(Bucket=bucket, ExpectedBucketOwner=cloud.account)
        except ClientError as error:
            if error.response["Error"]["Code"] in ("404", "NoSuchBucket"):
                return False
            raise
    return True


def cluster_is_up(cloud: Cloud, cluster: str) -> bool:
    """Whether the cluster is there or on its way. Raises CloudRefused."""
    from botocore.exceptions import ClientError

    with asked(f"for the cluster {cluster}"):
        try:
            state = cloud.emr.describe_cluster(ClusterId=cluster)["Cluster"]["Status"]["State"]
        except ClientError as error:
            # EMR forgets a cluster two months after its end.
            if error.response["Error"]["Code"] in ("InvalidRequestException", "ClusterNotFound"):
                return False
            raise
    return not state.startswith("TERMINAT")


def _empty(cloud: Cloud, bucket: str, on_deleted: Callable[[int], None]) -> None:
    with asked(f"to empty {bucket}"):
        while True:
            # From the start each time: what was listed is gone.
            page = cloud.s3.list_object_versions(Bucket=bucket, MaxKeys=_DELETED_AT_ONCE)
            found = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
            if not found:
                return
            answer = cloud.s3.delete_objects(
                Bucket=bucket,
                Delete={
                    "Objects": [{"Key": each["Key"], "VersionId": each["VersionId"]} for each in found],
                    "Quiet": True,
                },
            )
            if errors := answer.get("Errors", []):
                raise CloudRefused(
                    f"{bucket} keeps {len(errors)} objects ({errors[0].get('Code')}); see to that and run this again."
                )
            on_deleted(len(found))


def _keys(cloud: Cloud) -> list[str]:
    alias = f"alias/{cloud.stack_name}"
    with asked(f"for the key {alias}"):
        pages = cloud.kms.get_paginator("list_aliases").paginate()
        return [each["TargetKeyId"] for page in pages for each in page["Aliases"] if each["AliasName"] == alias]


def _delete_keys(cloud: Cloud, keys: list[str]) -> None:
    for key in keys:
        with asked(f"to delete the key {key}"):
            if cloud.kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] != "PendingDeletion":
                cloud.kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=KEY_WAITS_DAYS)
