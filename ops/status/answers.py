"""How right the service's answers were, and how many photos it does not know: counted from the tables."""

from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc

from ops.share import Share, share_of
from store.home import Home
from store.models.pca_models import current_models
from store.tables.files import DataFile, data_files, read_file
from store.tables.handles import open_table
from store.tables.labels import NOTHING_SAID, RANDOM, SaidLabels, said_labels
from store.tables.schemas import FEATURE_ROWS, PROJECTION_ROWS

ANSWERS_COUNT_FOR = timedelta(days=28)
# As many files are read at a time: on S3 most of the time is waiting.
_READERS = 16
# Files never change, so a second look reads only new ones.
_FILES_KEPT = 20_000

# The answers of each version in a file, and those that were right.
_Counted = tuple[Mapping[int, int], Mapping[int, int]]
# When something was said of a day for the last time, and how often in all.
_LastSaid = tuple[datetime, int]

# By the last statement about the file's day, too: as long as it stays the last one, rows keep their labels and origins.
_counted: dict[tuple[Home, str, str | None, _LastSaid | None], _Counted] = {}


@dataclass(frozen=True)
class Answers:
    """The answers to photos with a label, of the days from `since`, by the version that gave them.

    A photo counts if its folder gave it a label, or if it was drawn at random for a person to label; its answer is
    compared with the label that counts now. Labels that somebody asked for otherwise are of photos that are hard.
    """

    since: date
    of_versions: Mapping[int, int] = field(default_factory=dict)
    correct_of_versions: Mapping[int, int] = field(default_factory=dict)

    @property
    def accuracy(self) -> Share:
        """How many of all answers were right: no refit and no pruned version changes it."""
        return share_of(sum(self.correct_of_versions.values()), sum(self.of_versions.values()))

    def accuracy_of(self, version: int) -> Share:
        """The same of the answers that one version gave."""
        return share_of(self.correct_of_versions.get(version, 0), self.of_versions.get(version, 0))


def recent_answers(home: Home) -> Answers:
    """The same as `count_answers` of today, for who has no tables open. Raises StateDamaged, StorageUnavailable."""
    files, served = data_files(open_table(home, FEATURE_ROWS)), current_models(home).featurizer
    return count_answers(home, files, served, datetime.now(UTC).date())


def count_answers(home: Home, feature_files: Iterable[DataFile], served: str | None, today: date) -> Answers:
    """The answers of the last 28 days (UTC), from those days' files; each row of a photo repeats its answer.

    So only rows of the `served` network count, all where none is named. Raises StateDamaged, StorageUnavailable.
    """
    since = today - ANSWERS_COUNT_FOR + timedelta(days=1)
    of_days = [file for file in feature_files if file.partition["ingest_date"] >= since]
    files = [file for file in of_days if served is None or file.may_hold(served)]
    said = said_labels(home) if files else NOTHING_SAID
    said_on, answers, correct = _last_said(said), Counter[int](), Counter[int]()

    def count(file: DataFile) -> _Counted:
        key = home, file.path, served, said_on.get(file.partition["ingest_date"])
        counted = _counted.get(key)
        if counted is None:
            counted = _counted[key] = _answers_in(home, file.path, served, said)
        return counted

    with ThreadPoolExecutor(_READERS) as readers:
        for given, right in readers.map(count, files):
            answers.update(given)
            correct.update(right)
    for old in list(_counted)[:-_FILES_KEPT]:
        _counted.pop(old, None)
    return Answers(since, dict(answers), dict(correct))


def count_unknown(
    home: Home, projection_files: Iterable[DataFile], version: int | None, today: date, above: float
) -> Share:
    """Of the photos of today (UTC) that a version names, those of a novelty `above` this. Raises as `count_answers`."""
    paths = [
        file.path
        for file in projection_files
        if file.partition["ingest_date"] == today and file.partition["pca_version"] == version
    ]
    with ThreadPoolExecutor(_READERS) as readers:
        counts = list(readers.map(lambda path: _unknown_in(home, path, above), paths))
    return share_of(sum(unknown for unknown, _ in counts), sum(photos for _, photos in counts))


def _last_said(said: SaidLabels) -> dict[date, _LastSaid]:
    of_days = said.rows.group_by("ingest_date").aggregate([("said_at", "max"), ("said_at", "count")]).to_pylist()
    return {row["ingest_date"]: (row["said_at_max"], row["said_at_count"]) for row in of_days}


def _answers_in(home: Home, path: str, served: str | None, said: SaidLabels) -> _Counted:
    answers, correct = Counter[int](), Counter[int]()
    columns = ["image_id", "label", "answer", "answer_version", "featurizer"]
    for of_all in read_file(home, FEATURE_ROWS, path, columns):
        rows = of_all if served is None else of_all.filter(pc.equal(of_all["featurizer"], served))
        # The accents of older rows may not be composed.
        label, answer = said.labels_of(rows), pc.utf8_normalize(rows["answer"], "NFC")
        is_random = pc.fill_null(pc.equal(said.origins_of(rows), RANDOM), False)
        counts = pc.and_(pc.is_valid(label), pc.or_(pc.is_valid(rows["label"]), is_random))
        answers.update(_counts(rows["answer_version"].filter(pc.and_(counts, pc.is_valid(answer)))))
        correct.update(_counts(rows["answer_version"].filter(pc.and_(counts, pc.equal(label, answer)))))
    return answers, correct


def _counts(versions: pa.Array) -> dict[int, int]:
    return {pair["values"]: pair["counts"] for pair in versions.value_counts().to_pylist()}


@lru_cache(maxsize=_FILES_KEPT)
def _unknown_in(home: Home, path: str, above: float) -> tuple[int, int]:
    unknown = photos = 0
    for rows in read_file(home, PROJECTION_ROWS, path, ["novelty"]):
        novelty = rows["novelty"]
        photos += len(novelty) - novelty.null_count
        unknown += pc.greater(novelty, above).true_count
    return unknown, photos
