"""One answer: what became of one version of an object, under a key that the app can work out."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from features.rejects import Reason
from store.home import Home
from store.objects.document import Document
from store.objects.location import is_plain_key

# S3 takes 1,024 bytes with the home's prefix. A disk takes 255 in each name, of which it needs some more than `.json`
# while it writes.
LONGEST_KEY_BYTES = 800
LONGEST_NAME_BYTES = 240
HASHED_FOLDER = "sha256"

# For whoever took the photo, in an app's words.
WHAT_TO_DO: Mapping[Reason, str] = {
    Reason.EMPTY: "Upload the photo again: no bytes of it arrived.",
    Reason.NOT_AN_IMAGE: "Choose a photo: this file is none.",
    Reason.UNSUPPORTED_FORMAT: "Upload the photo as JPEG, PNG, WebP, HEIC or AVIF.",
    Reason.TRUNCATED: "Upload the photo again: its end is missing.",
    Reason.CORRUPT: "Upload the photo again, or take it anew: its data is damaged.",
    Reason.TOO_MANY_PIXELS: "Upload the photo with fewer pixels.",
    Reason.TOO_MANY_BYTES: "Upload the photo as a smaller file.",
    Reason.DECODER_CRASHED: "Upload the photo in another format, like JPEG.",
    Reason.REPLACED: "Do nothing: a later upload took its place, and gets an answer of its own.",
    Reason.MISSING: "Upload the photo again: it was gone when it was read.",
    Reason.UNREADABLE: "Upload the photo under another name; if that does not help, tell whoever runs the service.",
}


@dataclass(frozen=True)
class Guess:
    """A label, and how sure the model is of it, from 0 to 1."""

    label: str
    confidence: float


@dataclass(frozen=True)
class Answer:
    """What became of the version `etag` of the object `key` below the landing.

    A photo has an `image_id`, and what the model `model_version` says of it; without a model that names, these are
    null. A reject has `reason`, `detail` and `what_to_do`. Nothing in it tells when it was written, so that a replay
    writes the same bytes.
    """

    key: str
    etag: str
    arrived_at: datetime
    outcome: Literal["photo", "reject"]
    image_id: str | None = None
    predicted: str | None = None
    confidence: float | None = None
    top3: tuple[Guess, ...] | None = None
    novelty: float | None = None
    model_version: int | None = None
    reason: str | None = None
    detail: str | None = None
    what_to_do: str | None = None

    def is_of_later_version_than(self, other: "Answer") -> bool:
        """Whether it is the answer to another version of the object, which came later."""
        return self.etag != other.etag and self.arrived_at > other.arrived_at


_ANSWER = Document(Answer, "{}", remedy="delete it", indent=None)


def answer_key(key: str) -> str:
    """The key below `answers/` of the answer to an object, whose key is relative to the landing.

    It is `<key>.json`. It is `sha256/<hex>.json`, of the key's bytes in UTF-8, where storage would not take that name
    or could take it for another: the key has over 800 bytes, a segment of over 240, a folder that ends in `.json`, an
    empty, '.' or '..' segment or a control character, or it begins with `sha256/`.
    """
    if _has_plain_answer(key):
        return f"{key}.json"
    return f"{HASHED_FOLDER}/{hashlib.sha256(_in_utf8(key)).hexdigest()}.json"


def landed_key(name: str) -> str | None:
    """The inverse of `answer_key`; None for a hashed one, whose content tells the key."""
    key = name.removesuffix(".json")
    return key if key != name and _has_plain_answer(key) else None


def read_answer(home: Home, key: str) -> Answer | None:
    """The answer to an object, by its key below the landing; None without one, and for a damaged one.

    Raises StorageRefused, StorageUnavailable.
    """
    return _ANSWER.read(home.answers, answer_key(key), unreadable_as_missing=True)


def parse_answer(body: bytes, uri: str) -> Answer:
    """The answer in an object's bytes. Raises StateDamaged, which names `uri`."""
    return _ANSWER.parse(body, uri)


def answer_body(answer: Answer) -> bytes:
    """The bytes of an answer's object: JSON in UTF-8 on one line."""
    return _ANSWER.dump(answer)


def what_to_do(reason: str) -> str | None:
    """One sentence for whoever took the photo; None for a reason that this release does not know."""
    return WHAT_TO_DO.get(Reason(reason)) if reason in set(Reason) else None


def _has_plain_answer(key: str) -> bool:
    body = _in_utf8(key)
    return (
        is_plain_key(key)
        and len(body) <= LONGEST_KEY_BYTES
        and max(map(len, body.split(b"/"))) <= LONGEST_NAME_BYTES
        and ".json/" not in key
        and not key.startswith(f"{HASHED_FOLDER}/")
    )


def _in_utf8(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")
