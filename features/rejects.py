"""Why an object did not become a feature row."""

from enum import StrEnum


class Reason(StrEnum):
    """The closed list of reasons in the `rejects` table."""

    EMPTY = "empty"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_MANY_BYTES = "too_many_bytes"
    DECODER_CRASHED = "decoder_crashed"
    REPLACED = "replaced"
    MISSING = "missing"
    UNREADABLE = "unreadable"


class Rejected(Exception):
    """One object's outcome when it is not a feature row: a reason and one sentence of detail."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
