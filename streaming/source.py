"""The Spark source: it tells Spark the number of the newest plan, as the driver writes it to a small file.

Its one option, `plan_file`, names that file. Spark runs the reader in a Python process of its own beside the driver. It
yields one row a batch, `(batch long)`.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pyspark.sql.datasource import DataSource, DataSourceStreamReader, InputPartition

SOURCE_NAME = "fruits_landing"
# The query can be stopped between two answers only; within one a new plan is told as soon as it is there.
ANSWER_WITHIN_S = 0.5
_POLL_S = 0.01


def publish_plan(plan_file: Path, batch: int) -> None:
    """Tell the reader that a batch is planned, and all before it."""
    fresh = plan_file.with_suffix(".new")
    fresh.write_text(str(batch))
    fresh.replace(plan_file)


class LandingSource(DataSource):
    """Photos below a landing prefix, as numbered batches."""

    @classmethod
    def name(cls) -> str:
        return SOURCE_NAME

    def schema(self) -> str:
        return "batch long"

    def streamReader(self, schema: object) -> "LandingReader":  # noqa: N802 - the name is Spark's
        return LandingReader(Path(self.options["plan_file"]))


class LandingReader(DataSourceStreamReader):
    """Offsets are plan numbers: `{"batch": N}` means that plans up to N exist, 0 that this run has none yet.

    Spark asks for the latest offset before it asks for the initial one, and only between batches.
    """

    def __init__(self, plan_file: Path) -> None:
        self._plan_file = plan_file
        self._newest = 0

    def initialOffset(self) -> dict[str, int]:  # noqa: N802 - the name is Spark's
        return {"batch": 0}

    def latestOffset(self) -> dict[str, int]:  # noqa: N802 - the name is Spark's
        deadline_s = time.monotonic() + ANSWER_WITHIN_S
        while (newest := self._read()) == self._newest and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)
        self._newest = newest
        return {"batch": newest}

    def partitions(self, start: dict[str, int], end: dict[str, int]) -> Sequence[InputPartition]:
        return [InputPartition(end["batch"])]

    def read(self, partition: InputPartition) -> Iterator[tuple[Any, ...]]:
        yield (partition.value,)

    def _read(self) -> int:
        return int(self._plan_file.read_text()) if self._plan_file.exists() else 0
