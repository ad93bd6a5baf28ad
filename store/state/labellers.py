"""Who labelled photos, as a pseudonym: a keyed hash of a name, which the home itself cannot turn back into one."""

import uuid
from dataclasses import dataclass

from store.home import Home
from store.objects.document import Document
from store.objects.location import to_nfc
from store.state.erasures import digest_of


@dataclass(frozen=True)
class _Labellers:
    """`salt` is the key of the hashes; it is no other file's, so that no other hash of a name is the same."""

    salt: str


_LABELLERS = Document(_Labellers, "labellers.json", remedy="restore it", indent=None)


def pseudonym_of(home: Home, name: str) -> str:
    """The pseudonym of a person, the same each time; the first one makes the key.

    Raises StateDamaged, StorageRefused, StorageUnavailable.
    """
    return _pseudonym(_LABELLERS.write_once(home.state, _Labellers(uuid.uuid4().hex)).salt, name)


def known_pseudonym(home: Home, name: str) -> str | None:
    """The same, or None when nobody of this home ever had one. Raises as `pseudonym_of`."""
    known = _LABELLERS.read(home.state)
    return _pseudonym(known.salt, name) if known else None


def _pseudonym(salt: str, name: str) -> str:
    return digest_of(salt, "labeller", to_nfc(name.strip()))
