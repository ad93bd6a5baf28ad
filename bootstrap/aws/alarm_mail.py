"""Lets an alarm go off once, so that whoever gets alarms by email sees that they arrive."""

from dataclasses import dataclass

from bootstrap.aws.cloud import Cloud
from bootstrap.aws.stack import Stack
from store.aws import aws_call
from store.errors import CloudUnavailable

# One that is silent on a new stage. The stream's own may have gone off already while the cluster was made, and an alarm
# tells nobody of the state that it is in (CloudWatch API, SetAlarmState).
_ALARM = "backlog-old"
_REASON = "A test by fruits deploy: if you read this, alarms arrive. Nothing is wrong."


@dataclass(frozen=True)
class MailTest:
    """Whether a test alarm went to an address, which it does once its owner has confirmed; `again` repeats it.

    `failure` is why that could not be found out or done.
    """

    address: str
    confirmed: bool
    failure: str | None
    again: str


def try_alarm_mail(cloud: Cloud, before: Stack | None, stack: Stack) -> MailTest | None:
    """Test the email of a stage that is new, or has a new address; None for all others.

    before: the stack before the deployment. CloudWatch puts the alarm back by itself within seconds.
    Who deploys may lack the right, which takes nothing from the stage: that is a result.
    """
    address = stack.parameters.get("AlarmEmail", "")
    was_told = before is not None and before.has_compute and before.parameters.get("AlarmEmail") == address
    if not address or was_told:
        return None
    alarm = f"{cloud.stack_name}-{_ALARM}"
    again = (
        f"aws cloudwatch set-alarm-state --region {cloud.region} --alarm-name {alarm} --state-value ALARM "
        "--state-reason test"
    )
    try:
        confirmed = _is_confirmed(cloud, stack.outputs["AlarmTopicArn"], address)
        if confirmed:
            with aws_call("test the email of the alarms"):
                cloud.cloudwatch.set_alarm_state(AlarmName=alarm, StateValue="ALARM", StateReason=_REASON)
    except CloudUnavailable as error:
        return MailTest(address, False, str(error), again)
    return MailTest(address, confirmed, None, again)


def _is_confirmed(cloud: Cloud, topic: str, address: str) -> bool:
    with aws_call("list who gets the alarms"):
        pages = cloud.sns.get_paginator("list_subscriptions_by_topic").paginate(TopicArn=topic)
        # What nobody has confirmed has a word instead of an ARN (SNS API, ListSubscriptionsByTopic).
        return any(
            each["Endpoint"] == address and each["SubscriptionArn"].startswith("arn:")
            for page in pages
            for each in page["Subscriptions"]
        )
