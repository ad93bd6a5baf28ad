"""A document is read and changed as one value; a damaged one is one sentence; what is not changed is not written."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest

from store.errors import StateDamaged
from store.home import Home
from store.objects.document import Document
from store.objects.operations import overwrite, read, read_if_exists


@dataclass(frozen=True)
class Basket:
    owner: str
    kiwis: int = 0


BASKET = Document(Basket, "baskets/{}.json", remedy="restore it")


def _one_more(basket: Basket | None) -> Basket:
    return replace(basket or Basket("ada"), kiwis=(basket.kiwis if basket else 0) + 1)


def test_a_document_is_there_once_it_was_written(home: Home) -> None:
    assert BASKET.read(home.state, "a") is None
    assert BASKET.write_once(home.state, Basket("ada"), "a") == Basket("ada")
    assert BASKET.write_once(home.state, Basket("ben"), "a") == Basket("ada")
    BASKET.write(home.state, Basket("ben"), "a")
    assert BASKET.read(home.state, "a") == Basket("ben")
    assert read(home.state, "baskets/a.json") == b'{\n "owner": "ben",\n "kiwis": 0\n}'


def test_no_change_is_lost_when_many_change_a_document_at_once(home: Home) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: BASKET.change(home.state, _one_more, "a"), range(12)))
    assert BASKET.read(home.state, "a") == Basket("ada", 12)


def test_what_is_not_changed_keeps_the_fields_of_a_later_release(home: Home) -> None:
    later = b'{"owner": "ada", "kiwis": 3, "pears": 4}'
    overwrite(home.state, "baskets/a.json", later)
    assert BASKET.change_existing(home.state, lambda basket: replace(basket, kiwis=3), "a") == Basket("ada", 3)
    assert read(home.state, "baskets/a.json") == later


def test_a_document_that_is_not_there_is_not_made_by_a_change_of_what_exists(home: Home) -> None:
    assert BASKET.change_existing(home.state, _one_more, "a") is None
    assert read_if_exists(home.state, "baskets/a.json") is None


@pytest.mark.parametrize("body", [b"", b"?", b'{"kiwis": 1}'])
def test_a_damaged_document_is_one_sentence_and_stays_unless_it_may_count_as_missing(home: Home, body: bytes) -> None:
    overwrite(home.state, "baskets/a.json", body)
    works = (
        lambda: BASKET.read(home.state, "a"),
        lambda: BASKET.change(home.state, _one_more, "a"),
        lambda: BASKET.change_existing(home.state, _one_more, "a"),
        lambda: BASKET.write_once(home.state, Basket("ben"), "a"),
    )
    for work in works:
        with pytest.raises(StateDamaged, match=r"/state/baskets/a\.json cannot be read; restore it\.$"):
            work()
    assert read(home.state, "baskets/a.json") == body
    assert BASKET.read(home.state, "a", unreadable_as_missing=True) is None
    assert BASKET.change(home.state, _one_more, "a", unreadable_as_missing=True) == Basket("ada", 1)
