"""Deploys a stage: into an empty account, or over the version before."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from bootstrap.aws.alarm_mail import MailTest, try_alarm_mail
from bootstrap.aws.athena import create_tables_and_views
from bootstrap.aws.cloud import Cloud
from bootstrap.aws.destroy import bucket_exists, cluster_is_up
from bootstrap.aws.handover import replace_stream
from bootstrap.aws.options import keeps_copies, remembered_parameters, stream_options
from bootstrap.aws.preflight.checks import preflight_findings
from bootstrap.aws.preflight.findings import Finding, check_ready
from bootstrap.aws.preflight.needs import SERVICE_ROLES
from bootstrap.aws.prices import Architecture
from bootstrap.aws.stack import (
    Change,
    Event,
    Stack,
    change_parameters,
    change_stack,
    changeable_stack,
    find_stack,
    preview_changes,
)
from bootstrap.aws.steps import job_step
from bootstrap.aws.wheelhouse import INSTALL_SCRIPT, Wheelhouse, build_wheelhouse
from bootstrap.weights.featurizer import install_featurizer
from features.errors import InvalidSetting
from store.aws import export_credentials, try_aws_call
from store.errors import CloudRefused
from store.home import Home
from store.objects.location import StorageLocation
from store.objects.operations import keys_below, overwrite
from store.settings import Settings
from store.tables.handles import create_tables

DEFAULT_ARCHITECTURE: Architecture = "arm64"
_INTERRUPTED = "Ctrl-C loses nothing: the same command goes on."


@dataclass(frozen=True)
class Deployment:
    """A deployed stage: its stack, what the stream's start took, and the stream's options.

    `mail` is what became of the test of the alarms' email, None when there was none to make.
    """

    stack: Stack
    stream: Literal["runs already", "started", "handed over"]
    options: tuple[str, ...]
    mail: MailTest | None


@dataclass(frozen=True)
class DryRun:
    """What a deployment would find and do; `changes` is None when it would create the stack."""

    findings: list[Finding]
    wheelhouse: Wheelhouse
    changes: list[Change] | None
    options: tuple[str, ...]
    new_cluster: bool


def deploy(
    cloud: Cloud, settings: Settings, echo: Callable[[str], None], on_event: Callable[[Event], None]
) -> Deployment:
    """Bring the stage to this version of the project and to these settings, and run its stream.

    Replay changes only what changed. After a kill or a refusal, the same command goes on. A new version replaces the
    cluster: the stream runs on the old one until the new one is ready, and photos that land in between wait.
    Raises NotReady before anything is made, WheelhouseUnavailable, StackFailed, StreamKeepsRunning, CloudRefused,
    CloudUnavailable, WeightsUnavailable, FeaturizerConflict, StorageUnavailable.
    """
    _check_endpoint(settings)
    before = stack = changeable_stack(cloud, on_event)
    architecture = _architecture(settings, stack)
    echo(f"Looking at account {cloud.account} in {cloud.region} (half a minute) …")
    stands = _stands(cloud, stack)
    findings = preflight_findings(cloud, architecture, _max_capacity_units(settings, stack), stack, stands)
    check_ready(findings, new_cluster=not stands)
    for finding in findings:
        if not finding.fine:
            echo(f"Note: {finding.what}: {finding.says}")
    if stack is None:
        _check_no_orphans(cloud)
        echo(f"A first deployment takes 20 to 30 minutes. {_INTERRUPTED} `fruits destroy --delete-data` undoes all.")
    options = stream_options(cloud, settings, stack)
    parameters = _parameters(cloud, settings, architecture, stack, options)
    if stack is None:
        # Before packing, which takes a while: the key's policy names one of them, and a new role is not known at once.
        _make_service_roles(cloud)
    with TemporaryDirectory(prefix="fruits-deploy-") as folder:
        echo(f"Packing what the {architecture} nodes run (a minute or two) …")
        wheelhouse = build_wheelhouse(architecture, Path(folder), echo)
        replaces = stack is None or stack.parameters.get("Artifacts") != wheelhouse.sha256
        check_ready(findings, new_cluster=replaces or not stands)
        if stack is None:
            echo(f"Creating {cloud.stack_name} in {cloud.region}: buckets, key, queue, roles (3 to 5 minutes) …")
            stack = change_stack(cloud, parameters, on_event)
            if settings.alarm_email:
                echo(f"AWS has sent {settings.alarm_email} a message: confirm the subscription in it now.")
        _upload(cloud, settings, wheelhouse, echo)
    home = stage_home(cloud, settings)
    export_credentials()
    with_copies = keeps_copies(options)
    install_featurizer(home, settings.weights, None, False, settings.limits, echo, with_copies, settings.copy_px)
    create_tables(home)
    if "ClusterId" in stack.outputs and not stands:
        echo("The cluster has ended; what is left of it is deleted first (5 minutes) …")
        change_parameters(cloud, {"Artifacts": ""}, on_event)
    if replaces or not stands:
        echo(f"Making the network, a cluster, schedules and alarms (10 to 20 minutes) … {_INTERRUPTED}")
    else:
        echo("Bringing the network, schedules and alarms up to date (a minute or two) …")
    stack = change_stack(cloud, parameters | {"Artifacts": wheelhouse.sha256}, on_event)
    export_credentials()
    outputs = stack.outputs
    resources = ("--queue", outputs["QueueUrl"], "--metrics", outputs["Namespace"])
    step = job_step("stream", (*resources, *options), home.root.uri)
    outcome = replace_stream(cloud, outputs["ClusterId"], home, step, echo)
    database, work_group = outputs["GlueDatabase"], outputs["AthenaWorkGroup"]
    create_tables_and_views(cloud.athena, cloud.glue, database, work_group, home.root.uri, echo)
    return Deployment(stack, outcome, options, try_alarm_mail(cloud, before, stack))


def dry_run(cloud: Cloud, settings: Settings, echo: Callable[[str], None]) -> DryRun:
    """What `deploy` would do; nothing is made, uploaded or changed. Raises as `deploy`."""
    _check_endpoint(settings)
    stack = find_stack(cloud)
    architecture = _architecture(settings, stack)
    stands = _stands(cloud, stack)
    findings = preflight_findings(cloud, architecture, _max_capacity_units(settings, stack), stack, stands)
    with TemporaryDirectory(prefix="fruits-deploy-") as folder:
        wheelhouse = build_wheelhouse(architecture, Path(folder), echo)
    options = stream_options(cloud, settings, stack)
    parameters = _parameters(cloud, settings, architecture, stack, options) | {"Artifacts": wheelhouse.sha256}
    changes = None if stack is None else preview_changes(cloud, parameters)
    replaces = stack is None or not stands or stack.parameters.get("Artifacts") != wheelhouse.sha256
    return DryRun(findings, wheelhouse, changes, options, replaces)


def stage_home(cloud: Cloud, settings: Settings) -> Home:
    """The stage's home: the whole data bucket."""
    root = StorageLocation.at(f"s3://{cloud.data_bucket}", settings.s3_endpoint, cloud.region)
    return Home(root, root.child("landing"), root.child("archive"))


def _check_endpoint(settings: Settings) -> None:
    # Photos would go to one place and messages come from another.
    if settings.s3_endpoint not in (None, os.environ.get("AWS_ENDPOINT_URL")):
        raise InvalidSetting(
            f"s3_endpoint is {settings.s3_endpoint}, but a stage on AWS has its buckets there; leave it out."
        )


def _stands(cloud: Cloud, stack: Stack | None) -> bool:
    return stack is not None and "ClusterId" in stack.outputs and cluster_is_up(cloud, stack.outputs["ClusterId"])


def _make_service_roles(cloud: Cloud) -> None:
    for name, service in SERVICE_ROLES.items():
        request = partial(cloud.iam.create_service_linked_role, AWSServiceName=service)
        try_aws_call(f"make the service-linked role {name}", request, "taken")


def _check_no_orphans(cloud: Cloud) -> None:
    left = [bucket for bucket in (cloud.data_bucket, cloud.ops_bucket) if bucket_exists(cloud, bucket)]
    if left:
        raise CloudRefused(
            f"There is no stack {cloud.stack_name}, but s3://{left[0]} of an earlier one, which holds its photos. "
            "Import it into a stack of that name (CloudFormation: “import existing resources”), choose another "
            "--stage, or delete it with `fruits destroy --delete-data`."
        )


def _architecture(settings: Settings, stack: Stack | None) -> Architecture:
    if settings.architecture is not None:
        return settings.architecture
    deployed = stack.parameters.get("Architecture") if stack else None
    return "x86_64" if deployed == "x86_64" else DEFAULT_ARCHITECTURE


def _max_capacity_units(settings: Settings, stack: Stack | None) -> int:
    return settings.max_capacity_units or int(stack.parameters.get("MaxCapacityUnits", "16") if stack else "16")


def _parameters(
    cloud: Cloud, settings: Settings, architecture: Architecture, stack: Stack | None, options: tuple[str, ...]
) -> dict[str, str]:
    # What is not set keeps the value that the stack has.
    optional: Mapping[str, object] = {
        "AlarmEmail": settings.alarm_email,
        "MonthlyBudgetUsd": settings.monthly_budget_usd,
        "MaxCapacityUnits": settings.max_capacity_units,
    }
    given = {name: str(value) for name, value in optional.items() if value is not None}
    remembered = remembered_parameters(settings, stack, options)
    return given | remembered | {"Stage": cloud.stage, "Architecture": architecture}


def _upload(cloud: Cloud, settings: Settings, wheelhouse: Wheelhouse, echo: Callable[[str], None]) -> None:
    place = StorageLocation.at(f"s3://{cloud.ops_bucket}", settings.s3_endpoint, cloud.region)
    folder = f"artifacts/{wheelhouse.sha256}"
    if "install.sh" in keys_below(place.child(folder)):
        return
    echo(f"Uploading {wheelhouse.bytes / 1e6:.0f} MB …")
    # The installer last: where it is, all is.
    overwrite(place, f"{folder}/wheelhouse.tar", wheelhouse.path)
    overwrite(place, f"{folder}/install.sh", INSTALL_SCRIPT)
