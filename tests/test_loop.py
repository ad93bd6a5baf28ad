"""The whole loop, through its real parts: a photo, its answer, a correction, the next model, a better answer.

An app uploads with a person's rights; somebody finds the wrong label and puts it right; a refit follows; the app reads
what the new model says.
"""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from batch.answers import answer_again
from batch.erase.erase import ErasureRequest, erase
from batch.refit.refit import RefitOptions, refit
from batch.reproject import reproject
from bootstrap.weights.weights import CompiledNetwork
from store.answers.answer import Answer, read_answer
from store.home import Home
from store.objects.operations import keys_below, overwrite, read
from store.settings import Settings, load_settings
from streaming.service import stream_in
from tests.support.app import BUCKET, HOME, KEY_PATTERN, SUBJECT, App, app_of_a_person
from tests.support.command_run import run_fruits
from tests.support.pictures import encoded
from tests.support.stream_run import Run, rows, run_here, with_featurizer

COLOURS = {"kiwi": (110, 160, 60), "lemon": (225, 205, 60), "plum": (95, 40, 95)}
# A label of fewer people is not named.
PEOPLE = (SUBJECT, "ben-2048", "eva-0042")
EACH = 4
WRONG = f"{SUBJECT}/lemon/wrong.jpg"
OPTIONS = RefitOptions(components=4, variance=None, min_rows=2, min_label_rows=3)


def _photo(kind: str, seed: int) -> bytes:
    """A fruit's colour with the noise of a camera; each seed is another photo."""
    rng = np.random.default_rng(seed)
    colour = np.array(COLOURS[kind]) + rng.normal(0, 8, 3)
    return encoded(np.clip(colour + rng.normal(0, 20, (96, 96, 3)), 0, 255).astype(np.uint8), "JPEG", quality=90)


def _photos() -> Iterator[tuple[str, bytes]]:
    for place, person in enumerate(PEOPLE):
        for number, kind in enumerate(list(COLOURS) * EACH):
            yield f"{person}/{kind}/{number}.jpg", _photo(kind, 100 * place + number)


def _suspects(home: Home) -> list[dict[str, str]]:
    told = run_fruits("query", "suspects", "--home", home.root.uri, *_endpoint(home), "--format", "csv")
    assert told.returncode == 0, told.stderr
    return list(csv.DictReader(io.StringIO(told.stdout)))


def _endpoint(home: Home) -> tuple[str, ...]:
    return ("--s3-endpoint", home.root.s3_endpoint, "--s3-region", "eu-west-3") if home.root.s3_endpoint else ()


def _label(home: Home, *arguments: str) -> None:
    told = run_fruits("label", *arguments, "--home", home.root.uri, *_endpoint(home))
    assert told.returncode == 0, told.stderr


def _refit(spark: SparkSession, home: Home) -> None:
    refit(spark.sparkContext, home, OPTIONS, False, False, lambda done, total: None)
    reproject(spark.sparkContext, home, print, lambda done, total: None)


def _answer(home: Home, key: str) -> Answer:
    found = read_answer(home, key)
    assert found is not None
    return found


def _shown(settings: Settings, key: str) -> list[dict[str, Any]]:
    return rows(
        settings,
        "SELECT label, folder_label, label_origin, predicted, pca_version FROM current_projections "
        f"WHERE source LIKE '%{key}'",
    )


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    (tmp_path / "app").mkdir()
    with app_of_a_person(tmp_path / "app") as app:
        yield app


@pytest.mark.processes
def test_a_wrong_label_is_found_put_right_and_learnt_and_the_app_is_told(
    app: App, spark: SparkSession, untrained: CompiledNetwork, tmp_path: Path
) -> None:
    settings = load_settings(
        home=f"s3://{BUCKET}/{HOME}", s3_endpoint=app.server, key_pattern=KEY_PATTERN, answers=True, trigger="200ms"
    )
    home = settings.places()
    with_featurizer(settings, untrained)
    for key, body in _photos():
        overwrite(home.landing, key, body)
    run_here(spark, settings, tmp_path / "first")
    assert _answer(home, f"{SUBJECT}/kiwi/0.jpg").predicted is None
    _refit(spark, home)

    # The app uploads a kiwi that somebody took for a lemon, and is told what it is.
    stop = threading.Event()
    stream = threading.Thread(target=stream_in, args=(spark, settings, False, stop, Run().watcher, tmp_path / "second"))
    stream.start()
    try:
        told = app.upload(WRONG, _photo("kiwi", 999))
    finally:
        stop.set()
        stream.join()
    answer = _answer(home, WRONG)
    assert (answer.predicted, answer.model_version) == ("kiwi", 1)
    assert told.startswith("kiwi, ")

    # Somebody looks for wrong labels, and finds it.
    [suspect, *_] = _suspects(home)
    assert (suspect["image_id"], suspect["label"], suspect["predicted"]) == (answer.image_id, "lemon", "kiwi")
    _label(home, str(suspect["image_id"]), "kiwi")
    assert str(suspect["image_id"]) not in {each["image_id"] for each in _suspects(home)}

    # Somebody else asks to be forgotten, of whom a photo was labelled as well.
    [bens] = rows(settings, "SELECT image_id FROM photos WHERE source LIKE '%/ben-2048/plum/2.jpg'")
    _label(home, bens["image_id"], "--none")
    request = ErasureRequest("subject", "ben-2048", (KEY_PATTERN,))
    erase(home, request, print, lambda number, removed: None, copy_s=0)
    # Of two people no label is named.
    for number, kind in enumerate(list(COLOURS) * EACH):
        overwrite(home.landing, f"ian-7/{kind}/{number}.jpg", _photo(kind, 700 + number))
    run_here(spark, settings, tmp_path / "third")

    _refit(spark, home)
    assert _shown(settings, WRONG) == [
        {"label": "kiwi", "folder_label": "lemon", "label_origin": "suspect", "predicted": "kiwi", "pca_version": 2}
    ]
    assert _answer(home, WRONG).model_version == 1
    answer_again(spark.sparkContext, home, datetime.now(UTC).date(), print, lambda done, total: None)
    again = _answer(home, WRONG)
    assert (again.predicted, again.model_version, again.etag) == ("kiwi", 2, answer.etag)
    assert {_answer(home, f"{SUBJECT}/{kind}/{n}.jpg").predicted for n, kind in enumerate(COLOURS)} == set(COLOURS)
    found = [key for key in keys_below(home.root) for text in ("ben-2048", bens["image_id"]) if _holds(home, key, text)]
    assert found == []


def _holds(home: Home, key: str, text: str) -> bool:
    return text in key or text.encode() in read(home.root, key)


# Of each command's process, the files whose appearance or change kills one after the other.
KILLS = {
    "stream": ("state/batches/*.result.json", "features/_delta_log/*.json", "answers/*/*/*.json"),
    "refit": ("models/pca/v*/*", "projections/*/*/*.parquet"),
    # From its first file to its end it takes 20 ms; tests/batch/labelling/test_label.py cuts it off in between.
    "label": (),
    "reproject": ("state/lease.json", "answers/*/*/*.json"),
}


@pytest.mark.processes
def test_a_kill_between_any_two_steps_changes_nothing(tmp_path: Path, untrained: CompiledNetwork) -> None:
    undisturbed = _looped(tmp_path / "undisturbed", untrained, _run)

    killed = Counter[str]()

    def killed_on_the_way(*command: str) -> None:
        for pattern in KILLS[command[0]]:
            killed[command[0]] += _is_killed_at(tmp_path / "killed", pattern, *command)
        _run(*command)

    assert _looped(tmp_path / "killed", untrained, killed_on_the_way) == undisturbed
    # A kill comes late now and then, so that the next process has nothing left of its file to write.
    assert killed.keys() == {name for name, patterns in KILLS.items() if patterns} and min(killed.values()) >= 1


def _looped(folder: Path, network: CompiledNetwork, run: Callable[..., None]) -> dict[str, Any]:
    """What a home holds in the end, without what differs from run to run."""
    settings = load_settings(home=str(folder), key_pattern=KEY_PATTERN, answers=True)
    home = settings.places()
    with_featurizer(settings, network)
    here = ("--home", str(folder))
    learning = ("refit", "--components", "4", "--min-rows", "2", "--min-label-rows", "3", "--reproject", *here)
    for key, body in (*_photos(), (WRONG, _photo("kiwi", 999))):
        overwrite(home.landing, key, body)
    run("stream", "--drain", "--answers", "--key-pattern", KEY_PATTERN, "--settle", "0s", *here)
    run(*learning)
    [suspect, *_] = _suspects(home)
    run("label", suspect["image_id"], "kiwi", *here)
    run(*learning)
    run("reproject", "--answers", "7d", *here)
    newest = max(int(path.name.removeprefix("v")) for path in folder.glob("models/pca/v*"))
    shown = rows(settings, "SELECT source, label, label_origin, predicted FROM current_projections")
    answers = {key: json.loads(read(home.answers, key)) for key in keys_below(home.answers)}
    assert {answer["model_version"] for answer in answers.values()} == {newest}
    return {
        "rows": sorted((row["source"].removeprefix(home.landing.uri), *list(row.values())[1:]) for row in shown),
        "answers": {key: (answer["predicted"], answer["image_id"]) for key, answer in sorted(answers.items())},
        "labels": sorted(map(str, rows(settings, "SELECT DISTINCT image_id, label, origin FROM labels"))),
    }


def _run(*command: str) -> None:
    process = _started(command)
    _, said = process.communicate()
    assert process.returncode == 0, said


def _is_killed_at(home: Path, pattern: str, *command: str) -> bool:
    """Run a command, and kill its processes as soon as a file of this pattern is new or another one, if ever."""
    before = _versions(home, pattern)
    process = _started(command)
    while process.poll() is None and _versions(home, pattern) == before:
        time.sleep(0.002)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def _versions(home: Path, pattern: str) -> set[tuple[Path, int]]:
    found = set()
    for path in home.glob(pattern):
        # A file may be gone a moment later.
        with suppress(FileNotFoundError):
            found.add((path, path.stat().st_mtime_ns))
    return found


def _started(command: Sequence[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "ops", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
