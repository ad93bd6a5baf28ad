"""From an empty account to photos in and queries out, and from one version to the next."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from bootstrap.aws.athena import create_tables_and_views
from bootstrap.aws.cloud import Cloud, CloudRefused, asked, use_own_credentials
from bootstrap.aws.destroy import bucket_exists, cluster_is_up
from bootstrap.aws.handover import run_as
from bootstrap.aws.preflight import Finding, check_ready, preflight_findings
from bootstrap.aws.stack import (
    Change,
    Event,
    Stack,
    change_parameters,
    change_stack,
    proposed_changes,
    ready_stack,
    stack_of,
)
from bootstrap.aws.steps import known_steps, step_of
from bootstrap.aws.wheelhouse import INSTALL_SCRIPT, Architecture, Wheelhouse, build_wheelhouse
from bootstrap.weights.featurizer import install_featurizer
from features.errors import InvalidSetting
from store.home import Home
from store.objects.location import StorageLocation
from store.objects.operations import upload
from store.settings import Settings
from store.tables.handles import create_tables

USUAL_ARCHITECTURE: Architecture = "arm64"
# AWS makes them when a person first clicks through the console, which nobody may have done in a new account.
_SERVICE_ROLES = ("elasticmapreduce.amazonaws.com", "spot.amazonaws.com")
# An hour of photos stays in the landing for whoever wants to look at what came.
_USUAL_STREAM_OPTIONS = {"clean": "archive", "clean_after": "1h"}
_STREAM_OPTIONS = (
    "trigger",
    "max_files",
    "max_bytes",
    "key_pattern",
    "backfill",
    "only_new",
    "clean",
    "clean_after",
    "max_image_bytes",
    "max_pixels",
    "max_decode_time",
    "storage_patience",
)
_SWITCHES = {"only_new"}


@dataclass(frozen=True)
class Teller:
    """Who follows a deployment."""

    say: Callable[[str], None]
    on_event: Callable[[Event], None]


@dataclass(frozen=True)
class Deployed:
    """What stands, and what became of the stream."""

    stack: Stack
    stream: Literal["runs already", "started", "handed over"]
    options: tuple[str, ...]


@dataclass(frozen=True)
class Rehearsal:
    """What a deployment would find and do."""

    findings: list[Finding]
    wheelhouse: Wheelhouse
    changes: list[Change] | None
    options: tuple[str, ...]


def deploy(cloud: Cloud, settings: Settings, teller: Teller) -> Deployed:
    """Make the stage stand as this version of the project and these settings have it, and its stream run.

    Replay changes only what changed. Killed at any point, or refused, the same command goes on. A new version replaces
    the cluster: the stream runs on the old one until the new one stands, and what lands in between waits.
    Raises NotReady before anything is made, WheelhouseUnavailable, StackFailed, StreamKeepsRunning, CloudRefused,
    WeightsUnavailable, FeaturizerConflict, StorageUnavailable.
    """
    _refuse_elsewhere(settings)
    stack = ready_stack(cloud, teller.on_event)
    architecture = _architecture(settings, stack)
    findings = preflight_findings(cloud, architecture, _most_units(settings, stack))
    check_ready(findings)
    for finding in findings:
        if not finding.fine:
            teller.say(f"Note: {finding.what}: {finding.says}")
    if stack is None:
        _refuse_orphans(cloud)
    options = stream_options(cloud, settings, stack)
    with TemporaryDirectory(prefix="fruits-deploy-") as folder:
        teller.say(f"Packing what the {architecture} nodes run …")
        wheelhouse = build_wheelhouse(architecture, Path(folder), teller.say)
        chosen = _parameters(cloud, settings, architecture)
        if stack is None:
            teller.say(f"Creating {cloud.stack_name} in {cloud.region}: buckets, key, queue, roles …")
            _make_service_roles(cloud)
            stack = change_stack(cloud, chosen, teller.on_event)
        _upload(cloud, settings, wheelhouse, teller.say)
    home = home_of(cloud, settings)
    use_own_credentials()
    install_featurizer(home, settings.weights, None, False, settings.limits, teller.say)
    create_tables(home)
    stack = _with_compute(cloud, stack, chosen | {"Artifacts": wheelhouse.sha256}, teller)
    use_own_credentials()
    outputs = stack.outputs
    told = ("--queue", outputs["QueueUrl"], "--metrics", outputs["Namespace"])
    wanted = step_of("stream", (*told, *options), home.root.uri)
    became = run_as(cloud, outputs["ClusterId"], home, wanted, teller.say)
    database, work_group = outputs["GlueDatabase"], outputs["AthenaWorkGroup"]
    create_tables_and_views(cloud.athena, cloud.glue, database, work_group, home.root.uri, teller.say)
    return Deployed(stack, became, options)


def rehearse(cloud: Cloud, settings: Settings, say: Callable[[str], None]) -> Rehearsal:
    """What `deploy` would do; nothing is made, uploaded or changed. Raises as `deploy`."""
    _refuse_elsewhere(settings)
    stack = stack_of(cloud)
    architecture = _architecture(settings, stack)
    findings = preflight_findings(cloud, architecture, _most_units(settings, stack))
    with TemporaryDirectory(prefix="fruits-deploy-") as folder:
        wheelhouse = build_wheelhouse(architecture, Path(folder), say)
    parameters = _parameters(cloud, settings, architecture) | {"Artifacts": wheelhouse.sha256}
    changes = None if stack is None else proposed_changes(cloud, parameters)
    return Rehearsal(findings, wheelhouse, changes, stream_options(cloud, settings, stack))


def home_of(cloud: Cloud, settings: Settings) -> Home:
    """The stage's home: the data bucket, whole."""
    root = StorageLocation.at(f"s3://{cloud.data_bucket}", settings.s3_endpoint, cloud.region)
    return Home(root, root.child("landing"), root.child("archive"))


def stream_options(cloud: Cloud, settings: Settings, stack: Stack | None) -> tuple[str, ...]:
    """The stream's own options: what was set by file, environment or flag, else as the stage's last stream has them.

    Raises CloudRefused.
    """
    chosen = settings.model_dump(include=set(_STREAM_OPTIONS) & settings.model_fields_set)
    options: list[str] = []
    for name, value in sorted((_USUAL_STREAM_OPTIONS | _last_options(cloud, stack) | chosen).items()):
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            options += [flag] if value else []
        else:
            options += [flag, _written(value)]
    return tuple(options)


def _last_options(cloud: Cloud, stack: Stack | None) -> dict[str, object]:
    cluster = stack.outputs.get("ClusterId") if stack else None
    if cluster is None or not (last := known_steps(cloud, cluster, "stream")):
        return {}
    arguments = last[0].step.arguments
    found: dict[str, object] = {}
    for name in _STREAM_OPTIONS:
        flag = f"--{name.replace('_', '-')}"
        if flag in arguments:
            found[name] = True if name in _SWITCHES else arguments[arguments.index(flag) + 1]
    return found


def _written(value: object) -> str:
    return f"{value.total_seconds() * 1000:.0f}ms" if isinstance(value, timedelta) else str(value)


def _refuse_elsewhere(settings: Settings) -> None:
    # Photos would go to one place and messages come from another.
    if settings.s3_endpoint not in (None, os.environ.get("AWS_ENDPOINT_URL")):
        raise InvalidSetting(
            f"s3_endpoint is {settings.s3_endpoint}, but a stage on AWS has its buckets there; leave it out."
        )


def _refuse_orphans(cloud: Cloud) -> None:
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
    standing = stack.parameters.get("Architecture") if stack else None
    return "x86_64" if standing == "x86_64" else USUAL_ARCHITECTURE


def _most_units(settings: Settings, stack: Stack | None) -> int:
    standing = stack.parameters.get("MaxCapacityUnits", "16") if stack else "16"
    return settings.max_capacity_units or int(standing)


def _parameters(cloud: Cloud, settings: Settings, architecture: Architecture) -> dict[str, str]:
    # What is not set keeps the value that the stack has.
    chosen: Mapping[str, object] = {
        "AlarmEmail": settings.alarm_email,
        "MonthlyBudgetUsd": settings.monthly_budget_usd,
        "MaxCapacityUnits": settings.max_capacity_units,
    }
    given = {name: str(value) for name, value in chosen.items() if value is not None}
    return given | {"Stage": cloud.stage, "Architecture": architecture}


def _make_service_roles(cloud: Cloud) -> None:
    from botocore.exceptions import ClientError

    for service in _SERVICE_ROLES:
        with asked(f"for the service-linked role of {service}"):
            try:
                cloud.iam.create_service_linked_role(AWSServiceName=service)
            except ClientError as error:
                if "taken" not in error.response["Error"]["Message"]:
                    raise


def _upload(cloud: Cloud, settings: Settings, wheelhouse: Wheelhouse, say: Callable[[str], None]) -> None:
    from botocore.exceptions import ClientError

    folder = f"artifacts/{wheelhouse.sha256}"
    try:
        cloud.s3.head_object(Bucket=cloud.ops_bucket, Key=f"{folder}/install.sh")
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchKey"):
            raise CloudRefused(f"{cloud.ops_bucket} cannot be read: {error}.") from error
    else:
        return
    say(f"Uploading {wheelhouse.bytes / 1e6:.0f} MB …")
    place = StorageLocation.at(f"s3://{cloud.ops_bucket}", settings.s3_endpoint, cloud.region)
    # The installer last: where it is, all is.
    upload(place, f"{folder}/wheelhouse.tar", wheelhouse.path)
    upload(place, f"{folder}/install.sh", INSTALL_SCRIPT)


def _with_compute(cloud: Cloud, stack: Stack, parameters: Mapping[str, str], teller: Teller) -> Stack:
    if "ClusterId" in stack.outputs and not cluster_is_up(cloud, stack.outputs["ClusterId"]):
        teller.say("The cluster has ended; what is left of it is cleared away first …")
        change_parameters(cloud, {"Artifacts": ""}, teller.on_event)
    teller.say("Bringing the network, the cluster, schedules and alarms up to date; a new cluster takes ten minutes …")
    return change_stack(cloud, parameters, teller.on_event)
