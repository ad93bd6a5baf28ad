"""The one place that loads boto3: clients for AWS's services, and the sentences that their errors become."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from features.errors import InvalidSetting
from store.errors import CloudRefused, CloudUnavailable
from store.objects.faults import is_final, reason

if TYPE_CHECKING:
    from boto3.session import Session

# Copies of credentials that boto3 found in these ways can be used; those of a machine's role would expire.
_PERSONAL = {
    *("shared-credentials-file", "config-file", "sso", "login", "custom-process"),
    *("assume-role", "assume-role-with-web-identity"),
}
_SESSION_IN_USE = Lock()

_T = TypeVar("_T")


def make_client(
    service: str,
    region: str | None = None,
    endpoint: str | None = None,
    *,
    attempts: int = 5,
    connect_timeout_s: float = 5.0,
    read_timeout_s: float = 60.0,
    connections: int = 10,
) -> Any:
    """A client for one of AWS's services.

    region: default AWS_REGION, then the profile's. attempts: how often a request is sent at most.
    Raises InvalidSetting when no region is known.
    """
    from botocore.config import Config
    from botocore.exceptions import NoRegionError

    config = Config(
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=connect_timeout_s,
        read_timeout=read_timeout_s,
        max_pool_connections=connections,
    )
    try:
        # A session makes one client at a time.
        with _SESSION_IN_USE:
            # boto3 itself does not know the name that all other clients read.
            region = region or os.environ.get("AWS_REGION")
            return session().client(service, region_name=region, endpoint_url=endpoint, config=config)  # type: ignore[call-overload]
    except NoRegionError as error:
        raise InvalidSetting(f"A client for {service} needs a region; give --s3-region, or set AWS_REGION.") from error


@lru_cache(maxsize=1)
def session() -> "Session":
    """This process's session. Its credentials are renewed where they came from, also after `export_credentials`."""
    import boto3

    made = boto3.session.Session()
    made.get_credentials()
    parsers = made._session.get_component("response_parser_factory")
    parsers.set_parser_defaults(timestamp_parser=_parse_timestamp)
    return made


def export_credentials() -> None:
    """Put the credentials of a profile or a single sign-on where obstore and deltalake look for them: the environment.

    Replay renews them. Raises CloudRefused when what is configured cannot be read.
    """
    from botocore.exceptions import BotoCoreError

    try:
        credentials = session().get_credentials()
        if credentials is None or credentials.method not in _PERSONAL:
            return
        frozen = credentials.get_frozen_credentials()
    except BotoCoreError as error:
        raise CloudRefused(f"The AWS credentials cannot be read: {reason(error)}.") from error
    os.environ["AWS_ACCESS_KEY_ID"] = frozen.access_key or ""
    os.environ["AWS_SECRET_ACCESS_KEY"] = frozen.secret_key or ""
    if frozen.token:
        os.environ["AWS_SESSION_TOKEN"] = frozen.token


@contextmanager
def aws_call(operation: str) -> Iterator[None]:
    """Turn what boto3 raises into "AWS did not `operation`": CloudRefused, or CloudUnavailable for what may pass."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        kind = CloudRefused if is_final(error) else CloudUnavailable
        raise kind(f"AWS did not {operation}: {reason(error)}.") from error


def try_aws_call(operation: str, request: Callable[[], _T], *expected: str) -> _T | None:
    """What a request returns; None if it fails with one of the expected error codes or words. Raises as `aws_call`."""
    from botocore.exceptions import ClientError

    with aws_call(operation):
        try:
            return request()
        except ClientError as error:
            answer = error.response["Error"]
            if answer["Code"] in expected or any(words in answer.get("Message", "") for words in expected):
                return None
            raise


def _parse_timestamp(value: Any) -> datetime:
    # What botocore does with a listing's thousand times takes three quarters of the time that a page of it takes.
    from botocore.utils import parse_timestamp

    try:
        parsed = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return parse_timestamp(value)
    return parsed if parsed.tzinfo else parse_timestamp(value)
