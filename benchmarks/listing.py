"""How long a complete listing of a directory takes: one of its own with empty files, in a temporary directory.

python -m benchmarks.listing [--files 1000000] [--rounds 4]

To compare two checkouts, keep the files with --folder and give each checkout's directory as PYTHONPATH in turns.
"""

import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from store.objects.landing import list_pages
from store.objects.location import StorageLocation

FILES_A_FOLDER = 2000


def main(
    files: Annotated[int, typer.Option(help="How many files.")] = 1_000_000,
    rounds: Annotated[int, typer.Option(help="How many listings.")] = 4,
    folder: Annotated[
        Path | None, typer.Option(help="Where to make and keep them; a full one is taken as it is.")
    ] = None,
) -> None:
    """Print how many files were listed and the seconds of each listing."""
    with tempfile.TemporaryDirectory() as scratch:
        landing = folder or Path(scratch, "landing")
        if not landing.exists():
            for number in range(files):
                path = landing / f"label{number // FILES_A_FOLDER:03d}" / f"IMG_{number:07d}.jpg"
                if number % FILES_A_FOLDER == 0:
                    path.parent.mkdir(parents=True)
                path.touch(exist_ok=False)
        for _ in range(rounds):
            began_s = time.perf_counter()
            found = sum(len(page) for page in list_pages(StorageLocation.at(str(landing))))
            typer.echo(f"{found:,} files in {time.perf_counter() - began_s:.2f} s")


if __name__ == "__main__":
    typer.run(main)
