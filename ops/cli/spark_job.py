"""What commands share that run a Spark job of their own."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from ops.cli.console import messages

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

    from store.settings import Settings
    from streaming.session import Spark


@contextmanager
def spark_job(settings: "Settings", name: str) -> Iterator["Spark"]:
    """A Spark of its own until the end of the block."""
    from bootstrap.programs import use_java
    from streaming.session import spark_session

    use_java()
    with spark_session(settings.master, name) as (session, _):
        yield session.sparkContext


def as_yarn_expects(settings: "Settings", name: str) -> AbstractContextManager[object]:
    """For work that needs no Spark: YARN calls a job failed that opens no session, whatever it did."""
    return spark_job(settings, name) if settings.master.startswith("yarn") else nullcontext()


@contextmanager
def progress_bar(title: str, *amounts: "ProgressColumn") -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, if that is a terminal; the function that it gives takes what is done and the total."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), *amounts, TimeElapsedColumn()
    with Progress(*columns, console=messages, transient=True, disable=not messages.is_terminal) as progress:
        bar = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)
