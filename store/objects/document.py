"""JSON documents in storage: each kind is read, written and changed as a value of one type."""

from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from store.errors import StateDamaged
from store.objects import operations
from store.objects.location import StorageLocation

T = TypeVar("T")


class Document(Generic[T]):
    """One kind of JSON object: the type of its content, its key, and what to do when one is damaged.

    Each `{}` in `key` stands for one of the `names` that the methods take. `remedy` ends the error's sentence
    "... cannot be read; ...". Fields that a later release added are ignored. Every method raises StateDamaged for a
    damaged document (unless `unreadable_as_missing`), StorageRefused and StorageUnavailable.
    """

    def __init__(self, content: type[T], key: str, remedy: str, indent: int | None = 1) -> None:
        self._adapter = TypeAdapter(content)
        self._key = key
        self._remedy = remedy
        self._indent = indent

    def key(self, *names: object) -> str:
        """The key of one document below its location."""
        return self._key.format(*names)

    def read(self, location: StorageLocation, *names: object, unreadable_as_missing: bool = False) -> T | None:
        """The content, or None when there is no such document."""
        key = self.key(*names)
        return self._read(operations.read_if_exists(location, key), location.uri_of(key), unreadable_as_missing)

    def write(self, location: StorageLocation, content: T, *names: object) -> None:
        """Write a document, whatever was there. Replay writes it again."""
        operations.overwrite(location, self.key(*names), self.dump(content))

    def write_once(self, location: StorageLocation, content: T, *names: object) -> T:
        """Create a document unless it exists, and return what is stored afterwards. Replay changes nothing."""
        key = self.key(*names)
        return self.parse(operations.write_once(location, key, self.dump(content)), location.uri_of(key))

    def change(
        self,
        location: StorageLocation,
        edit: Callable[[T | None], T],
        *names: object,
        unreadable_as_missing: bool = False,
    ) -> T:
        """Replace the content (None: there is no document) by what `edit` returns, and return what is stored then.

        Nothing is written when `edit` returns an equal value. It is called again when another process wrote meanwhile.
        """
        uri = location.uri_of(self.key(*names))

        def edit_body(body: bytes | None) -> bytes:
            before = self._read(body, uri, unreadable_as_missing)
            after = edit(before)
            return body if body is not None and after == before else self.dump(after)

        return self.parse(operations.change(location, self.key(*names), edit_body), uri)

    def change_existing(self, location: StorageLocation, edit: Callable[[T], T], *names: object) -> T | None:
        """The same for a document that exists; None, and nothing is written, when it does not."""

        def edit_existing(before: T | None) -> T:
            if before is None:
                raise _Missing
            return edit(before)

        try:
            return self.change(location, edit_existing, *names)
        except _Missing:
            return None

    def parse(self, body: bytes, uri: str) -> T:
        """The content of a document's bytes; `uri` is its name in the error."""
        try:
            return self._adapter.validate_json(body)
        except ValidationError as error:
            raise StateDamaged(f"{uri} cannot be read; {self._remedy}.") from error

    def _read(self, body: bytes | None, uri: str, unreadable_as_missing: bool) -> T | None:
        with suppress(StateDamaged) if unreadable_as_missing else nullcontext():
            return None if body is None else self.parse(body, uri)
        return None

    def dump(self, content: T) -> bytes:
        """The document's bytes, as a file has them."""
        return self._adapter.dump_json(content, indent=self._indent)


class _Missing(Exception):
    """There is no document to change; no fault of storage, which would be tried again."""
