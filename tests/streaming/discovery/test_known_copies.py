"""Which originals have their copy: asked of the files of their batches alone, and believed for a while."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from batch.maintain.compaction import compact, groups_to_compact
from bootstrap.weights.weights import CompiledNetwork
from store.errors import StorageUnavailable
from store.models.registry import publish_featurizer
from store.objects.landing import LandedObject, list_landed
from store.settings import Settings
from store.tables.files import data_files
from store.tables.handles import open_table
from store.tables.schemas import COPY_ROWS
from streaming.discovery.known_copies import KnownCopies
from streaming.discovery.processed_index import ProcessedEntry
from tests.support.ingested import ingest
from tests.support.pictures import jpeg
from tests.support.stream_run import drop

Leftovers = list[tuple[LandedObject, ProcessedEntry]]


@pytest.fixture
def two_batches(local_settings: Callable[..., Settings], untrained: CompiledNetwork) -> Settings:
    settings = local_settings(copies=True, storage_patience="1s", reading_patience="1s")
    publish_featurizer(settings.places(), untrained.network, untrained.source, untrained.fingerprint, copy_px=300)
    for seed in (1, 2):
        drop(settings, {f"kiwi/{seed}.jpg": jpeg(seed=seed)})
        ingest(settings)
    return settings


def _leftovers(settings: Settings) -> Leftovers:
    landed = sorted(list_landed(settings.places().landing), key=lambda each: each.key)
    return [(each, ProcessedEntry(number, 0, 0, True)) for number, each in enumerate(landed, start=1)]


def _files_of_copies(settings: Settings) -> dict[int, Path]:
    handle = open_table(settings.places(), COPY_ROWS)
    named = {file.batches: Path(settings.home, "copies", file.path) for file in data_files(handle)}
    return {batches[0]: path for batches, path in named.items() if batches is not None}


def test_an_original_has_a_copy_if_its_own_batch_holds_it(two_batches: Settings) -> None:
    (first, entry), (second, other) = _leftovers(two_batches)
    known = KnownCopies(two_batches.places())
    assert known.among([(first, other)]) == []
    assert known.among([(first, ProcessedEntry(3, 0, 0, True))]) == []
    assert known.among([(first, entry), (second, other)]) == [first, second]
    assert known.among([]) == []


def test_copies_of_several_batches_in_one_file_are_found(two_batches: Settings) -> None:
    leftovers, home = _leftovers(two_batches), two_batches.places()
    groups = groups_to_compact(home, datetime.now(UTC) + timedelta(days=2))
    assert list(compact(home, groups, check=lambda: None))
    assert [file.batches for file in data_files(open_table(home, COPY_ROWS))] == [(1, 2)]
    known = KnownCopies(home)
    assert known.among(leftovers[1:]) == [leftovers[1][0]]
    assert known.among(leftovers) == [landed for landed, _ in leftovers]


def test_only_files_of_the_batches_that_are_asked_for_are_opened(
    two_batches: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = _leftovers(two_batches)
    _files_of_copies(two_batches)[1].unlink()
    known = KnownCopies(two_batches.places())
    assert known.among([second]) == [second[0]]
    monkeypatch.setattr("store.objects.faults.RETRY_DEADLINE_S", 0.1)
    with pytest.raises(StorageUnavailable, match="copies"):
        known.among([first])


def test_the_list_of_files_is_believed_for_a_while_and_a_file_that_is_gone_is_looked_for_anew(
    two_batches: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = _leftovers(two_batches)
    known = KnownCopies(two_batches.places())
    assert known.among([first]) == [first[0]]
    _forget_copies(two_batches, "batch = 1")
    assert known.among([first]) == [first[0]]
    # As an erasure does: the file of the second batch is gone, which was not read before.
    path = _files_of_copies(two_batches)[2]
    _forget_copies(two_batches, "batch = 2")
    path.unlink()
    assert known.among([first, second]) == []
    monkeypatch.setattr("streaming.discovery.known_copies.BELIEVED_FOR_S", -1.0)
    assert known.among([first, second]) == []


def test_memory_holds_so_many_photos_and_no_more(two_batches: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streaming.discovery.known_copies.MOST_KNOWN", 1)
    first, second = _leftovers(two_batches)
    known = KnownCopies(two_batches.places())
    for asked in ([first], [second], [first, second]):
        assert known.among(asked) == [landed for landed, _ in asked]
    # It has forgotten one of the files, which is lost now.
    for path in _files_of_copies(two_batches).values():
        path.unlink()
    with pytest.raises(StorageUnavailable, match="copies"):
        known.among([first, second])


def _forget_copies(settings: Settings, which: str) -> None:
    handle = open_table(settings.places(), COPY_ROWS)
    assert handle is not None
    handle.delete(which)
