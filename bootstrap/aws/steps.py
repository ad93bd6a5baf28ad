"""Jobs as steps of the EMR cluster: make, submit, list and cancel them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from bootstrap.aws.cloud import Cloud
from store.aws import aws_call, try_aws_call

if TYPE_CHECKING:
    from types_boto3_emr.type_defs import StepStatusTypeDef

Job = Literal["stream", "refit", "reproject", "refeaturize", "maintain"]

# Spark-submit reads this file on the primary node; every other node has the same environment at the same path.
MAIN = "/opt/fruits/lib/python3.11/site-packages/ops/__main__.py"
RUNNER = "command-runner.jar"


@dataclass(frozen=True)
class Step:
    """What the cluster runs."""

    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class SubmittedStep:
    """A step that the cluster has; `reason` says why it failed, as far as EMR knows."""

    id: str
    step: Step
    state: str
    created_at: datetime
    reason: str | None

    @property
    def is_unfinished(self) -> bool:
        return self.state in ("PENDING", "RUNNING", "CANCEL_PENDING")


def job_step(job: Job, options: Sequence[str], home: str) -> Step:
    """A job as a step in cluster mode. The stream and the other jobs have a YARN queue each."""
    queue = "stream" if job == "stream" else "jobs"
    spark = ("spark-submit", "--deploy-mode", "cluster", "--name", step_name(job), "--queue", queue)
    return Step(step_name(job), (*spark, MAIN, job, *options, "--home", home, "--master", "yarn"))


def step_name(job: Job) -> str:
    """The name of a job's steps in EMR's console."""
    return f"fruits-{job}"


def submit(cloud: Cloud, cluster: str, step: Step) -> str:
    """Submit a step and return its id. Other steps go on if it fails. Raises CloudRefused, CloudUnavailable."""
    with aws_call(f"submit the step {step.name}"):
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


def job_steps(cloud: Cloud, cluster: str, job: Job) -> list[SubmittedStep]:
    """A job's steps on this cluster, the newest first. Raises CloudRefused, CloudUnavailable."""
    return [step for step in cluster_steps(cloud, cluster) if step.step.name == step_name(job)]


def cluster_steps(cloud: Cloud, cluster: str) -> list[SubmittedStep]:
    """The cluster's steps, the newest first; none of a cluster that EMR has forgotten, two months after its end.

    Raises CloudRefused, CloudUnavailable.
    """
    pages = cloud.emr.get_paginator("list_steps").paginate(ClusterId=cluster)
    found = try_aws_call(
        f"list the steps of {cluster}",
        lambda: [step for page in pages for step in page["Steps"]],
        "InvalidRequestException",
    )
    submitted = [
        SubmittedStep(
            id=step["Id"],
            step=Step(step["Name"], tuple(step["Config"].get("Args", []))),
            state=step["Status"]["State"],
            created_at=step["Status"]["Timeline"]["CreationDateTime"],
            reason=_reason(step["Status"]),
        )
        for step in found or []
    ]
    return sorted(submitted, key=lambda step: step.created_at, reverse=True)


def cancel(cloud: Cloud, cluster: str, step: SubmittedStep) -> None:
    """End a step without waiting for it. Its driver goes on in the cluster. Raises CloudRefused, CloudUnavailable."""
    with aws_call(f"cancel the step {step.step.name}"):
        cloud.emr.cancel_steps(ClusterId=cluster, StepIds=[step.id], StepCancellationOption="TERMINATE_PROCESS")


def _reason(status: "StepStatusTypeDef") -> str | None:
    failure = status.get("FailureDetails", {})
    return failure.get("Message") or failure.get("Reason") or status.get("StateChangeReason", {}).get("Message")
