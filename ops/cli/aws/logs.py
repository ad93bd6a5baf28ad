"""The command that shows what a job on a stage's cluster said."""

import sys
from typing import Annotated

import typer

from features.errors import InvalidSetting
from ops.cli.aws.stage import STAGE, JobName, connect_to_stage, running_cluster, step_state
from ops.cli.command import Flags, takes_settings
from ops.cli.console import messages, notify


@takes_settings(*STAGE)
def logs(
    flags: Flags,
    job: Annotated[JobName, typer.Argument(help="Whose words to show.")] = "stream",
    step: Annotated[str | None, typer.Option("--step", metavar="ID", help="An older step; default: the last.")] = None,
) -> None:
    """Show what a job on the cluster said, and how it stands."""
    from bootstrap.aws import steps
    from bootstrap.aws.logs import read_logs

    settings = flags.load()
    cloud = connect_to_stage(settings)
    cluster = running_cluster(cloud)
    last = next((each for each in steps.job_steps(cloud, cluster, job) if step in (None, each.id)), None)
    if last is None:
        raise InvalidSetting(f"{cluster} has no such step of {job}; `fruits submit {job}` runs one.")
    found = list(read_logs(cloud, settings.s3_endpoint, cluster, last))
    for log in found:
        messages.rule(log.uri)
        sys.stdout.write(log.text)
        sys.stdout.flush()
    notify(step_state(last))
    if not found:
        notify("There are no logs of it yet: EMR copies them every five minutes.")
