"""How far the answers came: `state/answered.json` is there while a stream writes them, also after a kill."""

from dataclasses import dataclass

from store.home import Home
from store.objects.document import Document
from store.objects.operations import delete_all


@dataclass(frozen=True)
class _Answered:
    through: int


_ANSWERED = Document(_Answered, "answered.json", remedy="delete it", indent=None)


def answered_through(home: Home) -> int | None:
    """The last batch whose answers are all written; None where no answers are asked for.

    Whatever a later batch's answers are made of has to stay. Raises StateDamaged, StorageRefused, StorageUnavailable.
    """
    answered = _ANSWERED.read(home.state)
    return None if answered is None else answered.through


def record_answered(home: Home, batch: int) -> None:
    """Write down that all answers up to a batch are written. Replay changes nothing. Raises StorageUnavailable."""
    _ANSWERED.write(home.state, _Answered(batch))


def forget_answered(home: Home) -> None:
    """No answers are asked for any more, so nothing waits for them. Replay changes nothing."""
    if _ANSWERED.read(home.state, unreadable_as_missing=True) is not None:
        delete_all(home.state, [_ANSWERED.key()])
