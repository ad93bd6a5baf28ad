"""The commands around a stage on AWS: deploy, destroy, submit, logs."""

import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from features.errors import InvalidSetting
from ops.cli.options import Debug, Weights, console, messages

if TYPE_CHECKING:
    from bootstrap.aws.cloud import Cloud
    from bootstrap.aws.deploy import Deployment, DryRun
    from bootstrap.aws.stack import Event
    from bootstrap.aws.steps import SubmittedStep
    from store.settings import Settings

Stage = Annotated[str | None, typer.Option("--stage", metavar="NAME", help="Which installation; default: dev.")]
CloudRegion = Annotated[
    str | None, typer.Option("--region", metavar="REGION", help="An EU region of AWS; default: eu-west-3 (Paris).")
]
JobName = Literal["stream", "refit", "reproject", "maintain"]


def deploy(
    stage: Stage = None,
    region: CloudRegion = None,
    architecture: Annotated[
        Literal["arm64", "x86_64"] | None, typer.Option("--architecture", help="The nodes' processors; default: arm64.")
    ] = None,
    weights: Weights = None,
    alarm_email: Annotated[
        str | None, typer.Option("--alarm-email", metavar="ADDRESS", help="Who hears of alarms and of the budget.")
    ] = None,
    monthly_budget_usd: Annotated[
        int | None, typer.Option("--monthly-budget-usd", metavar="N", help="Warn when a month will cost more.")
    ] = None,
    max_capacity_units: Annotated[
        int | None, typer.Option("--max-capacity-units", metavar="N", help="The most vCPUs the cluster may grow to.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change; do nothing.")] = False,
    debug: Debug = False,
) -> None:
    """Bring a stage to AWS, or bring it up to date: photos in, features out, tables in Athena."""
    from bootstrap.aws import deploy as deployment
    from store.settings import load_settings

    settings = load_settings(
        stage=stage,
        region=region,
        architecture=architecture,
        weights=weights,
        alarm_email=alarm_email,
        monthly_budget_usd=monthly_budget_usd,
        max_capacity_units=max_capacity_units,
    )
    cloud = _connect(settings)
    if dry_run:
        _show_rehearsal(cloud, deployment.dry_run(cloud, settings, _say))
    else:
        _show_deployed(cloud, deployment.deploy(cloud, settings, _say, _show_event))


def destroy(
    stage: Stage = None,
    region: CloudRegion = None,
    delete_data: Annotated[
        bool, typer.Option("--delete-data", help="Also delete every photo, row and model; asks for the stack's name.")
    ] = False,
    confirm: Annotated[
        str | None, typer.Option("--confirm", metavar="NAME", help="The stack's name, instead of being asked for it.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Stop the stream and delete the cluster; photos, tables and models stay, unless told otherwise."""
    from bootstrap.aws.deploy import stage_home
    from bootstrap.aws.destroy import delete_compute, is_deleted
    from bootstrap.aws.destroy import delete_data as delete_all_data
    from bootstrap.aws.stack import find_stack
    from store.settings import load_settings

    settings = load_settings(stage=stage, region=region)
    cloud = _connect(settings)
    if delete_data:
        if is_deleted(cloud):
            raise InvalidSetting(
                f"There is no {cloud.stack_name} in {cloud.region} of account {cloud.account}; check --stage, --region."
            )
        _ask_for_the_name(cloud, confirm)
    if not delete_data or find_stack(cloud) is not None:
        delete_compute(cloud, stage_home(cloud, settings), _say, _show_event)
    if delete_data:
        delete_all_data(cloud, _say, _show_event)
        console.print(f"{cloud.stack_name} and all its data are gone; its key can still be kept for 30 days (KMS).")
    else:
        console.print(
            f"{cloud.stack_name} runs nothing any more. Its data stays, and photos that land wait in "
            f"s3://{cloud.data_bucket}/landing/. `fruits deploy` goes on where it was; "
            "`fruits destroy --delete-data` deletes the data, too.",
            highlight=False,
            soft_wrap=True,
        )


def submit(
    context: typer.Context,
    job: Annotated[JobName, typer.Argument(help="What to run on the cluster.")],
    wait: Annotated[bool, typer.Option("--wait", help="Until it has finished; the exit code says how.")] = False,
    stage: Stage = None,
    region: CloudRegion = None,
    debug: Debug = False,
) -> None:
    """Run a job on the stage's cluster; what follows its name goes to the job, as in `fruits submit refit --full`."""
    from bootstrap.aws import steps
    from bootstrap.aws.deploy import stage_home
    from bootstrap.aws.handover import replace_stream
    from store.settings import load_settings

    settings = load_settings(stage=stage, region=region)
    _check_options(context, job)
    cloud = _connect(settings)
    cluster = _cluster(cloud)
    home = stage_home(cloud, settings)
    if job == "stream":
        before = steps.job_steps(cloud, cluster, job)
        if not before:
            raise InvalidSetting(f"{cluster} has had no stream yet; `fruits deploy` starts it with its settings.")
        if context.args:
            raise InvalidSetting("A stream's settings come with a deployment: set them, and run `fruits deploy`.")
        wanted = before[0].step
        outcome = replace_stream(cloud, cluster, home, wanted, _say)
        submitted = steps.job_steps(cloud, cluster, job)[0]
        console.print(f"The stream: {outcome}, step {submitted.id}.", highlight=False)
    else:
        wanted = steps.job_step(job, context.args, home.root.uri)
        identity = steps.submit(cloud, cluster, wanted)
        console.print(
            f"Step {identity} is to run {job}; `fruits logs {job} --stage {cloud.stage}` shows it.", highlight=False
        )
    if wait:
        _wait(cloud, cluster, job)


def logs(
    job: Annotated[JobName, typer.Argument(help="Whose words to show.")] = "stream",
    step: Annotated[str | None, typer.Option("--step", metavar="ID", help="An older step; default: the last.")] = None,
    stage: Stage = None,
    region: CloudRegion = None,
    debug: Debug = False,
) -> None:
    """Show what a job on the cluster said, and how it stands."""
    from bootstrap.aws import steps
    from bootstrap.aws.logs import read_logs
    from store.settings import load_settings

    settings = load_settings(stage=stage, region=region)
    cloud = _connect(settings)
    cluster = _cluster(cloud)
    found = [each for each in steps.job_steps(cloud, cluster, job) if step in (None, each.id)]
    if not found:
        raise InvalidSetting(f"{cluster} has no such step of {job}; `fruits submit {job}` runs one.")
    shown = list(read_logs(cloud, settings.s3_endpoint, cluster, found[0]))
    for log in shown:
        messages.rule(log.uri)
        sys.stdout.write(log.text)
        sys.stdout.flush()
    _say(_sentence(found[0]))
    if not shown:
        _say("There are no logs of it yet: EMR copies them every five minutes.")


def _connect(settings: "Settings") -> "Cloud":
    from bootstrap.aws.cloud import connect

    return connect(settings.stage, settings.region)


def _cluster(cloud: "Cloud") -> str:
    from bootstrap.aws.destroy import cluster_is_up
    from bootstrap.aws.stack import existing_stack

    stack = existing_stack(cloud)
    if "ClusterId" not in stack.outputs or not cluster_is_up(cloud, stack.outputs["ClusterId"]):
        raise InvalidSetting(f"{cloud.stack_name} has no cluster now; run `fruits deploy`.")
    return stack.outputs["ClusterId"]


def _check_options(context: typer.Context, job: str) -> None:
    # On the cluster a slip would be noticed minutes later.
    group = context.find_root().command
    assert isinstance(group, typer.core.TyperGroup)
    command = group.get_command(context, job)
    if command is None:
        raise InvalidSetting(f"There is no command {job}.")
    command.make_context(f"fruits {job}", list(context.args), parent=context.parent)


def _wait(cloud: "Cloud", cluster: str, job: JobName) -> None:
    import time

    from bootstrap.aws import steps

    while (last := steps.job_steps(cloud, cluster, job)[0]).is_unfinished:
        time.sleep(10)
    _say(_sentence(last))
    if last.state != "COMPLETED":
        raise typer.Exit(1)


def _sentence(step: "SubmittedStep") -> str:
    why = f": {step.reason.rstrip('.')}" if step.reason else ""
    return f"{step.step.name}, step {step.id} of {step.created_at:%Y-%m-%d %H:%M}: {step.state}{why}."


def _ask_for_the_name(cloud: "Cloud", confirm: str | None) -> None:
    if confirm is None:
        if not sys.stdin.isatty():
            raise InvalidSetting(f"Deleting all data needs a yes: add --confirm {cloud.stack_name}.")
        confirm = typer.prompt(
            f"Every photo, row and model of {cloud.stack_name} in {cloud.region} will be deleted for good. "
            "Its name, to confirm"
        )
    if confirm != cloud.stack_name:
        raise InvalidSetting(f"{confirm} is not {cloud.stack_name}; nothing was deleted.")


def _show_event(event: "Event") -> None:
    colour = "red" if event.failed else "green" if event.status.endswith("_COMPLETE") else "dim"
    why = f"  {event.reason}" if event.failed and event.reason else ""
    messages.print(
        f"  {event.at.astimezone():%H:%M:%S}  [{colour}]{event.status:<22}[/] {event.resource}{why}",
        highlight=False,
        soft_wrap=True,
    )


def _show_rehearsal(cloud: "Cloud", found: "DryRun") -> None:
    for finding in found.findings:
        mark = "[green]fine[/]" if finding.fine else "[red]stops[/]" if finding.fatal else "[yellow]look[/]"
        console.print(f"{mark}  {finding.what}: {finding.says}", highlight=False, soft_wrap=True)
    size = found.wheelhouse.bytes / 1e6
    console.print(f"The nodes would get {found.wheelhouse.sha256[:12]}, {size:.0f} MB.", highlight=False)
    console.print(f"The stream would run with {' '.join(found.options)}.", highlight=False)
    if found.changes is None:
        console.print(f"{cloud.stack_name} would be created in {cloud.region}.", highlight=False)
    elif not found.changes:
        console.print(f"{cloud.stack_name} would not change.", highlight=False)
    else:
        table = Table("", "resource", "kind", header_style="bold")
        for change in found.changes:
            table.add_row("Replace" if change.replaces else change.action, change.resource, change.kind)
        console.print(table)


def _show_deployed(cloud: "Cloud", done: "Deployment") -> None:
    outputs = done.stack.outputs
    home = outputs["Home"]
    console.print(
        f"""
[bold]{cloud.stack_name}[/] stands in {cloud.region}. The stream: {done.stream}, with {" ".join(done.options)}.

Drop photos     aws s3 cp kiwi.jpg {home}/landing/kiwi/
Query           fruits query --home {home} "SELECT label, count(*) FROM photos GROUP BY label"
  in Athena     work group {outputs["AthenaWorkGroup"]}, database {outputs["GlueDatabase"]}
                {cloud.console}/athena/home?region={cloud.region}#/query-editor
Refit the PCA   fruits submit refit --reproject --stage {cloud.stage}   (it also runs every night)
Look            fruits logs stream --stage {cloud.stage}
                {cloud.console}/emr/home?region={cloud.region}#/clusterDetails/{outputs["ClusterId"]}
Take down       fruits destroy --stage {cloud.stage}   (keeps the data)""",
        highlight=False,
        soft_wrap=True,
    )


def _say(sentence: str) -> None:
    messages.print(sentence, highlight=False, soft_wrap=True)
