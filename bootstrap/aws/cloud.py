"""One installation on AWS: its stage, region, account, names and clients."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from features.errors import InvalidSetting
from store.aws import aws_call, export_credentials, make_client
from store.errors import OutsideEurope
from store.objects.region import EU_REGIONS, EU_REGIONS_IN_WORDS

if TYPE_CHECKING:
    from types_boto3_athena import AthenaClient
    from types_boto3_cloudformation import CloudFormationClient
    from types_boto3_cloudwatch import CloudWatchClient
    from types_boto3_ec2 import EC2Client
    from types_boto3_emr import EMRClient
    from types_boto3_glue import GlueClient
    from types_boto3_iam import IAMClient
    from types_boto3_kms import KMSClient
    from types_boto3_s3 import S3Client
    from types_boto3_service_quotas import ServiceQuotasClient

_STAGE = re.compile(r"[a-z][a-z0-9]{0,11}")


def _client(service: str) -> "Callable[[Cloud], Any]":
    return lambda cloud: make_client(service, cloud.region)


def _free_tier(_: "Cloud") -> Any:
    # It answers for the whole account, from this region alone (AWS CLI reference, `freetier`).
    return make_client("freetier", "us-east-1", attempts=2)


@dataclass(frozen=True)
class Cloud:
    """A stage in one region of one account; `caller` is the ARN of the credentials."""

    stage: str
    region: str
    account: str
    caller: str

    @property
    def stack_name(self) -> str:
        return f"fruits-{self.stage}"

    @property
    def data_bucket(self) -> str:
        return f"{self.stack_name}-{self.account}-{self.region}"

    @property
    def ops_bucket(self) -> str:
        return f"{self.data_bucket}-ops"

    @property
    def console(self) -> str:
        return f"https://{self.region}.console.aws.amazon.com"

    # Made when they are first used.
    cloudformation: ClassVar["cached_property[CloudFormationClient]"] = cached_property(_client("cloudformation"))
    emr: ClassVar["cached_property[EMRClient]"] = cached_property(_client("emr"))
    ec2: ClassVar["cached_property[EC2Client]"] = cached_property(_client("ec2"))
    iam: ClassVar["cached_property[IAMClient]"] = cached_property(_client("iam"))
    s3: ClassVar["cached_property[S3Client]"] = cached_property(_client("s3"))
    kms: ClassVar["cached_property[KMSClient]"] = cached_property(_client("kms"))
    athena: ClassVar["cached_property[AthenaClient]"] = cached_property(_client("athena"))
    glue: ClassVar["cached_property[GlueClient]"] = cached_property(_client("glue"))
    quotas: ClassVar["cached_property[ServiceQuotasClient]"] = cached_property(_client("service-quotas"))
    cloudwatch: ClassVar["cached_property[CloudWatchClient]"] = cached_property(_client("cloudwatch"))
    # No types are published for these two.
    sns: ClassVar["cached_property[Any]"] = cached_property(_client("sns"))
    free_tier: ClassVar["cached_property[Any]"] = cached_property(_free_tier)


def connect(stage: str, region: str) -> Cloud:
    """The stage as the caller's credentials reach it.

    Raises, before any request to AWS, OutsideEurope, and InvalidSetting for an impossible stage; CloudRefused and
    CloudUnavailable when there are no credentials or AWS does not accept them.
    """
    if region not in EU_REGIONS:
        raise OutsideEurope(
            f"{region} is not in the European Union, where the photos stay; choose one of {EU_REGIONS_IN_WORDS}."
        )
    if not _STAGE.fullmatch(stage):
        raise InvalidSetting(f"A stage is one to twelve lower-case letters and digits, like dev; not {stage}.")
    export_credentials()
    with aws_call("tell whose credentials these are"):
        identity = make_client("sts", region).get_caller_identity()
    return Cloud(stage, region, identity["Account"], identity["Arn"])
