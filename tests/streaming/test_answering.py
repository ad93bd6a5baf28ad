"""Each photo and each reject has its answer, whatever ends the stream, and no photo goes before its answer is there."""

import json
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from deltalake import DeltaTable

import store.answers.batch as batch_module
import store.answers.written as written_module
import streaming.answering as answering_module
from batch.maintain.retention import expire_objects
from features.classifier import Classifier
from features.pca import fit, moments_of
from features.rejects import Reason
from ops.status.status import read_status
from store.answers.answer import WHAT_TO_DO, Answer, answer_key, landed_key, read_answer
from store.answers.batch import answers_of_batch
from store.answers.progress import answered_through, forget_answered, record_answered
from store.answers.written import delete_answers, write_answers
from store.errors import StorageUnavailable
from store.home import Home
from store.models.pca_models import PcaMeta, PcaModel, begin_switch, finish_switch, publish_model
from store.models.registry import current_featurizer
from store.objects.landing import list_landed
from store.objects.operations import keys_below, overwrite, read
from store.settings import Settings
from store.state.erasures import begin_erasure
from store.state.plans import delete_old_batches, read_plan, read_result
from store.tables.files import DataFile, data_files
from streaming.answering import Answering
from tests.support.fault_proxy import Rule, set_rules, unused_rules
from tests.support.feature_rows import feature_vectors
from tests.support.keys import ODD_KEYS
from tests.support.named_home import classifier_of, photos_of
from tests.support.pictures import jpeg, text_file
from tests.support.stream_run import Run, drop, rows, stream_process

Drain = Callable[[Settings], Run]
MakeSettings = Callable[..., Settings]


@pytest.fixture(params=["disk", pytest.param("S3", marks=pytest.mark.processes)])
def make_settings(request: pytest.FixtureRequest) -> MakeSettings:
    made: MakeSettings = request.getfixturevalue("local_settings" if request.param == "disk" else "s3_settings")
    return made


def _drop(settings: Settings, bodies: Mapping[str, bytes]) -> None:
    for key, body in bodies.items():
        overwrite(settings.places().landing, key, body)


def _serve_names(home: Home) -> None:
    """Serve a version that names two kinds, for the home's own network."""
    kinds = ["kiwi", "lime"] * 10
    classifier: Classifier = replace(
        classifier_of(photos_of(kinds, 1), kinds), strange_distances=photos_of(["kiwi"], 2)[0][:100] ** 2
    )
    at = datetime(2026, 10, 3, tzinfo=UTC)
    meta = PcaMeta(1, str(current_featurizer(home)), 40, 4, 0.5, at, None, None, "a test", last_batch=0, labels=2)
    publish_model(home, PcaModel(meta, fit(moments_of([feature_vectors(40, 1)], 1280), 4, None), classifier))
    finish_switch(home, begin_switch(home, 1), meta.featurizer)


def _bodies(home: Home) -> dict[str, bytes]:
    return {key: read(home.answers, key) for key in keys_below(home.answers)}


def _answer(home: Home, key: str) -> Answer:
    found = read_answer(home, key)
    assert found is not None
    return found


def _ended_before(what: str, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The stream's answers fail before a step, as by a kill: nothing that follows it is done."""

    def fails(*_: object) -> None:
        raise StorageUnavailable("cut off")

    monkeypatch.setattr(answering_module, what, fails)
    return monkeypatch


def test_each_photo_and_each_reject_has_its_answer(make_settings: MakeSettings, drain: Drain) -> None:
    settings = make_settings(answers=True, clean="archive")
    home = settings.places()
    _serve_names(home)
    _drop(settings, {"kiwi/a.jpg": jpeg(1), "lime/b.jpg": jpeg(2), "lime/c.txt": text_file()})
    drain(settings)
    assert sorted(_bodies(home)) == ["kiwi/a.jpg.json", "lime/b.jpg.json", "lime/c.txt.json"]
    (row,) = rows(settings, "SELECT * FROM features WHERE label = 'kiwi'")
    (named,) = rows(settings, "SELECT top3, novelty FROM current_projections WHERE source LIKE '%a.jpg'")
    told = json.loads(_bodies(home)["kiwi/a.jpg.json"])
    top3 = [{"label": one["label"], "confidence": pytest.approx(one["confidence"], abs=1e-6)} for one in named["top3"]]
    assert told | {"arrived_at": datetime.fromisoformat(told["arrived_at"])} == {
        "key": "kiwi/a.jpg",
        "etag": row["etag"],
        "arrived_at": row["arrived_at"],
        "outcome": "photo",
        "image_id": row["image_id"],
        "predicted": row["answer"],
        "confidence": pytest.approx(row["answer_confidence"], abs=1e-6),
        "top3": top3,
        "novelty": pytest.approx(named["novelty"], abs=1e-6),
        "model_version": 1,
        "reason": None,
        "detail": None,
        "what_to_do": None,
    }
    assert told["predicted"] in ("kiwi", "lime") and told["novelty"] is not None and len(top3) == 2
    reject = _answer(home, "lime/c.txt")
    (refused,) = rows(settings, "SELECT * FROM rejects")
    assert (reject.outcome, reject.reason, reject.detail) == ("reject", "not_an_image", refused["detail"])
    assert reject.what_to_do == "Choose a photo: this file is none." and reject.image_id is None
    assert answered_through(home) == 1 and read_status(home, verify=False).answers_behind == 0


def test_an_app_that_uploads_again_gets_the_answer_to_its_newest_version(
    make_settings: MakeSettings, drain: Drain
) -> None:
    settings = make_settings(answers=True)
    home = settings.places()
    _drop(settings, {"a.jpg": text_file()})
    drain(settings)
    first = _answer(home, "a.jpg")
    assert first.outcome == "reject"
    _drop(settings, {"a.jpg": jpeg(1)})
    drain(settings)
    second = _answer(home, "a.jpg")
    # No model is served yet.
    assert (second.outcome, second.predicted, second.top3, second.model_version) == ("photo", None, None, None)
    assert second.etag != first.etag and second.image_id is not None
    # A reject of a version that was replaced comes to light after the answer to its successor.
    older = replace(first, reason=Reason.REPLACED, arrived_at=second.arrived_at - timedelta(seconds=1))
    answering = Answering(home, True, "none", lambda _, __: None)
    assert answering._without_replaced(None, [older, second]) == [second]


@pytest.mark.parametrize("step", ["check_claim", "write_unless_erased", "record_answered"])
@pytest.mark.parametrize("clean", ["archive", pytest.param("delete", marks=pytest.mark.processes)])
def test_cut_off_after_the_commit_the_next_start_answers_before_the_photo_goes(
    step: str, clean: str, local_settings: MakeSettings, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = local_settings(answers=True, clean=clean)
    home = settings.places()
    record_answered(home, 0)
    drop(settings, {"kiwi/a.jpg": jpeg(1), "kiwi/b.jpg": jpeg(2)})
    with monkeypatch.context() as patched, pytest.raises(StorageUnavailable, match="cut off"):
        _ended_before(step, patched)
        drain(settings)
    assert [row["n"] for row in rows(settings, "SELECT count(*) AS n FROM features")] == [2]
    assert answered_through(home) == 0 and read_status(home, verify=False).answers_behind == 1
    before = _bodies(home)
    assert len(before) == (2 if step == "record_answered" else 0)
    # Nothing was cleared away, also not by the listing of a stream that is cut off again.
    with monkeypatch.context() as patched, pytest.raises(StorageUnavailable, match="cut off"):
        _ended_before(step, patched)
        drain(settings)
    assert sorted(path.name for path in home.landing.directory.rglob("*.jpg")) == ["a.jpg", "b.jpg"]
    drain(settings)
    assert answered_through(home) == 1 and len(_bodies(home)) == 2
    # A replay writes the same bytes.
    assert before == {} or before == _bodies(home)
    assert list(home.landing.directory.rglob("*.jpg")) == []


@pytest.mark.processes
def test_sigkill_in_the_middle_of_answers_on_s3(
    s3_settings: MakeSettings, drain: Drain, proxy: str, s3_server: str
) -> None:
    settings = s3_settings(answers=True, clean="delete")
    home = settings.places()
    _drop(settings, {f"kiwi/{seed}.jpg": jpeg(seed) for seed in range(6)})
    steps = [Rule("PUT", r"/home/answers/", skip=3), Rule("PUT", r"/home/state/answered.json")]
    for step in steps:
        with stream_process(settings, "--drain", "--clean", "delete", "--answers", endpoint=proxy) as process:
            set_rules(proxy, replace(step, signal_after=(process.pid, signal.SIGKILL)))
            assert process.wait(120) == -signal.SIGKILL, step.path
        assert unused_rules(proxy) == []
    assert len(list(list_landed(home.landing))) == 6
    drain(settings)
    assert sorted(_bodies(home)) == [f"kiwi/{seed}.jpg.json" for seed in range(6)]
    assert list(list_landed(home.landing)) == []
    assert read_status(home, verify=True).broken == []


def test_results_stay_until_they_are_answered_or_nobody_asks_any_more(
    local_settings: MakeSettings, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = local_settings(answers=True)
    home = settings.places()
    for seed in (1, 2):
        drop(settings, {f"kiwi/{seed}.jpg": jpeg(seed)})
        drain(settings)
    whole = _bodies(home)
    record_answered(home, 1)
    from streaming.discovery import snapshot

    through: list[int] = []
    monkeypatch.setattr(snapshot, "delete_old_batches", lambda _, batch: through.append(batch))
    index = snapshot.load_processed_index(home, Path(settings.home, "index.sqlite"))
    index.set_info(through=2)
    snapshot.write_snapshot(home, index)
    forget_answered(home)
    snapshot.write_snapshot(home, index)
    assert through == [1, 2]
    # Without its result a batch is answered from the tables.
    result, plan = read_result(home, 2), read_plan(home, 2)
    for key in list(keys_below(home.batches)):
        (home.batches.directory / key).unlink()
    found = {answer.key: answer for answer in answers_of_batch(home, 2, None, None)}
    assert found == {"kiwi/2.jpg": _answer(home, "kiwi/2.jpg")} and len(whole) == 2
    # So it is when other work has replaced a file.
    assert result is not None and plan is not None
    gone = replace(
        result, adds={name: tuple(replace(f, path="gone") for f in result.adds[name]) for name in result.adds}
    )
    assert answers_of_batch(home, 2, plan, gone) == list(found.values())
    # An erasure can delete a file between the look at the table and the read.
    looks: list[list[DataFile]] = []

    def look(handle: DeltaTable | None) -> list[DataFile]:
        looks.append(data_files(handle))
        return looks[-1] if len(looks) > 1 else [replace(file, path="gone") for file in looks[-1]]

    monkeypatch.setattr(batch_module, "data_files", look)
    assert answers_of_batch(home, 2, None, None) == list(found.values()) and len(looks) > 1
    assert delete_old_batches(home, 2) == 0


@pytest.mark.processes
def test_answers_begin_anew_when_they_are_switched_on_again(local_settings: MakeSettings, drain: Drain) -> None:
    on, off = local_settings(answers=True), local_settings()
    home = on.places()
    for number, settings in enumerate((off, on, off, on)):
        drop(settings, {f"kiwi/{number}.jpg": jpeg(number)})
        drain(settings)
        assert answered_through(home) == (number + 1 if settings is on else None)
    assert sorted(_bodies(home)) == ["kiwi/1.jpg.json", "kiwi/3.jpg.json"]
    assert read_status(home, verify=False).answers_behind == 0


def test_odd_keys_have_answers_under_keys_that_an_app_can_work_out(make_settings: MakeSettings, drain: Drain) -> None:
    settings = make_settings(answers=True)
    home = settings.places()
    keys = [*ODD_KEYS, "one.json/b.jpg", "one", "sha256/c.jpg", f"{'d' * 248}.jp", f"{'e' * 240}/x.jpg", "f" * 240]
    _drop(settings, {key: jpeg(seed) for seed, key in enumerate(keys)})
    drain(settings)
    assert {key: _answer(home, key).key for key in keys} == {key: key for key in keys}
    assert len(_bodies(home)) == len(keys) == rows(settings, "SELECT count(*) AS n FROM features")[0]["n"]
    assert sum(key.startswith("sha256/") for key in _bodies(home)) == 3


@pytest.mark.parametrize(
    "key",
    ["/x.jpg", "a//b.jpg", "a/../b.jpg", "tab\t.jpg", "sha256/x", "x.json/y", "é" * 121, "/".join(["abcdefgh"] * 90)],
)
def test_a_key_that_storage_could_take_for_another_is_hashed(key: str) -> None:
    import hashlib

    assert answer_key(key) == f"sha256/{hashlib.sha256(key.encode()).hexdigest()}.json"
    assert landed_key(answer_key(key)) is None
    for plain in ("kiwi/a.jpg", "x.json", "é" * 120, "sha256", "a.jsonl/b"):
        assert answer_key(plain) == f"{plain}.json" and landed_key(f"{plain}.json") == plain


def test_every_reason_says_what_to_do() -> None:
    assert set(WHAT_TO_DO) == set(Reason)


@pytest.mark.parametrize("began", ["before the look", "between look and write"])
def test_an_erasure_that_begins_meanwhile_leaves_no_answer(
    began: str, make_settings: MakeSettings, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = r"^(?P<subject>[^/]+)/"
    settings = make_settings(answers=True, key_pattern=pattern)
    home = settings.places()
    record_answered(home, 0)
    _drop(settings, {"anna/a.jpg": jpeg(1), "anna/b.txt": text_file(), "ben/a.jpg": jpeg(3)})
    with monkeypatch.context() as patched, pytest.raises(StorageUnavailable, match="cut off"):
        # What a kill left of it goes, too.
        _ended_before("record_answered", patched)
        drain(settings)
    assert len(_bodies(home)) == 3

    def begin(*_: object) -> None:
        begin_erasure(home, "subject", "anna", [pattern], datetime.now(UTC) + timedelta(seconds=5))

    if began == "before the look":
        begin()
    else:
        monkeypatch.setattr(
            written_module, "write_answers", lambda home, answers: (begin(), write_answers(home, answers))
        )
    drain(settings)
    assert list(_bodies(home)) == ["ben/a.jpg.json"] and answered_through(home) == 1


def test_a_commit_waits_when_answers_fall_behind_and_a_failure_ends_the_wait(
    local_settings: MakeSettings, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    settings = local_settings(answers=True)
    home = settings.places()
    drop(settings, {"kiwi/a.jpg": jpeg(1)})
    drain(settings)
    plan, result = read_plan(home, 1), read_result(home, 1)
    assert plan is not None and result is not None
    may_go_on, done = threading.Event(), []

    def waits(*_: object) -> list[Answer]:
        may_go_on.wait(10)
        raise StorageUnavailable("cut off")

    monkeypatch.setattr(answering_module, "answers_of_batch", waits)
    monkeypatch.setattr(answering_module, "check_claim", lambda *_: None)
    answering = Answering(home, True, "none", lambda _, __: None)
    answering.start()

    def commits() -> None:
        for batch in range(2, 6):
            answering.committed(replace(plan, batch=batch), result)
            done.append(batch)

    commit = threading.Thread(target=commits)
    commit.start()
    commit.join(0.3)
    assert done == [2, 3]
    may_go_on.set()
    commit.join(5)
    answering.close()
    assert done == [2, 3, 4, 5] and isinstance(answering.failure, StorageUnavailable)
    assert answered_through(home) == 1


def test_answers_go_when_they_are_older_than_they_are_kept(make_settings: MakeSettings) -> None:
    home = make_settings().places()
    answers = [Answer(f"{n}.jpg", "e", datetime(2026, 10, 3, tzinfo=UTC), "photo") for n in range(5)]
    write_answers(home, answers)
    now = datetime.now(UTC)
    assert expire_objects(home.answers, timedelta(hours=1), now, dry_run=False).count == 0
    assert expire_objects(home.answers, timedelta(seconds=-60), now, dry_run=True).count == 5
    assert delete_answers(home, [answers[0], replace(answers[1], etag="another")]) == 1
    assert expire_objects(home.answers, timedelta(seconds=-60), now, dry_run=False).count == 4
    assert _bodies(home) == {}
