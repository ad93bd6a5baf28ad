"""The command that runs a job on a stage's cluster."""

import time
from typing import Annotated

import typer

from features.errors import InvalidSetting
from ops.cli.aws.stage import STAGE, JobName, connect_to_stage, running_cluster, step_state
from ops.cli.command import Flags, takes_settings
from ops.cli.console import echo, notify

POLL_S = 10.0


@takes_settings(*STAGE)
def submit(
    flags: Flags,
    context: typer.Context,
    job: Annotated[JobName, typer.Argument(help="What to run on the cluster.")],
    wait: Annotated[bool, typer.Option("--wait", help="Until it has finished; the exit code says how.")] = False,
) -> None:
    """Run a job on the stage's cluster; what follows its name goes to the job, as in `fruits submit refit --full`."""
    from bootstrap.aws import steps
    from bootstrap.aws.deploy import stage_home
    from bootstrap.aws.handover import replace_stream

    settings = flags.load()
    # On the cluster a slip would be noticed minutes later.
    group = context.find_root().command
    assert isinstance(group, typer.core.TyperGroup)
    command = group.get_command(context, job)
    if command is None:
        raise InvalidSetting(f"There is no command {job}.")
    command.make_context(f"fruits {job}", list(context.args), parent=context.parent)
    cloud = connect_to_stage(settings)
    cluster = running_cluster(cloud)
    home = stage_home(cloud, settings)
    if job == "stream":
        before = steps.job_steps(cloud, cluster, job)
        if not before:
            raise InvalidSetting(f"{cluster} has had no stream yet; `fruits deploy` starts it with its settings.")
        if context.args:
            raise InvalidSetting("A stream's settings come with a deployment: set them, and run `fruits deploy`.")
        outcome = replace_stream(cloud, cluster, home, before[0].step, notify)
        echo(f"The stream: {outcome}, step {steps.job_steps(cloud, cluster, job)[0].id}.")
    else:
        identity = steps.submit(cloud, cluster, steps.job_step(job, context.args, home.root.uri))
        echo(f"Step {identity} is to run {job}; `fruits logs {job} --stage {cloud.stage}` shows it.")
    if not wait:
        return
    while (last := steps.job_steps(cloud, cluster, job)[0]).is_unfinished:
        time.sleep(POLL_S)
    notify(step_state(last))
    if last.state != "COMPLETED":
        raise typer.Exit(1)
