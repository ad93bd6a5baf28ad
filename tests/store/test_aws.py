"""What AWS answers becomes one sentence, and an error that says whether the same command can succeed later."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from features.errors import InvalidSetting
from store.aws import aws_call, make_client, session, try_aws_call
from store.errors import CloudRefused, CloudUnavailable
from tests.conftest import REGION
from tests.support.fault_proxy import Rule, s3_error, set_rules

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


@pytest.fixture
def client(proxy: str) -> "S3Client":
    made: S3Client = make_client("s3", REGION, proxy, attempts=1)
    return made


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "AccessDenied", CloudRefused),
        (400, "AccessDeniedException", CloudRefused),
        (404, "NoSuchBucket", CloudRefused),
        (400, "ValidationError", CloudRefused),
        (400, "ExpiredTokenException", CloudUnavailable),
        (400, "ThrottlingException", CloudUnavailable),
        (503, "ServiceUnavailable", CloudUnavailable),
        (500, "InternalError", CloudUnavailable),
    ],
)
def test_an_error_of_aws_says_whether_it_may_pass(
    client: "S3Client", proxy: str, status: int, code: str, kind: type[CloudUnavailable]
) -> None:
    set_rules(proxy, Rule("GET", "/kiwis", answer=status, body=s3_error(code, "So it is."), times=-1))
    sentence = rf"^AWS did not list the kiwis: So it is \({code}\)\.$"
    with pytest.raises(CloudUnavailable, match=sentence) as failed, aws_call("list the kiwis"):
        client.list_objects_v2(Bucket="kiwis")
    assert type(failed.value) is kind
    assert failed.value.retryable == (kind is CloudUnavailable)
    assert try_aws_call("list the kiwis", lambda: client.list_objects_v2(Bucket="kiwis"), "NoSuchKey", code) is None


def test_a_server_out_of_reach_may_be_there_later() -> None:
    nowhere = make_client("sts", REGION, "http://127.0.0.1:9", attempts=1)
    with pytest.raises(CloudUnavailable) as failed, aws_call("tell who you are"):
        nowhere.get_caller_identity()
    assert failed.value.retryable


@pytest.fixture
def without_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    session.cache_clear()
    yield
    session.cache_clear()


@pytest.mark.usefixtures("without_credentials")
def test_without_credentials_or_a_region_it_says_what_to_set() -> None:
    with pytest.raises(CloudRefused, match="no AWS credentials were found; run `aws"), aws_call("tell who you are"):
        make_client("sts", REGION).get_caller_identity()
    with pytest.raises(InvalidSetting, match="A client for sqs needs a region; give --s3-region, or set AWS_REGION"):
        make_client("sqs")
