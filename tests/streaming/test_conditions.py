"""A server that lacks a condition, or passes over it, is refused before anything is planned or deleted."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from store.errors import StorageRefused, UnsafeStorage
from store.home import Home
from store.objects.landing import Cleaning, list_landed
from store.objects.operations import keys_below
from store.settings import Settings, load_settings
from streaming.cleaning.clearing import Clearing
from streaming.conditions import check_conditions
from tests.conftest import REGION
from tests.support.fault_proxy import Rule, s3_error, set_rules
from tests.support.pictures import jpeg
from tests.support.stream_run import Run, outcomes

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

NOT_IMPLEMENTED = s3_error("NotImplemented", "A header you provided implies functionality that is not implemented.")


@pytest.fixture
def home(proxy: str, bucket: str, s3: "S3Client") -> Home:
    """A home in a bucket, through the proxy, with a photo in its landing."""
    s3.put_object(Bucket=bucket, Key="home/landing/kiwi/1.jpg", Body=jpeg(seed=1))
    return load_settings(home=f"s3://{bucket}/home", s3_endpoint=proxy, s3_region=REGION).places()


def _landed(home: Home) -> list[str]:
    return [landed.key for landed in list_landed(home.landing)]


def _passed_over(method: str, header: str) -> Rule:
    return Rule(method, "/home/", header=header, drops_header=True, times=-1)


@pytest.mark.parametrize("how", ["archive", "delete"])
def test_a_server_that_keeps_to_conditions_is_taken_and_keeps_nothing_of_it(home: Home, how: Cleaning) -> None:
    check_conditions(home, how)
    assert list(keys_below(home.root)) == ["landing/kiwi/1.jpg"]


@pytest.mark.parametrize(
    "status, body",
    [
        *((status, NOT_IMPLEMENTED) for status in (501, 400, 405)),
        # In other servers' words, and without any.
        (501, s3_error("InternalFailure", "This is not yet implemented.")),
        (501, ""),
    ],
)
@pytest.mark.parametrize("how", ["archive", "delete"])
def test_a_server_without_conditional_deletes_clears_nothing_away(
    home: Home, how: Cleaning, status: int, body: str
) -> None:
    rule = Rule("DELETE", "/home/", header="If-Match", answer=status, body=body, times=-1)
    set_rules(str(home.root.s3_endpoint), rule)
    with pytest.raises(UnsafeStorage, match=r"lacks the condition If-Match of a delete\. .*: use --clean keep\.$"):
        check_conditions(home, how)
    assert _landed(home) == ["kiwi/1.jpg"]
    check_conditions(home, "keep")


def test_a_server_that_passes_over_the_condition_of_a_delete_is_found_out(home: Home) -> None:
    set_rules(str(home.root.s3_endpoint), _passed_over("DELETE", "If-Match"))
    with pytest.raises(UnsafeStorage, match="passes over the condition If-Match of a delete"):
        check_conditions(home, "delete")
    assert list(keys_below(home.root)) == ["landing/kiwi/1.jpg"]


@pytest.mark.parametrize("header", ["If-None-Match", "If-Match"])
def test_a_server_that_passes_over_the_condition_of_a_put_holds_no_home(home: Home, header: str) -> None:
    set_rules(str(home.root.s3_endpoint), _passed_over("PUT", header))
    with pytest.raises(UnsafeStorage, match=f"passes over the condition {header} of a put"):
        check_conditions(home, "keep")


def test_a_permission_that_lacks_is_told_as_such(home: Home) -> None:
    denied = s3_error("AccessDenied", "Access Denied")
    set_rules(str(home.root.s3_endpoint), Rule("DELETE", "/home/", header="If-Match", answer=403, body=denied))
    with pytest.raises(StorageRefused, match="Access Denied"):
        check_conditions(home, "delete")


def test_a_server_that_loses_conditional_deletes_later_ends_the_clearing(home: Home) -> None:
    rule = Rule("DELETE", "/home/", header="If-Match", answer=501, body=NOT_IMPLEMENTED, times=-1)
    set_rules(str(home.root.s3_endpoint), rule)
    landed = next(list_landed(home.landing))
    # The proxy carries a request out before it replaces the answer: a replaced photo is what must stay.
    gone = replace(landed, etag=landed.etag[::-1])
    with ThreadPoolExecutor(1) as pool, pytest.raises(StorageRefused, match="not implemented"):
        Clearing(home, "delete", timedelta(seconds=60)).clear(pool, home.landing, [gone])
    assert _landed(home) == ["kiwi/1.jpg"]


def test_a_stream_is_refused_before_it_deletes(
    proxy: str,
    bucket: str,
    s3: "S3Client",
    s3_settings: Callable[..., Settings],
    drain: Callable[[Settings], Run],
) -> None:
    s3.put_object(Bucket=bucket, Key="home/landing/kiwi/1.jpg", Body=jpeg(seed=1))
    set_rules(proxy, _passed_over("DELETE", "If-Match"))
    with pytest.raises(UnsafeStorage):
        drain(s3_settings(s3_endpoint=proxy, clean="delete"))
    keeping = s3_settings(s3_endpoint=proxy)
    drain(keeping)
    assert [row["key"] for row in outcomes(keeping)] == ["kiwi/1.jpg"]
    assert _landed(keeping.places()) == ["kiwi/1.jpg"]
