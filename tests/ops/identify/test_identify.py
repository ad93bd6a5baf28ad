"""`fruits identify` says of files what the stream says of the same bytes, whatever other files it is given."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from bootstrap.weights.weights import CompiledNetwork
from store.models.registry import publish_featurizer
from store.objects.location import to_nfc
from store.settings import Settings, load_settings
from tests.conftest import REGION
from tests.support.command_run import Ended, run_fruits
from tests.support.crashing_decoder.sitecustomize import SEGFAULT, STUCK
from tests.support.named_fruit import LABELS, serve_names
from tests.support.pictures import encoded, grainy, jpeg, pixels, text_file, truncated_jpeg
from tests.support.stream_run import drop, rows, run_here, with_featurizer

PHOTOS = {
    "kiwi/a.jpg": jpeg(seed=1, width_px=640, height_px=480),
    "kiwi/again.jpg": jpeg(seed=1, width_px=640, height_px=480),
    "lime/b.png": encoded(pixels(seed=2), "PNG"),
    "pear/c.jpg": jpeg(seed=3),
}
SAID = ("predicted", "confidence", "novelty", "distance")


@pytest.fixture(scope="module")
def drained(spark: SparkSession, untrained: CompiledNetwork, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home whose rows the stream has named."""
    settings = load_settings(home=str(tmp_path_factory.mktemp("named") / "home"), trigger="100ms", settle="0s")
    serve_names(with_featurizer(settings, untrained).places(), untrained)
    drop(settings, PHOTOS)
    run_here(spark, settings, tmp_path_factory.mktemp("scratch"))
    return settings


@pytest.fixture
def named(local_settings: Callable[..., Settings], untrained: CompiledNetwork) -> Settings:
    """A home that serves names, and has no rows."""
    settings = local_settings()
    serve_names(settings.places(), untrained, calibrated=True)
    return settings


def _written(folder: Path, files: dict[str, bytes]) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in files.items():
        (folder / name).write_bytes(body)
    return [str(folder / name) for name in files]


def _identify(settings: Settings, *arguments: str) -> Ended:
    return run_fruits("identify", "--home", settings.home, *arguments)


def _objects(ended: Ended) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ended.stdout.splitlines()]


def test_files_get_the_numbers_that_the_stream_gave_the_same_bytes(drained: Settings, tmp_path: Path) -> None:
    files = _written(tmp_path, {key.replace("/", "-"): body for key, body in PHOTOS.items()})
    said = _objects(_identify(drained, "--format", "json", *files))
    in_rows = {row["image_id"]: row for row in rows(drained, "SELECT * FROM current_projections")}
    assert [one["file"] for one in said] == files
    assert len(in_rows) == 3
    for one in said:
        row = in_rows[one["image_id"]]
        assert one["predicted"] == row["predicted"]
        assert [one[name] for name in SAID[1:]] == pytest.approx([row[name] for name in SAID[1:]], rel=1e-5)
        assert [top["label"] for top in one["top3"]] == [to_nfc(top["label"]) for top in row["top3"]]
        assert [top["confidence"] for top in one["top3"]] == pytest.approx(
            [top["confidence"] for top in row["top3"]], rel=1e-5
        )
        assert (one["calibrated"], one["version"], one["reason"]) == (False, 1, None)


def test_a_copy_and_its_photo_get_the_same_numbers(
    local_settings: Callable[..., Settings],
    untrained: CompiledNetwork,
    drain: Callable[[Settings], Any],
    tmp_path: Path,
) -> None:
    settings = local_settings(copies=True)
    publish_featurizer(settings.places(), untrained.network, untrained.source, untrained.fingerprint, copy_px=300)
    serve_names(settings.places(), untrained)
    body = encoded(grainy(1, 1600, 1200), "JPEG", quality=92)
    drop(settings, {"kiwi/a.jpg": body})
    drain(settings)
    [copy] = rows(settings, "SELECT jpeg FROM copies")
    assert len(copy["jpeg"]) < len(body) / 5
    of_photo, of_copy = _objects(
        _identify(settings, "--format", "json", *_written(tmp_path, {"photo.jpg": body, "copy.jpg": copy["jpeg"]}))
    )
    [row] = rows(settings, "SELECT * FROM current_projections")
    assert (of_photo["image_id"] == row["image_id"], of_copy["image_id"] == row["image_id"]) == (True, False)
    for said in (of_photo, of_copy):
        assert said["predicted"] == row["predicted"]
        assert [said[name] for name in SAID[1:]] == pytest.approx([row[name] for name in SAID[1:]], rel=1e-5)


def test_the_nearest_known_photos_are_those_of_the_query(drained: Settings, tmp_path: Path) -> None:
    known, strange = _written(tmp_path, {"known.jpg": PHOTOS["kiwi/a.jpg"], "strange.jpg": jpeg(seed=9)})
    [of_known, of_strange] = _objects(
        _identify(drained, "--neighbours", "--k", "1", "--format", "json", known, strange)
    )
    expected = run_fruits(
        *("query", "nearest", "--image", of_known["image_id"], "--k", "1", "--format", "json"),
        *("--home", drained.home),
    )
    assert of_known["neighbours"] == [_rounded(one, "distance") for one in _objects(expected)]
    assert of_known["neighbours"][0]["copies"] == 2
    assert [one["neighbour"] for one in of_strange["neighbours"]] == [1]
    similar = run_fruits("similar", "--home", drained.home, "--k", "1", "--format", "json", known)
    assert _objects(similar) == [{"file": known, **one} for one in of_known["neighbours"]]


def _rounded(said: dict[str, Any], *names: str) -> dict[str, Any]:
    return said | {name: pytest.approx(said[name], rel=1e-5, abs=1e-5) for name in names}


def test_neither_java_nor_spark_nor_what_compiles_networks_is_loaded(drained: Settings, tmp_path: Path) -> None:
    [file] = _written(tmp_path, {"a.jpg": PHOTOS["kiwi/a.jpg"]})
    code = (
        "import sys\n"
        "from ops.cli.main import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    print(sorted({'pyspark', 'tensorflow', 'duckdb'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", code, "identify", "--neighbours", "--home", drained.home, file]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert ended.stdout.splitlines()[-1] == "[]", ended.stderr
    assert ended.stderr == (
        "Version 1 says this. Its confidences are uncalibrated: too few photos came after a fit to measure them.\n"
    )


def test_files_that_cannot_be_used_get_the_reason_of_a_reject_and_do_not_stop_the_rest(
    named: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "support" / "crashing_decoder")
    expected = {
        "a.jpg": (PHOTOS["kiwi/a.jpg"], None),
        "segfault.jpg": (encoded(pixels(seed=7), "JPEG", comment=SEGFAULT), "decoder_crashed"),
        "notes.txt": (text_file(), "not_an_image"),
        "stuck.jpg": (encoded(pixels(seed=8), "JPEG", comment=STUCK), "decoder_crashed"),
        "cut.jpg": (truncated_jpeg(), "truncated"),
        "empty.jpg": (b"", "empty"),
        "large.jpg": (b"\xff\xd8" + bytes(2_000_000), "too_many_bytes"),
        "b.png": (PHOTOS["lime/b.png"], None),
    }
    files = _written(tmp_path, {name: body for name, (body, _) in expected.items()})
    files += [str(tmp_path), str(tmp_path / "gone.jpg")]
    ended = _identify(
        *(named, "--format", "json", "--max-image-bytes", "1MB", "--max-decode-time", "1s"),
        *files,
    )
    said = _objects(ended)
    reasons = [reason for _, reason in expected.values()]
    assert [one["reason"] for one in said] == [*reasons, "unreadable", "missing"]
    assert [one["file"] for one in said] == files
    assert [one["predicted"] is None for one in said] == [one["reason"] is not None for one in said]
    details = {Path(one["file"]).name: one["detail"] for one in said}
    assert details["segfault.jpg"] == "The decoder was ended by SIGSEGV."
    assert details["stuck.jpg"] == "The decoder was stuck for 1 s."
    assert details["large.jpg"] == "2000002 bytes; the limit is 1000000."
    assert details[tmp_path.name] == f"It is a directory; name the files in it: {tmp_path}/*"
    assert ended.returncode == 1
    assert ended.stderr.endswith(
        "fruits: Not every file has an answer: 8 of 10 cannot be used, for the reasons above.\n"
    )


def test_a_person_sees_a_table_and_the_reasons_beside_it(named: Settings, tmp_path: Path) -> None:
    ended = _identify(named, *_written(tmp_path, {"a.jpg": PHOTOS["kiwi/a.jpg"], "notes.txt": text_file()}))
    assert ended.returncode == 1
    assert "a.jpg" in ended.stdout
    assert "notes.txt" not in ended.stdout
    assert "uncalibrated" not in ended.stdout + ended.stderr
    assert f"{tmp_path}/notes.txt: not_an_image: The content is not an image.\n" in ended.stderr


def test_confidences_that_nothing_measured_are_called_uncalibrated_wherever_they_stand(
    drained: Settings, tmp_path: Path
) -> None:
    ended = _identify(drained, *_written(tmp_path, {"a.jpg": PHOTOS["kiwi/a.jpg"]}))
    assert "confidence (uncalibrated)" in ended.stdout
    assert "then (uncalibrated)" in ended.stdout
    assert ended.returncode == 0


def test_labels_are_written_as_the_views_write_them(named: Settings, tmp_path: Path) -> None:
    bodies = {f"{seed}.png": encoded(pixels(seed, 224, 224), "PNG") for seed in (100, 101)}
    said = _objects(_identify(named, "--format", "json", *_written(tmp_path, bodies)))
    assert {one["predicted"] for one in said} == {"caf\u00e9"}
    assert LABELS[0] not in {top["label"] for one in said for top in one["top3"]}


def test_a_home_on_s3_says_the_same_as_one_on_disk(
    s3_settings: Callable[..., Settings], named: Settings, untrained: CompiledNetwork, tmp_path: Path
) -> None:
    on_s3 = s3_settings()
    serve_names(on_s3.places(), untrained, calibrated=True)
    files = _written(tmp_path, {"a.jpg": PHOTOS["kiwi/a.jpg"], "b.png": PHOTOS["lime/b.png"]})
    there = ("--s3-endpoint", str(on_s3.s3_endpoint), "--s3-region", REGION)
    ended = _identify(on_s3, *there, "--format", "json", *files)
    on_disk = _objects(_identify(named, "--format", "json", *files))
    assert _objects(ended) == [
        _rounded(one, *SAID[1:]) | {"top3": [_rounded(top, "confidence") for top in one["top3"]]} for one in on_disk
    ]


@pytest.mark.parametrize("command", ["identify", "similar"])
def test_a_home_without_a_served_version_says_what_to_do(
    local_settings: Callable[..., Settings], tmp_path: Path, command: str
) -> None:
    settings = local_settings()
    ended = run_fruits(command, "--home", settings.home, *_written(tmp_path, {"a.jpg": jpeg(seed=1)}))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "serves no version yet: run `fruits refit --reproject` once photos have come." in ended.stderr


def test_a_version_without_a_classifier_names_nothing_and_still_finds_neighbours(
    local_settings: Callable[..., Settings], untrained: CompiledNetwork, tmp_path: Path
) -> None:
    settings = local_settings()
    serve_names(settings.places(), untrained, names=False)
    files = _written(tmp_path, {"a.jpg": jpeg(seed=1)})
    ended = _identify(settings, *files)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "Version 1, which is served, names no fruit: No photo has a label." in ended.stderr
    assert run_fruits("similar", "--home", settings.home, *files).returncode == 0


def test_an_address_on_s3_is_one_sentence(named: Settings) -> None:
    ended = _identify(named, "s3://bucket/kiwi.jpg")
    assert ended.stderr == ("fruits: s3://bucket/kiwi.jpg is not on this machine: copy it here, and name the copy.\n")


def test_a_photo_may_come_through_a_pipe(named: Settings, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    threading.Thread(target=pipe.write_bytes, args=(PHOTOS["kiwi/a.jpg"],)).start()
    files = [*_written(tmp_path, {"a.jpg": PHOTOS["kiwi/a.jpg"]}), str(pipe)]
    from_file, from_pipe = _objects(_identify(named, "--format", "json", *files))
    assert [from_pipe[name] for name in SAID[1:]] == pytest.approx([from_file[name] for name in SAID[1:]], rel=1e-5)
    assert from_pipe["image_id"] == from_file["image_id"]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_other_formats_have_a_row_for_each_file(named: Settings, tmp_path: Path, form: str) -> None:
    files = _written(tmp_path, {"a.jpg": PHOTOS["kiwi/a.jpg"], "notes.txt": text_file()})
    assert _files_of(_identify(named, "--format", form, *files), form) == files


def _files_of(ended: Ended, form: str) -> Sequence[str]:
    import csv
    import io

    import pyarrow.parquet as pq

    if form == "csv":
        return [row["file"] for row in csv.DictReader(io.StringIO(ended.stdout))]
    return list(pq.read_table(io.BytesIO(ended.output))["file"].to_pylist())
