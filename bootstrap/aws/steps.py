"""Jobs as steps of the EMR cluster: what a step says, who is at work, and giving the cluster another one."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from bootstrap.aws.cloud import Cloud, CloudRefused, asked

Job = Literal["stream", "refit", "reproject", "maintain"]

# Spark-submit reads this file on the primary node; on every other node the same environment stands at the same place.
MAIN = "/opt/fruits/lib/python3.11/site-packages/ops/__main__.py"
RUNNER = "command-runner.jar"
UNFINISHED: tuple[Literal["PENDING", "RUNNING", "CANCEL_PENDING"], ...] = ("PENDING", "RUNNING", "CANCEL_PENDING")


@dataclass(frozen=True)
class Step:
    """What the cluster is asked to run."""

    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Submitted:
    """A step that the cluster has; `reason` tells why it failed, as far as EMR knows."""

    id: str
    step: Step
    state: str
    created_at: datetime
    reason: str | None

    @property
    def is_unfinished(self) -> bool:
        return self.state in UNFINISHED


def step_of(job: Job, options: Sequence[str], home: str) -> Step:
    """A job as a step: in cluster mode, with the stream's share of the cluster or the other jobs'."""
    queue = "stream" if job == "stream" else "jobs"
    spark = ("spark-submit", "--deploy-mode", "cluster", "--name", step_name(job), "--queue", queue)
    return Step(step_name(job), (*spark, MAIN, job, *options, "--home", home, "--master", "yarn"))


def step_name(job: Job) -> str:
    """What a job's steps are called in EMR's console."""
    return f"fruits-{job}"


def submit(cloud: Cloud, cluster: str, step: Step) -> str:
    """Give the cluster a step and return its id. A step that fails leaves the others alone. Raises CloudRefused."""
    with asked(f"to run {step.name}"):
        return cloud.emr.add_job_flow_steps(
            JobFlowId=cluster,
            Steps=[
                {
                    "Name": step.name,
                    "ActionOnFailure": "CONTINUE",
                    "HadoopJarStep": {"Jar": RUNNER, "Args": list(step.arguments)},
                }
            ],
        )["StepIds"][0]


def steps(cloud: Cloud, cluster: str, job: Job) -> list[Submitted]:
    """A job's steps on this cluster, the newest first. Raises CloudRefused."""
    return [step for step in all_steps(cloud, cluster) if step.step.name == step_name(job)]


def known_steps(cloud: Cloud, cluster: str, job: Job) -> list[Submitted]:
    """The same, and none of a cluster that EMR has forgotten. Raises CloudRefused."""
    try:
        return steps(cloud, cluster, job)
    except CloudRefused as error:
        cause = error.__cause__
        if getattr(cause, "response", {}).get("Error", {}).get("Code") == "InvalidRequestException":
            return []
        raise


def all_steps(cloud: Cloud, cluster: str) -> list[Submitted]:
    """The cluster's steps, the newest first. Raises CloudRefused."""
    with asked(f"for the steps of {cluster}"):
        pages = cloud.emr.get_paginator("list_steps").paginate(ClusterId=cluster)
        found = [step for page in pages for step in page["Steps"]]
    submitted = [
        Submitted(
            id=step["Id"],
            step=Step(step["Name"], tuple(step["Config"].get("Args", []))),
            state=step["Status"]["State"],
            created_at=step["Status"]["Timeline"]["CreationDateTime"],
            reason=_reason(step["Status"].get("FailureDetails", {}), step["Status"].get("StateChangeReason", {})),
        )
        for step in found
    ]
    return sorted(submitted, key=lambda step: step.created_at, reverse=True)


def cancel(cloud: Cloud, cluster: str, step: Submitted) -> None:
    """End a step without waiting for it; its driver lives on elsewhere in the cluster. Raises CloudRefused."""
    with asked(f"to cancel {step.step.name}"):
        cloud.emr.cancel_steps(ClusterId=cluster, StepIds=[step.id], StepCancellationOption="TERMINATE_PROCESS")


def _reason(failure: object, change: object) -> str | None:
    for details, key in ((failure, "Message"), (failure, "Reason"), (change, "Message")):
        if isinstance(details, dict) and details.get(key):
            return str(details[key])
    return None
