"""The whole deployment on stand-ins for AWS: the stack's own roles, the nodes' own packages, real jobs as steps."""

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import boto3
import pytest
import requests
from botocore.exceptions import ClientError

from bootstrap.aws.cloud import Cloud
from bootstrap.aws.handover import stop_stream
from bootstrap.aws.steps import job_steps, submit
from bootstrap.aws.template import read_template
from ops.query.query import connect, run_query
from ops.status.status import read_status
from store.aws import session
from store.settings import Settings, load_settings
from store.state.heartbeat import read_heartbeat
from tests.support.command_run import Ended, run_fruits
from tests.support.pictures import encoded, grainy, text_file
from tests.support.servers import aws_server

REGION = "eu-west-3"
ACCOUNT = "123456789012"
STACK = "fruits-dev"
DATA = f"{STACK}-{ACCOUNT}-{REGION}"
OPS = f"{DATA}-ops"
MAIL = "operator@example.com"
LONG_S = 120

# One deployment for all of them, in one process.
pytestmark = [pytest.mark.deployment, pytest.mark.xdist_group("aws")]


@dataclass(frozen=True)
class Account:
    """An AWS account that nothing was ever made in, and its administrator's key."""

    url: str
    key: dict[str, str]

    def client(self, service: str, role: str | None = None) -> Any:
        """A client with the administrator's rights, or with those of one of the stack's roles."""
        key = self.key if role is None else self.assumed(role)
        return boto3.session.Session(
            aws_access_key_id=key["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=key["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=key.get("AWS_SESSION_TOKEN"),
            region_name=REGION,
        ).client(service, endpoint_url=self.url)

    def outputs(self) -> dict[str, str]:
        found = self.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"][0]
        return {each["OutputKey"]: each["OutputValue"] for each in found["Outputs"]}

    def fruits(self, *arguments: str, **settings: str) -> Ended:
        """The command as its user has it, in a directory without settings."""
        environment = {name: os.environ[name] for name in os.environ if not name.startswith(("AWS_", "FRUITS_"))}
        environment |= self.key | {"AWS_ENDPOINT_URL": self.url, "FRUITS_S3_ENDPOINT": self.url}
        environment |= {"FRUITS_WEIGHTS": "untrained:7", "FRUITS_ARCHITECTURE": "x86_64"}
        environment |= {f"FRUITS_{name.upper()}": value for name, value in settings.items()}
        session.cache_clear()
        with patch.dict(os.environ, environment, clear=True), contextlib.chdir("/"):
            try:
                return run_fruits(*arguments)
            finally:
                session.cache_clear()

    def steps(self, name: str = "fruits-stream") -> list[dict[str, Any]]:
        found = self.client("emr").list_steps(ClusterId=self.outputs()["ClusterId"])["Steps"]
        return [step for step in found if step["Name"] == name]

    def assumed(self, role: str) -> dict[str, str]:
        arn = self.outputs()[role]
        if role == "ClusterRoleArn":
            # Only machines may take this one; what it may do stays as it is.
            trust = (
                '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": '
            )
            trust += f'{{"AWS": "arn:aws:iam::{ACCOUNT}:root"}}}}]}}'
            self.client("iam").update_assume_role_policy(RoleName=arn.rpartition("/")[2], PolicyDocument=trust)
        given = self.client("sts").assume_role(RoleArn=arn, RoleSessionName="test")["Credentials"]
        return {
            "AWS_ACCESS_KEY_ID": given["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": given["SecretAccessKey"],
            "AWS_SESSION_TOKEN": given["SessionToken"],
        }


@pytest.fixture(scope="module", autouse=True)
def looks_again_soon() -> Iterator[None]:
    """What waits for the cluster need not spare it."""
    with pytest.MonkeyPatch.context() as pauses:
        for module in ("bootstrap.aws.handover", "bootstrap.aws.stack", "ops.cli.aws.submit"):
            pauses.setattr(f"{module}.POLL_S", 0.3)
        yield


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    with aws_server(tmp_path_factory.mktemp("aws")) as url:
        root = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        iam = Account(url, root).client("iam")
        iam.create_user(UserName="administrator")
        everything = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'
        iam.put_user_policy(UserName="administrator", PolicyName="everything", PolicyDocument=everything)
        key = iam.create_access_key(UserName="administrator")["AccessKey"]
        # From here on every request is signed by somebody, who may do what policies say.
        assert requests.post(f"{url}/moto-api/reset-auth", data="0", timeout=10).ok
        yield Account(url, {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]})


@pytest.fixture(scope="module")
def stage(account: Account) -> Account:
    """The account with a stage in it, whose stream runs; a deployment before was killed when it had hardly begun."""
    account.client("cloudformation").create_change_set(
        StackName=STACK,
        ChangeSetName="killed",
        ChangeSetType="CREATE",
        TemplateBody=read_template().foundation().text,
        Parameters=[{"ParameterKey": "Stage", "ParameterValue": "dev"}],
        Capabilities=["CAPABILITY_IAM"],
    )
    done = account.fruits("deploy", alarm_email=MAIL)
    assert done.returncode == 0, done.stderr
    assert f"A test alarm went to {MAIL}" in done.stdout
    _wait_for(lambda: account.steps()[0]["Status"]["State"] == "RUNNING", account)
    return account


@pytest.fixture
def reading(stage: Account, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Settings of the stage's home, for somebody who may read it."""
    for name, value in stage.key.items():
        monkeypatch.setenv(name, value)
    session.cache_clear()
    yield load_settings(home=f"s3://{DATA}", s3_endpoint=stage.url, s3_region=REGION)
    session.cache_clear()


def test_what_the_uploader_puts_becomes_rows_and_copies(stage: Account, reading: Settings) -> None:
    key = _upload(stage, photo(1))
    text = _upload(stage, text_file())

    _wait_for(lambda: _outcomes(reading).keys() >= {key, text}, stage)

    assert _outcomes(reading)[key] == "photo"
    assert _outcomes(reading)[text] == "not_an_image"
    copied = run_query(connect(reading.places()), "SELECT source FROM copies").to_pylist()
    assert [row["source"] for row in copied] == [key]
    assert read_status(reading.places(), verify=True).broken == []


def test_the_alarm_that_tests_the_email_says_that_it_is_a_test(stage: Account) -> None:
    (alarm,) = [
        each for each in stage.client("cloudwatch").describe_alarms()["MetricAlarms"] if each["StateValue"] == "ALARM"
    ]
    assert alarm["StateReason"] == "A test by fruits deploy: if you read this, alarms arrive. Nothing is wrong."
    assert alarm["AlarmActions"] == [stage.outputs()["AlarmTopicArn"]]


def test_a_changed_setting_hands_the_stream_over_without_losing_or_doubling_a_photo(
    stage: Account, reading: Settings
) -> None:
    before = _upload(stage, photo(2))
    done = stage.fruits("deploy", trigger="300ms", layout="first-folder", answers="true")
    after = _upload(stage, photo(3))

    assert done.returncode == 0, done.stderr
    assert "handed over" in done.stdout
    assert [step["Status"]["State"] for step in stage.steps()].count("COMPLETED") == 1
    _wait_for(lambda: _outcomes(reading).keys() >= {before, after}, stage)
    assert read_status(reading.places(), verify=True).broken == []


def test_deploying_again_changes_nothing(stage: Account) -> None:
    # Who deploys without the setting of the one before keeps it.
    before = stage.steps()
    uploaded = _listed(stage, OPS, "artifacts/")

    done = stage.fruits("deploy")

    assert done.returncode == 0, done.stderr
    assert "runs already" in done.stdout
    assert "test alarm" not in done.stdout
    assert "--answers --clean reduce --clean-after 7d" in " ".join(done.stdout.split())
    assert "--layout first-folder" in done.stdout
    assert "--trigger 300ms" in done.stdout
    assert [step["Id"] for step in stage.steps()] == [step["Id"] for step in before]
    assert _listed(stage, OPS, "artifacts/") == uploaded


def test_a_key_pattern_takes_the_place_of_the_layout_that_the_stream_has(stage: Account) -> None:
    shown = stage.fruits("deploy", "--dry-run", key_pattern="^(?P<label>[^/]+)/")
    assert shown.returncode == 0, shown.stderr
    assert "fine  template: CloudFormation takes its foundation" in shown.stdout
    assert "--key-pattern ^(?P<label>[^/]+)/" in shown.stdout
    assert "--layout" not in shown.stdout


def test_a_stream_whose_step_failed_is_submitted_again_and_goes_on(stage: Account, reading: Settings) -> None:
    before = _running(stage)

    assert requests.get(f"{stage.url}/lose-the-stream", timeout=10).ok
    _wait_for(lambda: [step["Id"] for step in _running(stage)] not in ([], [step["Id"] for step in before]), stage)

    assert [step["Config"]["Args"] for step in _running(stage)] == [step["Config"]["Args"] for step in before]
    key = _upload(stage, photo(7))
    _wait_for(lambda: key in _outcomes(reading), stage)
    assert read_status(reading.places(), verify=True).broken == []


def test_a_stream_without_a_sign_of_life_is_ended_with_its_driver(
    stage: Account, reading: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", stage.url)
    cloud, cluster = Cloud("dev", REGION, ACCOUNT, "administrator"), stage.outputs()["ClusterId"]
    last = job_steps(cloud, cluster, "stream")[0].step
    assert stop_stream(cloud, cluster, reading.places(), print)
    begun = submit(cloud, cluster, last)
    _wait_for(lambda: begun in [step["Id"] for step in _running(stage)], stage)

    assert stop_stream(cloud, cluster, reading.places(), print)

    assert next(step for step in job_steps(cloud, cluster, "stream") if step.id == begun).state == "CANCELLED"
    ended = stage.steps("fruits-drivers-end")[0]["Status"]["State"]
    assert (ended, read_heartbeat(reading.places()).ended_at is not None) == ("COMPLETED", True)
    again = stage.fruits("submit", "stream")
    assert "started" in again.stdout, again.stderr


def test_jobs_run_as_steps_beside_the_stream_and_their_words_can_be_read(stage: Account, reading: Settings) -> None:
    keys = {_upload(stage, photo(seed)) for seed in (4, 5, 6)}
    _wait_for(lambda: _outcomes(reading).keys() >= keys, stage)

    refit = stage.fruits("submit", "refit", "--min-rows", "2", "--components", "2", "--reproject", "--wait")
    maintained = stage.fruits("submit", "maintain", "--wait")

    assert refit.returncode == 0, refit.stderr + stage.fruits("logs", "refit").stdout
    assert maintained.returncode == 0, maintained.stderr + stage.fruits("logs", "maintain").stdout
    assert "explained variance" in stage.fruits("logs", "refit").stdout
    found = run_query(connect(reading.places()), "SELECT count(*) AS photos FROM current_projections").to_pylist()
    assert found[0]["photos"] >= 3
    assert read_status(reading.places(), verify=True).broken == []


def test_a_job_that_would_not_be_understood_is_refused_before_the_cluster_is_asked(stage: Account) -> None:
    before = len(stage.steps("fruits-refit"))

    done = stage.fruits("submit", "refit", "--componets", "3")

    assert done.returncode != 0
    assert "--componets" in done.stderr
    assert len(stage.steps("fruits-refit")) == before


@pytest.mark.parametrize(
    ("role", "service", "call", "arguments"),
    [
        ("ClusterRoleArn", "glue", "delete_table", {"DatabaseName": "fruits_dev", "Name": "features"}),
        ("ClusterRoleArn", "s3", "delete_bucket", {"Bucket": DATA}),
        ("ClusterRoleArn", "s3", "delete_object", {"Bucket": DATA, "Key": "features/x.parquet", "VersionId": "1"}),
        ("ClusterRoleArn", "s3", "get_object", {"Bucket": "somebody-elses", "Key": "x"}),
        ("ClusterRoleArn", "s3", "list_objects_v2", {"Bucket": "somebody-elses"}),
        ("ClusterRoleArn", "s3", "put_bucket_logging", {"Bucket": DATA, "BucketLoggingStatus": {}}),
        ("ClusterRoleArn", "s3", "delete_bucket_policy", {"Bucket": DATA}),
        ("ClusterRoleArn", "sqs", "purge_queue", {"QueueUrl": "queue"}),
        ("ClusterRoleArn", "iam", "create_user", {"UserName": "me"}),
        ("UploaderRoleArn", "s3", "list_objects_v2", {"Bucket": DATA}),
        ("UploaderRoleArn", "athena", "start_query_execution", {"QueryString": "SELECT 1", "WorkGroup": STACK}),
        ("AnalystRoleArn", "s3", "get_object", {"Bucket": DATA, "Key": "state/stream.json"}),
        ("AnalystRoleArn", "glue", "delete_table", {"DatabaseName": "fruits_dev", "Name": "features"}),
        ("AnalystRoleArn", "emr", "list_steps", {"ClusterId": "j-1"}),
        ("OperatorRoleArn", "cloudformation", "delete_stack", {"StackName": STACK}),
    ],
)
def test_a_role_may_do_no_more_than_its_work(
    stage: Account, role: str, service: str, call: str, arguments: dict[str, Any]
) -> None:
    if arguments.get("QueueUrl") == "queue":
        arguments = {"QueueUrl": stage.outputs()["QueueUrl"]}

    client = stage.client(service, role)

    with pytest.raises(ClientError, match=r"AccessDenied|not authorized"):
        getattr(client, call)(**arguments)


def test_an_analyst_reads_the_tables_and_asks_athena(stage: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in stage.assumed("AnalystRoleArn").items():
        monkeypatch.setenv(name, value)
    analyst = load_settings(home=f"s3://{DATA}", s3_endpoint=stage.url, s3_region=REGION)

    assert run_query(connect(analyst.places()), "SELECT count(*) AS rows FROM arrivals").to_pylist()[0]["rows"] > 0
    athena = stage.client("athena", "AnalystRoleArn")
    started = athena.start_query_execution(
        QueryString="SELECT count(*) FROM current_projections",
        WorkGroup=STACK,
        QueryExecutionContext={"Database": "fruits_dev"},
    )
    assert (
        athena.get_query_execution(QueryExecutionId=started["QueryExecutionId"])["QueryExecution"]["WorkGroup"] == STACK
    )


def test_what_athena_was_asked_when_the_stage_was_deployed(stage: Account) -> None:
    athena = stage.client("athena")
    asked = [
        athena.get_query_execution(QueryExecutionId=each)["QueryExecution"]
        for each in athena.list_query_executions()["QueryExecutionIds"]
    ]
    statements = "\n".join(each["Query"] for each in asked)

    assert {each["WorkGroup"] for each in asked} == {STACK}
    assert f"LOCATION 's3://{DATA}/features/'" in statements
    assert "CREATE OR REPLACE VIEW current_projections" in statements


def test_a_stage_is_taken_down_brought_back_and_at_last_deleted_by_name(stage: Account, reading: Settings) -> None:
    rows = len(_outcomes(reading))
    down = stage.fruits("destroy")
    assert down.returncode == 0, down.stderr
    assert "ClusterId" not in stage.outputs()
    assert len(_outcomes(reading)) == rows
    unseen = _upload(stage, photo(9))

    _account(stage, email_confirmed=False, quotas={"L-1216C47A": 5, "L-34B43A08": 5, "L-F678F1CE": 5})
    refused = stage.fruits("deploy")
    assert (refused.returncode, "Ask for 20 at" in refused.stderr) == (1, True)
    shown = stage.fruits("deploy", "--dry-run")
    assert (shown.returncode, "A deployment would be refused" in shown.stdout) == (1, True)
    _account(stage, quotas={"L-1216C47A": 32, "L-34B43A08": 32, "L-F678F1CE": 5})
    again = stage.fruits("deploy")
    assert again.returncode == 0, again.stderr
    assert f"{MAIL} gets no alarms yet" in again.stdout
    # Its last stream is gone; the stack remembers the rule.
    assert "--clean reduce --clean-after 7d" in " ".join(again.stdout.split())
    _wait_for(lambda: unseen in _outcomes(reading), stage)

    unconfirmed = stage.fruits("destroy", "--delete-data")
    assert (unconfirmed.returncode, "--confirm fruits-dev" in unconfirmed.stderr) == (1, True)
    wrong = stage.fruits("destroy", "--delete-data", "--confirm", "fruits-prod")
    assert (wrong.returncode, "nothing was deleted" in wrong.stderr) == (1, True)
    assert unseen in _outcomes(reading)
    gone = stage.fruits("destroy", "--delete-data", "--confirm", STACK)
    assert gone.returncode == 0, gone.stderr
    assert [bucket["Name"] for bucket in stage.client("s3").list_buckets()["Buckets"]] == []
    kms = stage.client("kms")
    states = [kms.describe_key(KeyId=key["KeyId"])["KeyMetadata"]["KeyState"] for key in kms.list_keys()["Keys"]]
    assert set(states) == {"PendingDeletion"}
    assert "There is no fruits-dev" in stage.fruits("destroy").stderr

    # A bucket that a stack deleted in the console has left.
    s3 = stage.client("s3")
    s3.create_bucket(Bucket=DATA, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_object(Bucket=DATA, Key="landing/kiwi/1.jpg", Body=photo(1))
    left = stage.fruits("deploy")
    assert (left.returncode, "which holds its photos" in left.stderr) == (1, True)
    assert _listed(stage, DATA, "landing/") != []


def test_a_region_outside_the_union_is_refused_before_anything_is_asked(account: Account) -> None:
    nowhere = Account("http://127.0.0.1:9", account.key)

    done = nowhere.fruits("deploy", "--region", "eu-west-2")

    assert done.returncode == 1
    assert "eu-west-2 is not in the European Union" in done.stderr


def photo(seed: int) -> bytes:
    return encoded(grainy(seed, 320, 240), "JPEG")


def _account(account: Account, **changes: Any) -> None:
    assert requests.post(f"{account.url}/account", json=changes, timeout=10).ok


def _running(account: Account) -> list[dict[str, Any]]:
    return [step for step in account.steps() if step["Status"]["State"] == "RUNNING"]


def _upload(account: Account, body: bytes) -> str:
    key = f"landing/kiwi/{uuid.uuid4().hex}.jpg"
    account.client("s3", "UploaderRoleArn").put_object(Bucket=DATA, Key=key, Body=body, IfNoneMatch="*")
    return f"s3://{DATA}/{key}"


def _outcomes(settings: Settings) -> dict[str, str]:
    found = run_query(connect(settings.places()), "SELECT source, outcome FROM arrivals").to_pylist()
    assert len({row["source"] for row in found}) == len(found)
    return {row["source"]: row["outcome"] for row in found}


def _listed(account: Account, bucket: str, prefix: str) -> list[tuple[str, Any]]:
    found = account.client("s3").list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    return [(each["Key"], each["LastModified"]) for each in found]


def _wait_for(is_so: Callable[[], bool], account: Account) -> None:
    deadline_s = time.monotonic() + LONG_S
    while not is_so():
        assert time.monotonic() < deadline_s, account.fruits("logs").stdout
        time.sleep(0.3)
