"""What the commands share that are asked about files: their arguments, and what they say of files without an answer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from features.errors import InvalidSetting
from ops.cli.command import READING
from ops.cli.console import Format, notify

if TYPE_CHECKING:
    import pyarrow as pa

PHOTOS = (*READING, "max_image_bytes", "max_pixels", "max_decode_time")

Files = Annotated[list[str], typer.Argument(metavar="FILE...", help="Photos on this machine.", show_default=False)]
Form = Annotated[Format, typer.Option("--format", help="How to write the rows.")]


def check_files(files: Sequence[str]) -> None:
    """Raises InvalidSetting for a name that is no file's of this machine."""
    for file in files:
        if file.startswith("s3://"):
            raise InvalidSetting(f"{file} is not on this machine: copy it here, and name the copy.")


def tell_refused(rows: "pa.Table") -> None:
    """Say of each file without an answer why that is."""
    for row in _refused(rows):
        notify(f"{row['file']}: {row['reason']}: {row['detail']}")


def check_none_refused(rows: "pa.Table", files: int) -> None:
    """Raises FilesRefused when one of so many files has no answer."""
    from ops.identify.identify import FilesRefused

    if refused := _refused(rows):
        raise FilesRefused(
            f"Not every file has an answer: {len(refused):,} of {files:,} cannot be used, for the reasons above."
        )


def _refused(rows: "pa.Table") -> list[dict[str, str]]:
    columns = rows.select(["file", "reason", "detail"])
    return [row for row in columns.to_pylist() if row["reason"] is not None]
