"""The command that brings a stage to AWS."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ops.cli.aws.stage import STAGE, connect_to_stage, notify_event
from ops.cli.command import Flags, takes_settings
from ops.cli.console import console, echo, notify

if TYPE_CHECKING:
    from bootstrap.aws.alarm_mail import MailTest
    from bootstrap.aws.cloud import Cloud
    from bootstrap.aws.deploy import Deployment


@takes_settings(*STAGE, "architecture", "weights", "alarm_email", "monthly_budget_usd", "max_capacity_units")
def deploy(
    flags: Flags,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change; do nothing.")] = False,
) -> None:
    """Bring a stage to AWS, or bring it up to date: photos in, features out, tables in Athena."""
    from bootstrap.aws import deploy as deployment

    settings = flags.load()
    cloud = connect_to_stage(settings)
    if not dry_run:
        _show_deployed(cloud, deployment.deploy(cloud, settings, notify, notify_event))
        return
    found = deployment.dry_run(cloud, settings, notify)
    for finding in found.findings:
        stops = finding.is_fatal(found.new_cluster)
        mark = "[green]fine[/]" if finding.fine else "[red]stops[/]" if stops else "[yellow]look[/]"
        console.print(f"{mark}  {finding.what}: {finding.says}", highlight=False, soft_wrap=True)
    if any(finding.is_fatal(found.new_cluster) for finding in found.findings):
        echo("A deployment would be refused: see to what stops it, then run this again.")
        raise typer.Exit(1)
    size = found.wheelhouse.bytes / 1e6
    echo(f"The nodes would get {found.wheelhouse.sha256[:12]}, {size:.0f} MB.")
    echo(f"The stream would run with {' '.join(found.options)}.")
    if found.changes is None:
        echo(f"{cloud.stack_name} would be created in {cloud.region}, in 20 to 30 minutes.")
        return
    if not found.changes:
        echo(f"{cloud.stack_name} would not change.")
        return
    table = Table("", "resource", "kind", header_style="bold")
    for change in found.changes:
        table.add_row("Replace" if change.replaces else change.action, change.resource, change.kind)
    console.print(table)
    if found.new_cluster:
        echo("A new cluster takes 10 to 20 minutes; photos that land meanwhile wait, or go through the old one.")


def _show_deployed(cloud: "Cloud", done: "Deployment") -> None:
    outputs = done.stack.outputs
    home, copy_days = outputs["Home"], done.stack.parameters.get("CopyDays", "0")
    kept = "" if copy_days == "0" else f" Copies of photos are kept for {copy_days} days."
    console.print(
        f"""
[bold]{cloud.stack_name}[/] stands in {cloud.region}. The stream: {done.stream}, with {" ".join(done.options)}.{kept}

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
    if done.mail is not None:
        echo("")
        echo(_about_mail(done.mail))


def _about_mail(mail: "MailTest") -> str:
    if mail.failure is not None:
        return f"Whether alarms reach {mail.address} was not tested. {mail.failure} The test: {mail.again}"
    if mail.confirmed:
        return (
            f"A test alarm went to {mail.address}: an email should have come. If none has after ten minutes, look "
            f"among the spam, then into docs/operations.md, “No email comes”. The test again: {mail.again}"
        )
    return (
        f"{mail.address} gets no alarms yet, because nobody has confirmed. Confirm in AWS's message to it, then test: "
        f"{mail.again}"
    )
