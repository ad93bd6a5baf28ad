"""The command that takes a stage down."""

import sys
from typing import Annotated

import typer

from features.errors import InvalidSetting
from ops.cli.aws.stage import STAGE, connect_to_stage, notify_event
from ops.cli.command import Flags, takes_settings
from ops.cli.console import echo, notify


@takes_settings(*STAGE)
def destroy(
    flags: Flags,
    delete_data: Annotated[
        bool, typer.Option("--delete-data", help="Also delete every photo, row and model; asks for the stack's name.")
    ] = False,
    confirm: Annotated[
        str | None, typer.Option("--confirm", metavar="NAME", help="The stack's name, instead of being asked for it.")
    ] = None,
) -> None:
    """Stop the stream and delete the cluster; photos, tables and models stay, unless told otherwise."""
    from bootstrap.aws.deploy import stage_home
    from bootstrap.aws.destroy import delete_compute, is_deleted
    from bootstrap.aws.destroy import delete_data as delete_all_data
    from bootstrap.aws.stack import find_stack

    settings = flags.load()
    cloud = connect_to_stage(settings)
    if delete_data:
        if is_deleted(cloud):
            raise InvalidSetting(
                f"There is no {cloud.stack_name} in {cloud.region} of account {cloud.account}; check --stage, --region."
            )
        if confirm is None:
            if not sys.stdin.isatty():
                raise InvalidSetting(f"Deleting all data needs a yes: add --confirm {cloud.stack_name}.")
            confirm = typer.prompt(
                f"Every photo, row and model of {cloud.stack_name} in {cloud.region} will be deleted for good. "
                "Its name, to confirm"
            )
        if confirm != cloud.stack_name:
            raise InvalidSetting(f"{confirm} is not {cloud.stack_name}; nothing was deleted.")
    if not delete_data or find_stack(cloud) is not None:
        delete_compute(cloud, stage_home(cloud, settings), notify, notify_event)
    if delete_data:
        delete_all_data(cloud, notify, notify_event)
        echo(f"{cloud.stack_name} and all its data are gone; its key can still be kept for 30 days (KMS).")
    else:
        echo(
            f"{cloud.stack_name} runs nothing any more. Its data stays, and photos that land wait in "
            f"s3://{cloud.data_bucket}/landing/. `fruits deploy` goes on where it was; "
            "`fruits destroy --delete-data` deletes the data, too."
        )
