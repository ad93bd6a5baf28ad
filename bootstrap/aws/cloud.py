"""One installation on AWS: its stage, its region, the account, and the way to ask AWS for something."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from features.errors import FruitsError, InvalidSetting
from store.errors import OutsideEurope
from store.objects.region import EU_REGIONS

if TYPE_CHECKING:
    from boto3.session import Session
    from types_boto3_athena import AthenaClient
    from types_boto3_cloudformation import CloudFormationClient
    from types_boto3_ec2 import EC2Client
    from types_boto3_emr import EMRClient
    from types_boto3_glue import GlueClient
    from types_boto3_iam import IAMClient
    from types_boto3_kms import KMSClient
    from types_boto3_s3 import S3Client
    from types_boto3_service_quotas import ServiceQuotasClient

_STAGE = re.compile(r"[a-z][a-z0-9]{0,11}")
# Of credentials that boto3 found in these ways a copy can be used; those of a machine's role would expire.
_PERSONAL = {
    "shared-credentials-file",
    "config-file",
    "sso",
    "assume-role",
    "assume-role-with-web-identity",
    "custom-process",
    "login",
}


class CloudRefused(FruitsError):
    """AWS did not do what it was asked; what was done before stays, and the same command goes on from there."""

    retryable = True


@dataclass(frozen=True)
class Cloud:
    """A stage in one region of one account; `caller` is the ARN that asks."""

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

    @cached_property
    def cloudformation(self) -> "CloudFormationClient":
        return _session().client("cloudformation", region_name=self.region)

    @cached_property
    def emr(self) -> "EMRClient":
        return _session().client("emr", region_name=self.region)

    @cached_property
    def ec2(self) -> "EC2Client":
        return _session().client("ec2", region_name=self.region)

    @cached_property
    def iam(self) -> "IAMClient":
        return _session().client("iam", region_name=self.region)

    @cached_property
    def s3(self) -> "S3Client":
        return _session().client("s3", region_name=self.region)

    @cached_property
    def kms(self) -> "KMSClient":
        return _session().client("kms", region_name=self.region)

    @cached_property
    def athena(self) -> "AthenaClient":
        return _session().client("athena", region_name=self.region)

    @cached_property
    def glue(self) -> "GlueClient":
        return _session().client("glue", region_name=self.region)

    @cached_property
    def quotas(self) -> "ServiceQuotasClient":
        return _session().client("service-quotas", region_name=self.region)


def connect(stage: str, region: str) -> Cloud:
    """The stage as the caller's credentials reach it.

    Raises OutsideEurope before anything is asked of AWS, InvalidSetting for an impossible stage, CloudRefused when
    there are no credentials or AWS does not take them.
    """
    if region not in EU_REGIONS:
        cities = ", ".join(f"{name} ({city})" for name, city in EU_REGIONS.items())
        raise OutsideEurope(f"{region} is not in the European Union, where the photos stay; choose one of {cities}.")
    if not _STAGE.fullmatch(stage):
        raise InvalidSetting(f"A stage is one to twelve lower-case letters and digits, like dev; not {stage}.")
    use_own_credentials()
    with asked("who you are"):
        identity = _session().client("sts", region_name=region).get_caller_identity()
    return Cloud(stage, region, identity["Account"], identity["Arn"])


def use_own_credentials() -> None:
    """Let obstore and deltalake have the credentials of a profile or a single sign-on, which they do not look for.

    Replay renews what they have. Raises CloudRefused when what is configured cannot be read.
    """
    from botocore.exceptions import BotoCoreError

    try:
        credentials = _session().get_credentials()
        if credentials is None or credentials.method not in _PERSONAL:
            return
        frozen = credentials.get_frozen_credentials()
    except BotoCoreError as error:
        raise CloudRefused(f"The AWS credentials cannot be read: {str(error).rstrip('.')}.") from error
    os.environ["AWS_ACCESS_KEY_ID"] = frozen.access_key or ""
    os.environ["AWS_SECRET_ACCESS_KEY"] = frozen.secret_key or ""
    if frozen.token:
        os.environ["AWS_SESSION_TOKEN"] = frozen.token


@lru_cache(maxsize=1)
def _session() -> "Session":
    # From before the environment has the copies, so that what expires is renewed where it came from.
    import boto3

    session = boto3.session.Session()
    session.get_credentials()
    return session


@contextmanager
def asked(what: str) -> Iterator[None]:
    """Say in one sentence why AWS did not answer what it was asked. Raises CloudRefused."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except NoCredentialsError as error:
        raise CloudRefused(
            "No AWS credentials were found. Run `aws configure` or `aws sso login`, or set AWS_PROFILE or "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        ) from error
    except ClientError as error:
        told = error.response.get("Error", {})
        raise CloudRefused(
            f"AWS does not answer {what} ({told.get('Code', 'no code')}): {told.get('Message', '').rstrip('.')}."
        ) from error
    except BotoCoreError as error:
        raise CloudRefused(f"AWS cannot be asked {what}: {str(error).rstrip('.')}.") from error
