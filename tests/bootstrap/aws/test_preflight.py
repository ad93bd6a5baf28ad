"""What an account has to have before anything is made in it: told in a sentence, with the place to change it."""

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
import requests

from bootstrap.aws.cloud import Cloud
from bootstrap.aws.preflight.checks import preflight_findings
from bootstrap.aws.preflight.findings import Finding, NotReady, check_ready
from bootstrap.aws.preflight.needs import read_needs
from bootstrap.aws.stack import Stack
from store.aws import session
from tests.support import servers

REGION = "eu-west-3"
CELL = f"aws.api.{REGION}.emr-service-cell01"
QUOTAS = {"L-1216C47A": 32, "L-34B43A08": 32, "L-F678F1CE": 5}
GRANTED: dict[str, Any] = {
    "plan": "PAID",
    "quotas": QUOTAS,
    "releases": ["emr-spark-8.1.0"],
    "types_missing": {},
    "services_missing": {},
}
# One account for all of them.
pytestmark = pytest.mark.xdist_group("preflight")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with servers.aws_server(tmp_path_factory.mktemp("aws")) as url:
        yield url


@pytest.fixture(scope="module")
def cloud(url: str) -> Iterator[Cloud]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", url)
        yield Cloud("dev", REGION, "123456789012", "administrator")


@pytest.fixture(autouse=True)
def all_is_granted(url: str) -> None:
    """What a test before has changed of the account is as it was."""
    _account(url, **GRANTED)


def test_an_account_with_all_that_a_stage_needs_is_ready(cloud: Cloud) -> None:
    findings = _findings(cloud)
    assert [finding for finding in findings.values() if not finding.fine] == []
    check_ready(findings.values(), new_cluster=True)
    assert "12 needed" in findings["On-Demand"].says
    assert CELL in findings["endpoints"].says


@pytest.mark.parametrize(
    ("account", "what", "says"),
    [
        ({"plan": "FREE"}, "plan", "aws freetier upgrade-account-plan --account-plan-type PAID"),
        # What a new account often has.
        ({"quotas": QUOTAS | {"L-1216C47A": 5}}, "On-Demand", "Ask for 20 at https://eu-west-3.console.aws.amazon.com"),
        ({"quotas": QUOTAS | {"L-1216C47A": 8}}, "On-Demand", "needs 12: 8 always, 4 when there are no Spot instances"),
        ({"quotas": QUOTAS | {"L-34B43A08": 0}}, "Spot", "/servicequotas/home/services/ec2/quotas/L-34B43A08"),
        ({"quotas": QUOTAS | {"L-F678F1CE": 1}}, "networks", "/servicequotas/home/services/vpc/quotas/L-F678F1CE"),
        ({"releases": ["emr-7.9.0"]}, "release", "no release emr-spark-8.1.0 with Spark; choose another region"),
        ({"services_missing": {"eu-west-3a": [CELL]}}, "endpoints", f"no endpoint for {CELL} in eu-west-3a"),
        (
            {"types_missing": {f"eu-west-3{zone}": ["m6g.xlarge", "r6g.xlarge"] for zone in "ab"}},
            "instance types",
            "Neither eu-west-3a nor eu-west-3b has instances for the fleet",
        ),
    ],
)
def test_what_would_fail_after_twenty_minutes_is_refused_at_once(
    cloud: Cloud, url: str, account: dict[str, Any], what: str, says: str
) -> None:
    _account(url, **account)
    findings = _findings(cloud)
    assert says in findings[what].says
    with pytest.raises(NotReady) as refused:
        check_ready(findings.values(), new_cluster=True)
    assert findings[what].says == str(refused.value)


@pytest.mark.parametrize(
    ("account", "what", "says"),
    [
        ({"quotas": QUOTAS | {"L-1216C47A": 16}}, "On-Demand", "an upgrade, old beside new, needs 20"),
        ({"quotas": QUOTAS | {"L-34B43A08": 5}}, "Spot", "a cluster may grow to 12"),
        ({"types_missing": {"eu-west-3a": ["c7g.xlarge"]}}, "instance types", "There is no c7g.xlarge in eu-west-3a"),
        # EMR takes the other zone.
        ({"types_missing": {"eu-west-3b": ["m6g.xlarge", "r6g.xlarge"]}}, "instance types", "r6g.xlarge in eu-west-3b"),
    ],
)
def test_what_a_cluster_does_without_is_told_and_stops_nothing(
    cloud: Cloud, url: str, account: dict[str, Any], what: str, says: str
) -> None:
    _account(url, **account)
    findings = _findings(cloud)
    assert (findings[what].fine, says in findings[what].says) == (False, True), findings[what].says
    check_ready(findings.values(), new_cluster=True)


def test_an_upgrade_needs_room_beside_what_runs_and_a_changed_setting_none(cloud: Cloud, url: str) -> None:
    # As many as a cluster has, of which the stage's primary and core node are two.
    ec2 = boto3.client("ec2", endpoint_url=url, region_name=REGION)
    image = ec2.describe_images()["Images"][0]["ImageId"]
    ran = ec2.run_instances(ImageId=image, InstanceType="m6g.xlarge", MinCount=2, MaxCount=2)["Instances"]
    ran += ec2.run_instances(ImageId=image, InstanceType="p3.2xlarge", MinCount=1, MaxCount=1)["Instances"]
    _account(url, quotas=QUOTAS | {"L-1216C47A": 16, "L-F678F1CE": 2})
    try:
        findings = _findings(cloud, Stack("CREATE_COMPLETE", {"Artifacts": "0" * 64}, {"ClusterId": "j-1"}), True)
    finally:
        ec2.terminate_instances(InstanceIds=[each["InstanceId"] for each in ran])
    assert "8 are in use. A new cluster needs 12" in findings["On-Demand"].says
    check_ready(findings.values(), new_cluster=False)
    with pytest.raises(NotReady):
        check_ready(findings.values(), new_cluster=True)


def test_a_stage_is_asked_about_the_release_that_it_runs(cloud: Cloud, url: str) -> None:
    _account(url, releases=["emr-spark-8.0.0"])
    findings = _findings(cloud, Stack("CREATE_COMPLETE", {"ReleaseLabel": "emr-spark-8.0.0"}, {}))
    assert findings["release"] == Finding("release", True, "emr-spark-8.0.0")


@pytest.mark.parametrize("region", ["eu-central-1", "eu-west-1", "eu-west-3", "eu-north-1", "eu-south-1", "eu-south-2"])
@pytest.mark.parametrize("architecture", ["arm64", "x86_64"])
def test_the_template_tells_what_it_needs(region: str, architecture: Any) -> None:
    needs = read_needs(region, architecture)
    assert needs.zones == (f"{region}a", f"{region}b")
    assert {fleet.name for fleet in needs.fleets} == {"primary", "core", "task"}
    assert f"aws.api.{region}.emr-service-cell01" in needs.endpoint_zones
    assert all(needs.endpoint_zones.values())


def test_somebody_who_may_not_ask_is_told_so(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    iam = boto3.client("iam", endpoint_url=url, region_name=REGION)
    iam.create_user(UserName="nobody")
    key = iam.create_access_key(UserName="nobody")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    session.cache_clear()
    assert requests.post(f"{url}/moto-api/reset-auth", data="0", timeout=10).ok
    try:
        findings = _findings(Cloud("dev", REGION, "123456789012", "nobody"))
    finally:
        assert requests.post(f"{url}/moto-api/reset-auth", data="inf", timeout=10).ok
        session.cache_clear()
    assert findings["release"].says.startswith("Not known: AWS did not describe the release")
    check_ready(findings.values(), new_cluster=True)


def _findings(cloud: Cloud, stack: Stack | None = None, stands: bool = False) -> dict[str, Finding]:
    return {finding.what: finding for finding in preflight_findings(cloud, "arm64", 16, stack, stands)}


def _account(url: str, **account: Any) -> None:
    assert requests.post(f"{url}/account", data=json.dumps(account), timeout=10).ok
