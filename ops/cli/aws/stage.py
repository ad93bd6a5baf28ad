"""What the commands around a stage share: the connection, its cluster, and what they tell meanwhile."""

from typing import TYPE_CHECKING, Literal

from features.errors import InvalidSetting
from ops.cli.console import messages

if TYPE_CHECKING:
    from bootstrap.aws.cloud import Cloud
    from bootstrap.aws.stack import Event
    from bootstrap.aws.steps import SubmittedStep
    from store.settings import Settings

STAGE = ("stage", "region")
JobName = Literal["stream", "refit", "reproject", "refeaturize", "maintain"]


def connect_to_stage(settings: "Settings") -> "Cloud":
    """The stage's account and region. Raises what `bootstrap.aws.cloud.connect` does."""
    from bootstrap.aws.cloud import connect

    return connect(settings.stage, settings.region)


def running_cluster(cloud: "Cloud") -> str:
    """The id of the stage's cluster. Raises InvalidSetting when it has none."""
    from bootstrap.aws.destroy import cluster_is_up
    from bootstrap.aws.stack import existing_stack

    stack = existing_stack(cloud)
    if "ClusterId" not in stack.outputs or not cluster_is_up(cloud, stack.outputs["ClusterId"]):
        raise InvalidSetting(f"{cloud.stack_name} has no cluster now; run `fruits deploy`.")
    return stack.outputs["ClusterId"]


def step_state(step: "SubmittedStep") -> str:
    """One sentence: which step, and how it stands."""
    why = f": {step.reason.rstrip('.')}" if step.reason else ""
    return f"{step.step.name}, step {step.id} of {step.created_at:%Y-%m-%d %H:%M}: {step.state}{why}."


def notify_event(event: "Event") -> None:
    """Tell an event of the stack on standard error."""
    colour = "red" if event.failed else "green" if event.status.endswith("_COMPLETE") else "dim"
    why = f"  {event.reason}" if event.failed and event.reason else ""
    messages.print(
        f"  {event.at.astimezone():%H:%M:%S}  [{colour}]{event.status:<22}[/] {event.resource}{why}",
        highlight=False,
        soft_wrap=True,
    )
