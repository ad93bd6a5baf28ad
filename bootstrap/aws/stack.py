"""The CloudFormation stack of a stage: what stands, what a change would do, and the change itself."""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from bootstrap.aws.cloud import Cloud, CloudRefused, asked
from bootstrap.aws.template import Template, read_template, upload_template
from features.errors import InvalidSetting

if TYPE_CHECKING:
    from types_boto3_cloudformation.type_defs import ParameterTypeDef

POLL_S = 5.0

_NOTHING_TO_DO = ("didn't contain changes", "No updates are to be performed", "NO_CHANGES")
# Nothing of the stack is left then but its name.
_NEVER_MADE = {"ROLLBACK_COMPLETE", "REVIEW_IN_PROGRESS"}


class StackFailed(CloudRefused):
    """CloudFormation could not make the change; it has put back what stood before."""


@dataclass(frozen=True)
class Stack:
    """A stack as it stands."""

    status: str
    parameters: Mapping[str, str]
    outputs: Mapping[str, str]

    @property
    def has_compute(self) -> bool:
        return bool(self.parameters.get("Artifacts"))


@dataclass(frozen=True)
class Event:
    """Something that happened to one resource of a stack."""

    at: datetime
    resource: str
    kind: str
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


def stack_of(cloud: Cloud) -> Stack | None:
    """The stage's stack, or None when there is none. Raises CloudRefused."""
    from botocore.exceptions import ClientError

    with asked(f"what stands of {cloud.stack_name}"):
        try:
            found = cloud.cloudformation.describe_stacks(StackName=cloud.stack_name)["Stacks"][0]
        except ClientError as error:
            if "does not exist" in error.response["Error"]["Message"]:
                return None
            raise
    if found["StackStatus"] == "DELETE_COMPLETE":
        return None
    return Stack(
        found["StackStatus"],
        {given["ParameterKey"]: given.get("ParameterValue", "") for given in found.get("Parameters", [])},
        {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])},
    )


def standing_stack(cloud: Cloud) -> Stack:
    """The stage's stack. Raises InvalidSetting when there is none, CloudRefused."""
    stack = stack_of(cloud)
    if stack is None:
        raise InvalidSetting(
            f"There is no {cloud.stack_name} in {cloud.region} of account {cloud.account}; check --stage and --region, "
            "or run `fruits deploy`."
        )
    return stack


def ready_stack(cloud: Cloud, on_event: Callable[[Event], None]) -> Stack | None:
    """The stage's stack once it can be changed, or None when there is none.

    What is left of a first deployment that failed, which is a name, is cleared away. Raises CloudRefused while
    somebody else changes it, and when a person has to look at it.
    """
    standing = stack_of(cloud)
    if standing is None:
        return None
    if standing.status in _NEVER_MADE:
        delete_stack(cloud, on_event)
        return None
    if standing.status.endswith("_IN_PROGRESS"):
        raise CloudRefused(f"{cloud.stack_name} is being changed by somebody else; run this again when that is done.")
    if standing.status == "UPDATE_ROLLBACK_FAILED":
        raise CloudRefused(
            f"{cloud.stack_name} could not be put back after a change that failed; choose "
            f"“Continue update rollback” at {stack_link(cloud)}, then run this again."
        )
    if standing.status.endswith("_FAILED"):
        raise CloudRefused(
            f"{cloud.stack_name} is {standing.status}: its events at {stack_link(cloud)} say what is in the way. See "
            "to that and delete the stack there, which keeps the photos, or run `fruits destroy --delete-data`."
        )
    return standing


def change_stack(cloud: Cloud, parameters: Mapping[str, str], on_event: Callable[[Event], None]) -> Stack:
    """Create the stack's foundation, or bring the stack to this version's template and to these parameters.

    Parameters that are not named keep their values. Returns when CloudFormation has finished, cleaning up included.
    Replay changes nothing. Raises StackFailed with the reason of the first resource that failed, CloudRefused.
    """
    standing = ready_stack(cloud, on_event)
    template = read_template()
    changed = _change(cloud, standing, parameters, template if standing else template.foundation(), on_event)
    if standing is None:
        # Nobody deletes it by a slip in the console.
        with asked(f"to protect {cloud.stack_name}"):
            cloud.cloudformation.update_termination_protection(
                StackName=cloud.stack_name, EnableTerminationProtection=True
            )
    return changed


def change_parameters(cloud: Cloud, parameters: Mapping[str, str], on_event: Callable[[Event], None]) -> Stack:
    """Change parameters of a stack and leave its template as it is. Returns and raises as `change_stack`."""
    return _change(cloud, ready_stack(cloud, on_event), parameters, None, on_event)


def proposed_changes(cloud: Cloud, parameters: Mapping[str, str]) -> list[Change]:
    """What `change_stack` would do to a stack that stands; nothing is changed. Raises CloudRefused."""
    proposal = _propose(cloud, standing_stack(cloud), parameters, read_template())
    _withdraw(cloud, proposal)
    return proposal.changes or []


def delete_stack(cloud: Cloud, on_event: Callable[[Event], None]) -> None:
    """Delete the stack; what the template says to retain stays. Replay finds nothing. Raises StackFailed."""
    since = datetime.now(UTC)
    with asked(f"to delete {cloud.stack_name}"):
        cloud.cloudformation.update_termination_protection(
            StackName=cloud.stack_name, EnableTerminationProtection=False
        )
        cloud.cloudformation.delete_stack(StackName=cloud.stack_name)
    _follow(cloud, since, on_event)


@dataclass(frozen=True)
class _Proposal:
    name: str
    changes: list[Change] | None


def stack_link(cloud: Cloud) -> str:
    """Where a person looks at the stack."""
    return f"{cloud.console}/cloudformation/home?region={cloud.region}#/stacks?filteringText={cloud.stack_name}"


def _change(
    cloud: Cloud,
    standing: Stack | None,
    parameters: Mapping[str, str],
    template: Template | None,
    on_event: Callable[[Event], None],
) -> Stack:
    proposal = _propose(cloud, standing, parameters, template)
    if proposal.changes is None:
        _withdraw(cloud, proposal)
    else:
        since = datetime.now(UTC)
        with asked(f"to change {cloud.stack_name}"):
            cloud.cloudformation.execute_change_set(StackName=cloud.stack_name, ChangeSetName=proposal.name)
        _follow(cloud, since, on_event)
    return standing_stack(cloud)


def _propose(
    cloud: Cloud, standing: Stack | None, parameters: Mapping[str, str], template: Template | None
) -> _Proposal:
    there = set(standing.parameters) if standing else set()
    # A parameter that an older version had is gone.
    kept = (there & template.parameters if template else there) - set(parameters)
    given: list[ParameterTypeDef] = [
        {"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()
    ]
    given += [{"ParameterKey": name, "UsePreviousValue": True} for name in sorted(kept)]
    kind: Literal["CREATE", "UPDATE"] = "CREATE" if standing is None else "UPDATE"
    name = f"fruits-{uuid.uuid4().hex[:12]}"
    source: dict[str, Any] = {"UsePreviousTemplate": True}
    if template is not None:
        inline = standing is None or template.fits_inline
        source = {"TemplateBody": template.text} if inline else {"TemplateURL": upload_template(cloud, template)}
    with asked(f"to plan a change of {cloud.stack_name}"):
        cloud.cloudformation.create_change_set(
            StackName=cloud.stack_name,
            ChangeSetName=name,
            ChangeSetType=kind,
            Parameters=given,
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
        if any(words in why for words in _NOTHING_TO_DO):
            return _Proposal(name, None)
        raise StackFailed(f"CloudFormation does not take the change of {cloud.stack_name}: {why.rstrip('.')}.")
    changes = [change["ResourceChange"] for change in found.get("Changes", []) if "ResourceChange" in change]
    return _Proposal(
        name,
        [
            Change(
                change["Action"],
                change["LogicalResourceId"],
                change["ResourceType"],
                change.get("Replacement") == "True",
            )
            for change in changes
        ],
    )


def _withdraw(cloud: Cloud, proposal: _Proposal) -> None:
    with asked("to forget a plan"):
        cloud.cloudformation.delete_change_set(StackName=cloud.stack_name, ChangeSetName=proposal.name)


def _follow(cloud: Cloud, since: datetime, on_event: Callable[[Event], None]) -> None:
    told: set[str] = set()
    failed: list[Event] = []
    with asked(f"how {cloud.stack_name} is coming on"):
        while True:
            # Looked at before the events, so that none of them is missed at the end.
            stack = stack_of(cloud)
            for identity, event in _events(cloud, since):
                if identity not in told:
                    told.add(identity)
                    failed += [event] if event.failed else []
                    on_event(event)
            if stack is None or not stack.status.endswith("_IN_PROGRESS"):
                break
            time.sleep(POLL_S)
    if stack is not None and ("ROLLBACK" in stack.status or stack.status.endswith("_FAILED")):
        first = failed[0] if failed else None
        became = "could not be deleted whole" if stack.status.startswith("DELETE") else "was put back as it was"
        why = "its events say why" if first is None else f"{first.resource}: {first.reason or first.status}"
        raise StackFailed(f"{cloud.stack_name} {became}. {why.rstrip('.')}. See {stack_link(cloud)}")


def _events(cloud: Cloud, since: datetime) -> Iterator[tuple[str, Event]]:
    from botocore.exceptions import ClientError

    try:
        pages = cloud.cloudformation.get_paginator("describe_stack_events").paginate(StackName=cloud.stack_name)
        found = [event for page in pages for event in page["StackEvents"]]
    except ClientError as error:
        # A stack that was deleted has no events under its name any more.
        if "does not exist" in error.response["Error"]["Message"]:
            return
        raise
    for event in reversed(found):
        if event["Timestamp"] >= since.replace(microsecond=0):
            yield (
                event["EventId"],
                Event(
                    event["Timestamp"],
                    event.get("LogicalResourceId", ""),
                    event.get("ResourceType", ""),
                    event.get("ResourceStatus", ""),
                    event.get("ResourceStatusReason"),
                ),
            )
