"""The CloudFormation stack of a stage: what exists, what a change would do, and the change itself."""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bootstrap.aws.cloud import Cloud
from bootstrap.aws.template import Template, read_template, upload_template
from features.errors import InvalidSetting
from store.aws import aws_call, try_aws_call
from store.errors import CloudRefused, CloudUnavailable

if TYPE_CHECKING:
    from types_boto3_cloudformation.type_defs import ParameterTypeDef

POLL_S = 5.0

_NO_CHANGES = ("didn't contain changes", "No updates are to be performed", "NO_CHANGES")
# Nothing of the stack is left then but its name.
_NEVER_MADE = {"ROLLBACK_COMPLETE", "REVIEW_IN_PROGRESS"}


class StackFailed(CloudUnavailable):
    """CloudFormation could not make the change; it has restored what existed before."""


@dataclass(frozen=True)
class Stack:
    """A stack as CloudFormation describes it."""

    status: str
    parameters: Mapping[str, str]
    outputs: Mapping[str, str]

    @property
    def has_compute(self) -> bool:
        return bool(self.parameters.get("Artifacts"))


@dataclass(frozen=True)
class Event:
    """A change of one resource of a stack."""

    id: str
    at: datetime
    resource: str
    status: str
    reason: str | None

    @property
    def failed(self) -> bool:
        return self.status.endswith("_FAILED") and "cancelled" not in (self.reason or "").lower()


@dataclass(frozen=True)
class Change:
    """What a change set would do to one resource."""

    action: str
    resource: str
    kind: str
    replaces: bool


def find_stack(cloud: Cloud) -> Stack | None:
    """The stage's stack, or None when there is none. Raises CloudRefused, CloudUnavailable."""
    found = try_aws_call(
        f"describe {cloud.stack_name}",
        lambda: cloud.cloudformation.describe_stacks(StackName=cloud.stack_name)["Stacks"][0],
        "does not exist",
    )
    if found is None or found["StackStatus"] == "DELETE_COMPLETE":
        return None
    return Stack(
        found["StackStatus"],
        {parameter["ParameterKey"]: parameter.get("ParameterValue", "") for parameter in found.get("Parameters", [])},
        {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])},
    )


def existing_stack(cloud: Cloud) -> Stack:
    """The stage's stack. Raises InvalidSetting when there is none, CloudRefused, CloudUnavailable."""
    stack = find_stack(cloud)
    if stack is None:
        raise InvalidSetting(
            f"There is no {cloud.stack_name} in {cloud.region} of account {cloud.account}; check --stage and --region, "
            "or run `fruits deploy`."
        )
    return stack


def changeable_stack(cloud: Cloud, on_event: Callable[[Event], None]) -> Stack | None:
    """The stage's stack if it can be changed now, or None when there is none.

    What a failed first deployment left, which is a name, is deleted. Raises CloudUnavailable while somebody else
    changes the stack, CloudRefused when a person has to repair it.
    """
    stack = find_stack(cloud)
    if stack is None:
        return None
    if stack.status in _NEVER_MADE:
        delete_stack(cloud, on_event)
        return None
    if stack.status.endswith("_IN_PROGRESS"):
        raise CloudUnavailable(
            f"{cloud.stack_name} is being changed by somebody else; run this again when that is done."
        )
    if stack.status == "UPDATE_ROLLBACK_FAILED":
        raise CloudRefused(
            f"{cloud.stack_name} could not be put back after a change that failed; choose "
            f"“Continue update rollback” at {_console_link(cloud)}, then run this again."
        )
    if stack.status.endswith("_FAILED"):
        raise CloudRefused(
            f"{cloud.stack_name} is {stack.status}: its events at {_console_link(cloud)} say what is in the way. See "
            "to that and delete the stack there, which keeps the photos, or run `fruits destroy --delete-data`."
        )
    return stack


def change_stack(cloud: Cloud, parameters: Mapping[str, str], on_event: Callable[[Event], None]) -> Stack:
    """Create the stack's foundation, or bring the stack to this version's template and to these parameters.

    Other parameters keep their values. Returns when CloudFormation has finished, cleaning up included.
    Replay changes nothing. Raises StackFailed with the reason of the first resource that failed, CloudRefused,
    CloudUnavailable.
    """
    stack = changeable_stack(cloud, on_event)
    template = read_template()
    changed = _change(cloud, stack, parameters, template if stack else template.foundation(), on_event)
    if stack is None:
        # Nobody deletes it by a slip in the console.
        with aws_call(f"protect {cloud.stack_name}"):
            cloud.cloudformation.update_termination_protection(
                StackName=cloud.stack_name, EnableTerminationProtection=True
            )
    return changed


def change_parameters(cloud: Cloud, parameters: Mapping[str, str], on_event: Callable[[Event], None]) -> Stack:
    """Change parameters of a stack and keep its template. Returns and raises as `change_stack`."""
    return _change(cloud, changeable_stack(cloud, on_event), parameters, None, on_event)


def preview_changes(cloud: Cloud, parameters: Mapping[str, str]) -> list[Change]:
    """What `change_stack` would do to an existing stack; nothing is changed. Raises as `change_stack`."""
    name, changes = _create_change_set(cloud, existing_stack(cloud), parameters, read_template())
    _delete_change_set(cloud, name)
    return changes or []


def delete_stack(cloud: Cloud, on_event: Callable[[Event], None]) -> None:
    """Delete the stack; what the template retains stays. Replay finds nothing. Raises as `change_stack`."""
    started_at = datetime.now(UTC)
    with aws_call(f"delete {cloud.stack_name}"):
        cloud.cloudformation.update_termination_protection(
            StackName=cloud.stack_name, EnableTerminationProtection=False
        )
        cloud.cloudformation.delete_stack(StackName=cloud.stack_name)
    _wait_for_the_end(cloud, started_at, on_event)


def _change(
    cloud: Cloud,
    stack: Stack | None,
    parameters: Mapping[str, str],
    template: Template | None,
    on_event: Callable[[Event], None],
) -> Stack:
    name, changes = _create_change_set(cloud, stack, parameters, template)
    if changes is None:
        _delete_change_set(cloud, name)
    else:
        started_at = datetime.now(UTC)
        with aws_call(f"change {cloud.stack_name}"):
            cloud.cloudformation.execute_change_set(StackName=cloud.stack_name, ChangeSetName=name)
        _wait_for_the_end(cloud, started_at, on_event)
    return existing_stack(cloud)


def _create_change_set(
    cloud: Cloud, stack: Stack | None, parameters: Mapping[str, str], template: Template | None
) -> tuple[str, list[Change] | None]:
    """The change set's name, and its changes of resources; None when it changes nothing, not even an output.

    A `template` of None keeps the stack's own.
    """
    old_names = set(stack.parameters) if stack else set()
    # A parameter that an older version had is gone.
    kept = (old_names & template.parameters if template else old_names) - set(parameters)
    values: list[ParameterTypeDef] = [
        {"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()
    ]
    values += [{"ParameterKey": name, "UsePreviousValue": True} for name in sorted(kept)]
    name = f"fruits-{uuid.uuid4().hex[:12]}"
    source: dict[str, Any] = {"UsePreviousTemplate": True}
    if template is not None:
        # CloudFormation takes the foundation with the request; the whole is too large, and there is a bucket for it.
        source = {"TemplateBody": template.text} if stack is None else {"TemplateURL": upload_template(cloud, template)}
    with aws_call(f"plan a change of {cloud.stack_name}"):
        cloud.cloudformation.create_change_set(
            StackName=cloud.stack_name,
            ChangeSetName=name,
            ChangeSetType="CREATE" if stack is None else "UPDATE",
            Parameters=values,
            Capabilities=["CAPABILITY_IAM"],
            Tags=[{"Key": "project", "Value": "fruits"}, {"Key": "fruits-stage", "Value": cloud.stage}],
            **source,
        )
        while True:
            found = cloud.cloudformation.describe_change_set(StackName=cloud.stack_name, ChangeSetName=name)
            if not found["Status"].endswith(("_PENDING", "_IN_PROGRESS")):
                break
            time.sleep(POLL_S)
    if found["Status"] == "FAILED":
        why = found.get("StatusReason", "")
        if any(words in why for words in _NO_CHANGES):
            return name, None
        raise StackFailed(f"CloudFormation does not take the change of {cloud.stack_name}: {why.rstrip('.')}.")
    return name, [
        Change(each["Action"], each["LogicalResourceId"], each["ResourceType"], each.get("Replacement") == "True")
        for change in found.get("Changes", [])
        if (each := change.get("ResourceChange"))
    ]


def _delete_change_set(cloud: Cloud, name: str) -> None:
    with aws_call(f"delete a change set of {cloud.stack_name}"):
        cloud.cloudformation.delete_change_set(StackName=cloud.stack_name, ChangeSetName=name)


def _wait_for_the_end(cloud: Cloud, started_at: datetime, on_event: Callable[[Event], None]) -> None:
    seen: set[str] = set()
    failed: list[Event] = []
    while True:
        # Before the events, so that none of the last ones is missed.
        stack = find_stack(cloud)
        for event in _events(cloud, started_at):
            if event.id not in seen:
                seen.add(event.id)
                failed += [event] if event.failed else []
                on_event(event)
        if stack is None or not stack.status.endswith("_IN_PROGRESS"):
            break
        time.sleep(POLL_S)
    if stack is not None and ("ROLLBACK" in stack.status or stack.status.endswith("_FAILED")):
        outcome = "could not be deleted whole" if stack.status.startswith("DELETE") else "was put back as it was"
        why = f"{failed[0].resource}: {failed[0].reason or failed[0].status}" if failed else "its events say why"
        raise StackFailed(f"{cloud.stack_name} {outcome}. {why.rstrip('.')}. See {_console_link(cloud)}")


def _events(cloud: Cloud, started_at: datetime) -> Iterator[Event]:
    pages = cloud.cloudformation.get_paginator("describe_stack_events").paginate(StackName=cloud.stack_name)
    # A deleted stack has no events under its name any more.
    found = try_aws_call(
        f"list the events of {cloud.stack_name}",
        lambda: [event for page in pages for event in page["StackEvents"]],
        "does not exist",
    )
    for event in reversed(found or []):
        if event["Timestamp"] >= started_at.replace(microsecond=0):
            yield Event(
                event["EventId"],
                event["Timestamp"],
                event.get("LogicalResourceId", ""),
                event.get("ResourceStatus", ""),
                event.get("ResourceStatusReason"),
            )


def _console_link(cloud: Cloud) -> str:
    return f"{cloud.console}/cloudformation/home?region={cloud.region}#/stacks?filteringText={cloud.stack_name}"
