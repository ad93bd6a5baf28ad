"""Answers of the last days are written anew by the served version, and nothing newer is overwritten."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from batch.answers import answer_again
from store.answers.answer import Answer, read_answer
from store.answers.written import write_answers
from store.home import Home
from store.objects.landing import stat_object
from store.objects.operations import overwrite
from store.settings import load_settings
from store.state.erasures import begin_erasure
from tests.support.named_home import KINDS, classifier_of, commit_named, photos_of, publish

DAY = date(2026, 10, 5)
OLD = DAY - timedelta(days=9)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Three photos of an old day and three of a day, named by versions 1 and 2; 2 is served."""
    home = load_settings(home=str(tmp_path / "home")).places()
    rows = [*KINDS] * 10
    classifier = classifier_of(photos_of(rows, 1), rows)
    models = [publish(home, version, classifier) for version in (1, 2)]
    for batch, day in enumerate((OLD, DAY), 1):
        commit_named(home, batch, day, photos_of(KINDS, batch), KINDS, models, served=models[0])
    return home


def answered(home: Home, spark: SparkSession, since: date = DAY) -> int:
    return answer_again(spark.sparkContext, home, since, print, lambda done, total: None)


def key_of(batch: int, number: int) -> str:
    return f"kiwi/{batch}-{number}.jpg"


def test_photos_of_the_last_days_get_the_answer_of_the_served_version_once(home: Home, spark: SparkSession) -> None:
    assert answered(home, spark) == 3
    answers = [read_answer(home, key_of(2, number)) for number in range(3)]
    assert [(answer.predicted, answer.model_version) for answer in answers if answer] == [(k, 2) for k in KINDS]
    assert read_answer(home, key_of(1, 0)) is None
    assert answered(home, spark) == 0
    assert answered(home, spark, since=OLD) == 3


def test_an_answer_to_a_later_version_of_an_object_stays(home: Home, spark: SparkSession) -> None:
    later = Answer(key_of(2, 0), "another", datetime(2026, 10, 6, tzinfo=UTC), "photo", "id", model_version=1)
    earlier = Answer(key_of(2, 1), "another", datetime(2026, 10, 4, tzinfo=UTC), "photo", "id", model_version=1)
    write_answers(home, [later, earlier])
    assert answered(home, spark) == 2
    assert read_answer(home, key_of(2, 0)) == later
    rewritten = read_answer(home, key_of(2, 1))
    assert rewritten is not None and (rewritten.etag, rewritten.model_version) == ("e", 2)


def test_an_answer_to_the_file_that_is_there_stays_whatever_its_time(home: Home, spark: SparkSession) -> None:
    overwrite(home.landing, key_of(2, 0), b"a photo that was older when it took the place of the other")
    landed = stat_object(home.landing, key_of(2, 0))
    assert landed is not None
    older = datetime(2021, 1, 1, tzinfo=UTC)
    write_answers(home, [Answer(key_of(2, 0), landed.etag, older, "photo", "id", model_version=1)])
    assert answered(home, spark) == 2
    stored = read_answer(home, key_of(2, 0))
    assert stored is not None and stored.etag == landed.etag


def test_nobody_whom_an_erasure_covers_is_answered_again(home: Home, spark: SparkSession) -> None:
    erased = Answer(key_of(2, 1), "e", datetime(2026, 10, 5, 12, tzinfo=UTC), "photo", "id", model_version=1)
    write_answers(home, [erased])
    begin_erasure(home, "source", key_of(2, 1), (), datetime.now(UTC))
    answered(home, spark)
    assert [read_answer(home, key_of(2, number)) is not None for number in range(3)] == [True, False, True]
