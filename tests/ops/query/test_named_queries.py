"""Each named query is Athena's SQL as it stands, and on DuckDB gives what NumPy gives for the same rows."""

import math
import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlglot
from numpy.typing import NDArray
from scipy.stats import binomtest  # type: ignore[import-untyped]
from sqlglot import ErrorLevel, exp
from typer.testing import CliRunner

from bootstrap.aws.athena import definitions
from features.errors import InvalidSetting
from ops.cli.main import app
from ops.query.named_queries import NamedQuery, named_queries, named_query, read_query
from ops.query.query import InvalidQuery, connect, run_query, to_duckdb
from store.home import Home
from store.models.pca_models import begin_switch, finish_switch
from store.setting_fields import SettingFields
from store.settings import load_settings
from store.tables.commits import commit
from store.tables.files import vectors_column, write_file
from store.tables.handles import create_tables
from store.tables.schemas import FEATURE_ROWS, PROJECTION_ROWS, REJECT_ROWS, Table

TODAY = datetime.now(UTC).date()
MONDAY, TUESDAY = TODAY - timedelta(days=9), TODAY - timedelta(days=8)
LONG_AGO = TODAY - timedelta(days=100)
SERVED, FORMER = 2, 1


@dataclass(frozen=True)
class Photo:
    """A photo as a test lets it arrive; photos of one image have one projection."""

    image: int
    name: str
    label: str | None
    day: date
    waited_ms: int
    bytes: int

    @property
    def image_id(self) -> str:
        return f"{self.image:02d}{'f' * 62}"

    @property
    def source(self) -> str:
        return f"s3://bucket/landing/{self.name}"

    @property
    def arrived_at(self) -> datetime:
        return datetime(self.day.year, self.day.month, self.day.day, 8, self.image, tzinfo=UTC)

    def pca(self, version: int) -> NDArray[np.float32]:
        spread = np.array([9, 3, 1], np.float32)
        return np.random.default_rng((self.image, version)).normal(size=3).astype(np.float32) * spread

    @property
    def answer(self) -> str | None:
        """What the app was answered: nothing before there was a version."""
        return None if self.day == LONG_AGO else NAMES[self.image % 2]

    @property
    def answer_confidence(self) -> float | None:
        """From 0 to 1, both ends included."""
        return None if self.answer is None else self.image * 7 % 11 / 10

    def named(self, version: int) -> "Named":
        random = np.random.default_rng((self.image, version, 1))
        names = [NAMES[place] for place in random.permutation(len(NAMES))[:3]]
        confidences = np.sort(random.random(3).astype(np.float32) / 3)[::-1]
        distance, novelty = random.random(2).astype(np.float32)
        in_fit = self.label == "kiwi" and self.day == MONDAY
        return Named(names, confidences.tolist(), float(100 * distance), float(novelty), in_fit)


@dataclass(frozen=True)
class Named:
    """What a version says of a photo; it knows no lime."""

    names: list[str]
    confidences: list[float]
    distance: float
    novelty: float
    in_fit: bool

    @property
    def odds(self) -> dict[str, float]:
        return dict(zip(self.names, self.confidences, strict=True))


NAMES = ["kiwi", "it's", "é_%", "pêche"]

PHOTOS = [
    *(Photo(n, f"kiwi/{n}.jpg", "kiwi", MONDAY, 100 * n**2, 1000 + n) for n in range(1, 8)),
    *(Photo(n, f"it's/{n}.jpg", "it's", TUESDAY, 77 * n, 2000 + n) for n in range(11, 15)),
    *(Photo(n, f"é_%/{n}.jpg", "é_%", TUESDAY, 10**7 + n, 3 * 10**9) for n in range(21, 24)),
    *(Photo(n, f"{n}.jpg", None, TUESDAY, 5, 1) for n in range(31, 34)),
    *(Photo(n, f"lime/{n}.jpg", "lime", LONG_AGO, 1, 1) for n in range(41, 43)),
    # Copies: another name, another label, another day.
    Photo(3, "lime/copy of 3.jpg", "lime", TUESDAY, 1500, 1003),
    Photo(3, "kiwi/again 3.jpg", "kiwi", TUESDAY, 1500, 1003),
    Photo(31, "lime/31.jpg", "lime", TUESDAY, 1500, 1),
]
# Day, reason and detail.
REJECTS = [
    (MONDAY, "truncated", "It ends early (b)."),
    (MONDAY, "truncated", "It ends early (a)."),
    (TUESDAY, "empty", "The file has no bytes."),
    (LONG_AGO, "empty", "The file has no bytes."),
]
RECENT = [photo for photo in PHOTOS if photo.day != LONG_AGO]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home on disk with these photos, projected by two versions of which the later is served, and these rejects."""
    home = load_settings(home=str(tmp_path_factory.mktemp("queries") / "home")).places()
    create_tables(home)
    for batch, day in enumerate((LONG_AGO, MONDAY, TUESDAY), start=1):
        photos = [photo for photo in PHOTOS if photo.day == day]
        features = [(_feature_rows(photos, batch), {})]
        projections = [(_projection_rows(photos, batch, each), {"pca_version": str(each)}) for each in (FORMER, SERVED)]
        rejects = [(_reject_rows([each for each in REJECTS if each[0] == day], batch), {})]
        for table, files in ((FEATURE_ROWS, features), (PROJECTION_ROWS, projections), (REJECT_ROWS, rejects)):
            _commit(home, table, batch, day, files)
    finish_switch(home, begin_switch(home, SERVED), "abc")
    return home


def _commit(
    home: Home, table: Table, batch: int, day: date, files: Sequence[tuple[dict[str, Any], dict[str, str]]]
) -> None:
    adds = [write_file(home, table, rows, {"ingest_date": day.isoformat(), **partition}) for rows, partition in files]
    commit(home, table, batch, "a test", adds)


def _shared(photos: Sequence[Photo], batch: int) -> dict[str, Any]:
    return {
        "image_id": [photo.image_id for photo in photos],
        "source": [photo.source for photo in photos],
        "label": [photo.label for photo in photos],
        "subject": [None] * len(photos),
        "arrived_at": [photo.arrived_at for photo in photos],
        "ingested_at": [photo.arrived_at + timedelta(milliseconds=photo.waited_ms) for photo in photos],
        "featurizer": ["abc"] * len(photos),
        "batch": [batch] * len(photos),
    }


def _feature_rows(photos: Sequence[Photo], batch: int) -> dict[str, Any]:
    rows = len(photos)
    return _shared(photos, batch) | {
        "etag": ["e"] * rows,
        "bytes": [photo.bytes for photo in photos],
        "format": ["JPEG"] * rows,
        "width": [640] * rows,
        "height": [480] * rows,
        "features": vectors_column(np.zeros((rows, 1280), np.float32)),
        "answer": [photo.answer for photo in photos],
        "answer_confidence": [photo.answer_confidence for photo in photos],
    }


def _projection_rows(photos: Sequence[Photo], batch: int, version: int) -> dict[str, Any]:
    named = [photo.named(version) for photo in photos]
    return _shared(photos, batch) | {
        "pca": vectors_column(np.stack([photo.pca(version) for photo in photos])),
        "predicted": [one.names[0] for one in named],
        "confidence": [one.confidences[0] for one in named],
        "top3": [[{"label": name, "confidence": odds} for name, odds in one.odds.items()] for one in named],
        "distance": [one.distance for one in named],
        "novelty": [one.novelty for one in named],
        "in_fit": [one.in_fit for one in named],
    }


def _reject_rows(rejects: Sequence[tuple[date, str, str]], batch: int) -> dict[str, Any]:
    rows = len(rejects)
    at = [datetime(day.year, day.month, day.day, 7, tzinfo=UTC) for day, _, _ in rejects]
    return {
        "source": [f"s3://bucket/landing/broken/{number}.jpg" for number in range(rows)],
        "etag": ["e"] * rows,
        "bytes": [10] * rows,
        "arrived_at": at,
        "reason": [reason for _, reason, _ in rejects],
        "detail": [detail for _, _, detail in rejects],
        "batch": [batch] * rows,
        "ingested_at": at,
    }


def _answer(home: Home, name: str, **given: object) -> list[dict[str, Any]]:
    query = named_query(name)
    values = query.values({parameter: str(value) for parameter, value in given.items()})
    return list(run_query(connect(home), to_duckdb(query.sql), values).to_pylist())


@pytest.mark.parametrize("dialect", ["athena", "trino"])
@pytest.mark.parametrize("query", named_queries(), ids=lambda query: query.name)
def test_a_file_is_one_select_over_what_athena_has(query: NamedQuery, dialect: str) -> None:
    [statement] = sqlglot.parse(query.sql, read=dialect, error_level=ErrorLevel.RAISE)
    assert isinstance(statement, exp.Select)
    assert not list(statement.find_all(exp.Command))
    there = {definition.name for definition in definitions()} | {cte.alias for cte in statement.find_all(exp.CTE)}
    assert {table.name for table in statement.find_all(exp.Table)} <= there
    # A function that sqlglot does not know may be one that Athena does not have.
    assert {function.name for function in statement.find_all(exp.Anonymous)} <= {"cardinality"}


@pytest.mark.parametrize("query", named_queries(), ids=lambda query: query.name)
def test_a_file_has_a_question_mark_for_each_parameter_where_athena_takes_one(query: NamedQuery) -> None:
    marks = list(sqlglot.parse_one(query.sql, read="athena").find_all(exp.Placeholder))
    assert len(marks) == len(query.parameters) == query.sql.count("?")
    assert all(mark.find_ancestor(exp.Where, exp.Subquery, exp.CTE, exp.Select).key == "where" for mark in marks)


def test_no_parameter_is_named_like_an_option_of_the_command() -> None:
    for query in named_queries():
        for parameter in query.parameters:
            answer = CliRunner().invoke(app, ["query", query.name, parameter.flag, "", "--show"])
            assert answer.output.rstrip() == query.sql.rstrip()


def test_arrivals_are_counted_by_day(home: Home) -> None:
    expected = []
    for day in (MONDAY, TUESDAY):
        sizes = [photo.bytes for photo in PHOTOS if photo.day == day]
        rejects = sum(each[0] == day for each in REJECTS)
        expected.append(
            {
                "day": day,
                "arrivals": len(sizes) + rejects,
                "photos": len(sizes),
                "rejects": rejects,
                "rejects_percent": round(100 * rejects / (len(sizes) + rejects), 2),
                "bytes": sum(sizes) + 10 * rejects,
            }
        )
    assert _answer(home, "arrivals") == expected
    assert _answer(home, "arrivals", since=TUESDAY) == expected[1:]
    assert len(_answer(home, "arrivals", since="200 days ago")) == 3


def test_rejects_are_counted_by_day_and_reason(home: Home) -> None:
    monday = {"day": MONDAY, "reason": "truncated", "files": 2, "bytes": 20, "example": "It ends early (a)."}
    tuesday = {"day": TUESDAY, "reason": "empty", "files": 1, "bytes": 10, "example": "The file has no bytes."}
    assert _answer(home, "rejects") == [monday, tuesday]


def test_latency_is_the_nearest_rank(home: Home) -> None:
    expected = []
    for day in (MONDAY, TUESDAY):
        waits = sorted(photo.waited_ms / 1000 for photo in PHOTOS if photo.day == day)
        ranks = {f"p{q}_s": float(np.quantile(waits, q / 100, method="inverted_cdf")) for q in (50, 90, 95, 99)}
        expected.append({"day": day, "photos": len(waits)} | ranks | {"longest_s": waits[-1]})
    assert _answer(home, "latency") == expected


def test_labels_are_counted(home: Home) -> None:
    groups: dict[str | None, list[Photo]] = defaultdict(list)
    for photo in RECENT:
        groups[photo.label].append(photo)
    assert _answer(home, "labels", since=MONDAY) == [
        {
            "label": label,
            "photos": len(groups[label]),
            "images": len({photo.image for photo in groups[label]}),
            "first_arrival": min(photo.arrived_at for photo in groups[label]).replace(tzinfo=None),
            "last_arrival": max(photo.arrived_at for photo in groups[label]).replace(tzinfo=None),
        }
        for label in ("it's", "kiwi", "lime", "é_%", None)
    ]


def test_duplicates_tell_under_which_names_and_labels_a_photo_came(home: Home) -> None:
    found = _answer(home, "duplicates")
    assert [(row["image_id"], row["photos"], row["sources"], row["labels"]) for row in found] == [
        (PHOTOS[2].image_id, 3, 3, "kiwi, lime"),
        (f"31{'f' * 62}", 2, 2, "lime"),
    ]
    assert [row["first_arrival"].date() for row in found] == [MONDAY, TUESDAY]
    assert [row["last_arrival"].date() for row in found] == [TUESDAY, TUESDAY]
    assert _answer(home, "duplicates", k=1) == found[:1]
    assert _answer(home, "duplicates", since=TUESDAY)[0]["photos"] == 2


@pytest.mark.parametrize(
    ("part", "names"),
    [
        ("it's/1", ["it's/14.jpg", "it's/13.jpg", "it's/12.jpg", "it's/11.jpg"]),
        ("é_%/22", ["é_%/22.jpg"]),
        ("%", ["é_%/23.jpg", "é_%/22.jpg", "é_%/21.jpg"]),
        ("' OR 1 = 1 --", []),
        ("broken", ["broken/0.jpg", "broken/0.jpg", "broken/1.jpg", "broken/0.jpg"]),
    ],
)
def test_find_takes_text_as_it_is(home: Home, part: str, names: list[str]) -> None:
    found = _answer(home, "find", source=part)
    assert [row["source"].partition("/landing/")[2] for row in found] == names
    assert {row["outcome"] for row in found} <= ({"truncated", "empty"} if part == "broken" else {"photo"})
    assert _answer(home, "find", source=part, k=1) == found[:1]


@pytest.mark.parametrize("given", [3, 11, 31, 41])
def test_nearest_orders_images_by_euclidean_distance(home: Home, given: int) -> None:
    centre = next(photo for photo in PHOTOS if photo.image == given).pca(SERVED).astype(np.float64)
    copies: dict[int, list[Photo]] = defaultdict(list)
    for photo in sorted(PHOTOS, key=lambda photo: photo.source):
        copies[photo.image].append(photo)
    distances = {image: float(np.linalg.norm(of[0].pca(SERVED) - centre)) for image, of in copies.items()}
    expected = sorted(distances, key=lambda image: distances[image])

    for prefix, k in ((f"{given:02d}", 5), (copies[given][0].image_id, 1), (f"{given:02d}f", 1000)):
        found = _answer(home, "nearest", image=prefix, k=k)
        assert [row["image_id"][:2] for row in found] == [f"{image:02d}" for image in expected[: k + 1]]
        assert [row["neighbour"] for row in found] == list(range(len(found)))
    assert [row["distance"] for row in found] == pytest.approx([distances[image] for image in expected], rel=1e-6)
    firsts = [copies[image][0] for image in expected]
    assert [(row["source"], row["label"]) for row in found] == [(photo.source, photo.label) for photo in firsts]
    assert [row["copies"] for row in found] == [len(copies[image]) for image in expected]
    assert _answer(home, "nearest", image="' OR '' = '") == []


def test_centroids_and_spreads_are_those_of_the_served_version(home: Home) -> None:
    points: dict[str | None, list[NDArray[np.float64]]] = defaultdict(list)
    for photo in RECENT:
        points[photo.label].append(photo.pca(SERVED).astype(np.float64))
    centres = {label: np.mean(of, axis=0) for label, of in points.items()}
    apart: dict[str, dict[str, float]] = defaultdict(dict)
    for one, other in combinations([label for label in centres if label is not None], 2):
        apart[one][other] = apart[other][one] = float(np.linalg.norm(centres[one] - centres[other]))

    found = _answer(home, "centroids", since=MONDAY)

    assert [row["label"] for row in found] == ["it's", "kiwi", "lime", "é_%", None]
    for row in found:
        label = row["label"]
        spread = math.sqrt(np.mean([np.sum((point - centres[label]) ** 2) for point in points[label]]))
        assert (row["photos"], row["spread"]) == (len(points[label]), pytest.approx(spread))
        if label is None:
            assert (row["nearest_label"], row["distance"]) == (None, None)
        else:
            nearest = min(apart[label], key=lambda other: apart[label][other])
            assert (row["nearest_label"], row["distance"]) == (nearest, pytest.approx(apart[label][nearest]))


def test_drift_is_told_for_each_version_and_day(home: Home) -> None:
    found = _answer(home, "drift")
    assert [(row["pca_version"], row["day"]) for row in found] == [
        (SERVED, MONDAY),
        (SERVED, TUESDAY),
        (FORMER, MONDAY),
        (FORMER, TUESDAY),
    ]
    for row in found:
        of_version = {photo: photo.pca(row["pca_version"]).astype(np.float64) for photo in RECENT}
        of_day = np.stack([point for photo, point in of_version.items() if photo.day == row["day"]])
        everything = np.stack(list(of_version.values()))
        assert row["photos"] == len(of_day)
        assert row["spread"] == pytest.approx(math.sqrt(np.mean(np.sum(of_day**2, axis=1))))
        assert row["drift"] == pytest.approx(np.linalg.norm(of_day.mean(axis=0)))
        by_chance = math.sqrt(np.mean(np.sum(everything**2, axis=1)) / len(of_day))
        assert row["by_chance"] == pytest.approx(by_chance)


def test_accuracy_counts_the_answers_that_the_app_got(home: Home) -> None:
    right: dict[tuple[date, str | None], list[bool]] = defaultdict(list)
    for photo in RECENT:
        week = photo.day - timedelta(days=photo.day.weekday())
        if photo.label is not None:
            for label in (photo.label, None):
                right[week, label].append(photo.answer == photo.label)

    found = _answer(home, "accuracy", since=MONDAY)

    assert [(row["week"], row["label"]) for row in found] == sorted(
        right, key=lambda key: (key[0], key[1] is None, key[1])
    )
    for row in found:
        of = right[row["week"], row["label"]]
        interval = binomtest(sum(of), len(of)).proportion_ci(0.95, "wilson")
        assert (row["answers"], row["correct"]) == (len(of), sum(of))
        assert row["percent"] == pytest.approx(100 * np.mean(of), abs=0.06)
        assert (row["low"], row["high"]) == pytest.approx((100 * interval.low, 100 * interval.high), abs=0.06)


def test_reliability_counts_the_answers_by_tenths_of_their_confidence(home: Home) -> None:
    of: dict[float, list[tuple[float, bool]]] = defaultdict(list)
    for photo in RECENT:
        if photo.label is not None:
            assert photo.answer_confidence is not None
            sure = float(np.float32(photo.answer_confidence))
            of[min(math.floor(10 * sure), 9) / 10].append((sure, photo.answer == photo.label))

    found = _answer(home, "reliability", since=MONDAY)

    assert len(found) > 2
    assert [row["lowest"] for row in found] == sorted(of)
    for row in found:
        answers = of[row["lowest"]]
        right = sum(is_right for _, is_right in answers)
        interval = binomtest(right, len(answers)).proportion_ci(0.95, "wilson")
        assert (row["answers"], row["correct"]) == (len(answers), right)
        assert row["confidence"] == pytest.approx(np.mean([sure for sure, _ in answers]))
        assert row["percent"] == pytest.approx(100 * right / len(answers), abs=0.06)
        assert (row["low"], row["high"]) == pytest.approx((100 * interval.low, 100 * interval.high), abs=0.06)


def test_confusion_counts_photos_by_label_and_name(home: Home) -> None:
    pairs = Counter((photo.label, photo.named(SERVED).names[0]) for photo in PHOTOS if photo.label is not None)
    of_label = Counter(photo.label for photo in PHOTOS)
    expected = {(*pair, number) for pair, number in pairs.items() if pair[0] != pair[1]}

    found = _answer(home, "confusion", limit=100)

    assert {(row["label"], row["predicted"], row["photos"]) for row in found} == expected
    assert [row["photos"] for row in found] == sorted((row["photos"] for row in found), reverse=True)
    for row in found:
        assert row["of_label"] == of_label[row["label"]]
        assert row["percent"] == pytest.approx(100 * row["photos"] / row["of_label"], abs=0.06)
    assert _answer(home, "confusion", limit=1) == found[:1]


def test_suspects_are_photos_whose_label_the_version_knows_and_does_not_believe(home: Home) -> None:
    doubted = [photo for photo in PHOTOS if photo.label == "kiwi" and photo.named(SERVED).names[0] != "kiwi"]

    def odds(photo: Photo) -> float:
        named = photo.named(SERVED)
        return named.odds.get("kiwi", named.confidences[-1]) / named.confidences[0]

    expected = sorted(doubted, key=lambda photo: (odds(photo), photo.named(SERVED).distance, photo.source))
    found = _answer(home, "suspects")

    assert [row["source"] for row in found] == [photo.source for photo in expected]
    assert [row["predicted"] for row in found] == [photo.named(SERVED).names[0] for photo in expected]
    assert [row["label_confidence"] for row in found] == [photo.named(SERVED).odds.get("kiwi") for photo in expected]
    assert _answer(home, "suspects", limit=2) == found[:2]


def test_unknown_are_the_photos_above_a_novelty_the_strangest_first(home: Home) -> None:
    strange = [photo for photo in RECENT if photo.named(SERVED).novelty > 0.6]
    expected = sorted(strange, key=lambda photo: (-photo.named(SERVED).distance, photo.source))

    found = _answer(home, "unknown", novelty=0.6)

    assert [row["source"] for row in found] == [photo.source for photo in expected]
    assert [row["distance"] for row in found] == [photo.named(SERVED).distance for photo in expected]
    assert _answer(home, "unknown", novelty=0.6, limit=1) == found[:1]
    assert _answer(home, "unknown", novelty=1) == []


def test_photos_are_unknown_above_the_same_novelty_as_in_status() -> None:
    [novelty] = [parameter for parameter in named_query("unknown").parameters if parameter.name == "novelty"]
    assert novelty.default == str(SettingFields.unknown_novelty)


@pytest.mark.parametrize("query", named_queries(), ids=lambda query: query.name)
def test_a_home_with_empty_tables_gives_no_rows(query: NamedQuery, tmp_path: Path) -> None:
    home = load_settings(home=str(tmp_path)).places()
    create_tables(home)
    given = {parameter.name: "0" for parameter in query.parameters if parameter.default is None}
    assert _answer(home, query.name, **given) == []


@pytest.mark.parametrize("name", [query.name for query in named_queries() if query.parameters[0].name == "since"])
def test_no_file_is_read_of_a_day_before_the_first(damaged: Home, name: str) -> None:
    assert _answer(damaged, name, since=MONDAY)
    with pytest.raises((InvalidQuery, OSError)):
        _answer(damaged, name, since=LONG_AGO)


@pytest.fixture(scope="module")
def damaged(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The same home with the files of its first day damaged."""
    copied = load_settings(home=str(tmp_path_factory.mktemp("damaged") / "home")).places()
    shutil.copytree(home.root.directory, copied.root.directory)
    for file in copied.root.directory.rglob(f"ingest_date={LONG_AGO}/*.parquet"):
        file.write_bytes(b"this is not parquet")
    return copied


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("varchar", "it's", "it's"),
        ("integer", "7", 7),
        ("integer", "0012", 12),
        ("double", "0.99", 0.99),
        ("double", "1", 1.0),
        ("boolean", "true", True),
        ("boolean", "false", False),
        ("date", "2026-02-28", date(2026, 2, 28)),
        ("date", "1 day ago", TODAY - timedelta(days=1)),
        ("date", "0 days ago", TODAY),
        ("date", "99999 days ago", TODAY - timedelta(days=99999)),
    ],
)
def test_values_have_their_types(kind: str, text: str, value: object) -> None:
    assert _asks_for(kind).values({"x": text}) == [value]


@pytest.mark.parametrize(
    ("kind", "text", "sentence"),
    [
        ("varchar", "", "--x must be some text, not ''"),
        ("integer", "0", "--x must be a whole number from 1 to 2147483647, not '0'"),
        ("integer", "-3", "a whole number from 1"),
        ("integer", "1e3", "a whole number from 1"),
        ("integer", "٣", "a whole number from 1"),
        ("integer", str(2**31), "a whole number from 1"),
        ("double", "-0.5", "--x must be a number like 0.99, not '-0.5'"),
        ("double", "nan", "a number like 0.99"),
        ("boolean", "yes", "--x must be true or false, not 'yes'"),
        ("date", "2026-02-29", "--x must be a day like 2026-10-31 or '7 days ago', not '2026-02-29'"),
        ("date", "20260228", "a day like"),
        ("date", "yesterday", "a day like"),
        ("date", "-1 days ago", "a day like"),
    ],
)
def test_a_value_of_another_type_is_refused(kind: str, text: str, sentence: str) -> None:
    with pytest.raises(InvalidSetting, match=sentence):
        _asks_for(kind).values({"x": text})


def _asks_for(kind: str) -> NamedQuery:
    return read_query("q", f"-- What.\n-- x: {kind}: something\n-- none: Nothing.\nSELECT 1 WHERE ? IS NOT NULL\n")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("SELECT 1", "must say what it answers"),
        ("-- What.\nSELECT 1", "must say what it answers"),
        ("-- What.\n-- x: text: something\n-- none: Nothing.\nSELECT 1", "neither parameter nor none: x: text"),
    ],
)
def test_a_header_that_tells_too_little_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(InvalidSetting, match=sentence):
        read_query("q", text)
