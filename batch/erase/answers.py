"""The answers that the app got, erased with what they tell of."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from batch.erase.selection import Selection
from store.answers.answer import Answer, answer_key, landed_key, parse_answer
from store.errors import StateDamaged
from store.home import Home
from store.objects.landing import LandedObject
from store.objects.operations import delete_all, keys_below, read_if_exists
from store.objects.versions import remove_empty_folders

_READ_AT_ONCE = 16


def erase_answers(home: Home, selection: Selection, check: Callable[[], None]) -> int:
    """Delete the answers that tell of a selection, and say how many; those to versions that came later stay.

    Before the rows go: they tell which versions of objects hold a photo. An answer whose key tells nothing is read.
    What a bucket keeps of deleted and replaced answers is for `erase_old_versions`. Replay deletes what is left.
    Raises StorageRefused, StorageUnavailable.
    """

    def is_covered(name: str) -> bool:
        body = read_if_exists(home.answers, name)
        if body is None:
            return False
        try:
            return _covers(selection, parse_answer(body, home.answers.uri_of(name)))
        except StateDamaged:
            # Nobody can tell of whom it is, and no app can read it.
            return True

    with ThreadPoolExecutor(_READ_AT_ONCE, thread_name_prefix="answers") as pool:
        names = list(_may_tell(home, selection))
        covered = [name for name, goes in zip(names, pool.map(is_covered, names), strict=True) if goes]
    check()
    deleted = delete_all(home.answers, covered)
    if selection.kind == "subject":
        # A folder's name tells as much as a file's.
        remove_empty_folders(home.answers, selection.is_subjects_folder)
    return deleted


def _may_tell(home: Home, selection: Selection) -> Iterator[str]:
    """The names of answers that may tell of the selection: by the key, hashed ones, and those of its versions."""
    noted = {
        answer_key(source.removeprefix(f"{landing.source}/"))
        for source, _ in selection.versions
        for landing in selection.landings
        if source.startswith(f"{landing.source}/")
    }
    if selection.kind == "image":
        yield from sorted(noted)
        return
    for name in keys_below(home.answers):
        key = landed_key(name)
        if key is None or name in noted or any(selection.may_cover(landing, key) for landing in selection.landings):
            yield name


def _covers(selection: Selection, answer: Answer) -> bool:
    landed = LandedObject(answer.key, 0, answer.etag, answer.arrived_at)
    return any(selection.covers_planned(landing, landed) for landing in selection.landings)
