"""Who is to get the alarms of a new stage sees that they arrive; a stage stands even if that could not be tested."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from bootstrap.aws.alarm_mail import MailTest, try_alarm_mail
from bootstrap.aws.cloud import Cloud
from bootstrap.aws.stack import Stack

ADDRESS = "operator@example.com"


@pytest.fixture
def cloud(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    return Cloud("mail", "eu-west-3", "123456789012", "administrator")


@pytest.fixture
def stack(cloud: Cloud) -> Iterator[Stack]:
    """A stage whose alarms go to the address, which has confirmed, and to a queue."""
    topic = cloud.sns.create_topic(Name="fruits-mail-alarms")["TopicArn"]
    cloud.sns.subscribe(TopicArn=topic, Protocol="email", Endpoint=ADDRESS)
    cloud.cloudwatch.put_metric_alarm(
        AlarmName="fruits-mail-backlog-old",
        Namespace="Fruits/mail",
        MetricName="BacklogAgeSeconds",
        Statistic="Maximum",
        Period=300,
        EvaluationPeriods=3,
        Threshold=1800,
        ComparisonOperator="GreaterThanThreshold",
        AlarmActions=[topic],
    )
    yield Stack("CREATE_COMPLETE", {"AlarmEmail": ADDRESS, "Artifacts": "0" * 64}, {"AlarmTopicArn": topic})
    cloud.cloudwatch.delete_alarms(AlarmNames=["fruits-mail-backlog-old"])


def test_an_alarm_of_a_new_stage_goes_off_and_says_that_it_is_a_test(cloud: Cloud, stack: Stack) -> None:
    tested = try_alarm_mail(cloud, None, stack)
    assert tested is not None
    assert (tested.address, tested.confirmed, tested.failure) == (ADDRESS, True, None)
    (alarm,) = cloud.cloudwatch.describe_alarms(AlarmNames=["fruits-mail-backlog-old"])["MetricAlarms"]
    assert (alarm["StateValue"], "Nothing is wrong" in alarm["StateReason"]) == ("ALARM", True)


def test_it_is_tested_once_and_again_for_a_new_address(cloud: Cloud, stack: Stack) -> None:
    other = replace(stack, parameters={**stack.parameters, "AlarmEmail": "before@example.com"})
    assert try_alarm_mail(cloud, stack, stack) is None
    assert try_alarm_mail(cloud, other, stack) is not None


def test_a_deployment_that_was_killed_before_its_alarms_stood_tests_when_it_goes_on(cloud: Cloud, stack: Stack) -> None:
    begun = replace(stack, parameters={**stack.parameters, "Artifacts": ""})
    assert try_alarm_mail(cloud, begun, stack) is not None


def test_a_stage_that_tells_nobody_has_nothing_to_test(cloud: Cloud, stack: Stack) -> None:
    silent = replace(stack, parameters={**stack.parameters, "AlarmEmail": ""})
    assert try_alarm_mail(cloud, None, silent) is None


def test_a_test_that_fails_is_a_result_with_its_reason_and_the_command(cloud: Cloud, stack: Stack) -> None:
    cloud.cloudwatch.delete_alarms(AlarmNames=["fruits-mail-backlog-old"])
    tested = try_alarm_mail(cloud, None, stack)
    assert isinstance(tested, MailTest)
    assert tested.failure is not None
    assert tested.failure.startswith("AWS did not test the email of the alarms")
    assert "--region eu-west-3 --alarm-name fruits-mail-backlog-old" in tested.again
