"""What a storage library raised, by what can be done about it; and trying again for as long as that can help."""

import errno
import random
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from enum import Enum
from typing import TypeVar

from features.errors import FruitsError
from store.errors import StorageRefused, StorageUnavailable
from store.objects.waits import waiting

RETRY_DEADLINE_S = 120.0
READING_DEADLINE_S = 30.0

_T = TypeVar("_T")


class Fault(Enum):
    """The kinds of storage faults."""

    TRANSIENT = "may pass"
    MISSING = "no such object"
    CHANGED = "another version stands there, or one does already"
    REFUSED_OBJECT = "this object is refused"
    UNFIT_OBJECT = "this object cannot be had as it is"
    NOT_UNDERSTOOD = "this request is not taken, for a reason that is not known"
    REFUSED = "no request can succeed"


REFUSALS = (Fault.REFUSED, Fault.REFUSED_OBJECT, Fault.UNFIT_OBJECT)
# Nobody tries these again, but who reads or clears away many objects: one answer of a gateway rejects no photo.
_FINAL = (*REFUSALS, Fault.NOT_UNDERSTOOD)
# What to try again after a write. Somebody else may have written, or it landed and only the answer was lost.
UNKNOWN_OUTCOME = (Fault.TRANSIENT, Fault.CHANGED, Fault.MISSING)


def retry_storage(
    what: str, work: Callable[[], _T], again: Collection[Fault] = (Fault.TRANSIENT,), photo: str | None = None
) -> _T:
    """What `work` returns, tried anew for `patience_s` after faults of the kinds in `again`.

    `what` ends the sentence "Cannot ..."; `photo` is the key of the photo that it names. Of the other kinds, MISSING
    raises FileNotFoundError, CHANGED the library's own error, and those that cannot pass StorageRefused. Raises
    StorageUnavailable at the deadline, and at once what is no fault of storage. `work` must be safe to repeat, also
    after it succeeded and only the answer was lost. Whoever listens to `store.objects.waits` is told when that takes
    long.
    """
    with waiting(what, patience_s(), photo) as request:
        for wait_s in backoff_s():
            try:
                done = work()
                request.is_answered = True
                return done
            except Exception as error:
                if not is_fault(error):
                    request.is_answered = not isinstance(error, StorageUnavailable)
                    raise
                fault = fault_of(error)
                if fault in _FINAL:
                    raise storage_error(what, error, photo) from error
                request.is_answered = fault is not Fault.TRANSIENT
                if fault is Fault.MISSING and fault not in again:
                    raise FileNotFoundError(reason(error)) from error
                if fault not in again:
                    raise
                failure = error
            if not request.is_answered:
                request.failed(reason(failure), is_full(failure))
            time.sleep(wait_s)
        raise storage_error(what, failure, photo) from failure


def patience_s() -> float:
    """How long storage that does not answer is tried again in this process."""
    return RETRY_DEADLINE_S if _patience_s is None else _patience_s


def use_patience(long_s: float | None) -> None:
    """Let this process try again for so long whatever it asks of storage; None: for two minutes."""
    global _patience_s
    _patience_s = long_s


def storage_error(what: str, error: BaseException, photo: str | None = None) -> StorageUnavailable:
    """What to raise when a fault is not tried again: the sentence "Cannot ...", and whether a later try can help.

    `photo` is the key of the photo that `what` names.
    """
    kind = StorageRefused if fault_of(error) in _FINAL else StorageUnavailable
    return kind(f"Cannot {what}: {reason(error)}.", photo)


def is_fault(error: BaseException) -> bool:
    """Whether storage raised this: obstore, deltalake, botocore or the operating system."""
    # By name, so that nobody has to load a library only to learn that it raised nothing.
    origins = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, OSError) or bool(origins & {"obstore", "deltalake", "_internal", "botocore"})


def is_full(error: BaseException) -> bool:
    """Whether a disk or a quota is full: it may pass once somebody makes room."""
    number = error.errno if isinstance(error, OSError) else None
    return number in _FULL or any(words in str(error) for words in _FULL_WORDS)


def fault_of(error: BaseException) -> Fault:
    """The kind of a fault: by S3's error code where there is one, else by what the library made of it.

    What is not known may pass, unless its status says that it does not: 501, and those of a request that is wrong.
    """
    text = str(error)
    by_code = _FAULT_OF_CODE.get(_code(error, text))
    if by_code is not None:
        return by_code
    status = _status(error, text)
    if status in _FAULT_OF_STATUS:
        return _FAULT_OF_STATUS[status]
    if isinstance(error, OSError) and error.errno is not None:
        return _FAULT_OF_ERRNO.get(error.errno, Fault.TRANSIENT)
    for kind in type(error).__mro__:
        if kind.__name__ in _FAULT_OF_CLASS:
            return _FAULT_OF_CLASS[kind.__name__]
    if _METADATA_SERVICE in text and not re.search(r"status code: (?:429|5\d\d)", text):
        return Fault.REFUSED
    by_words = next((fault for words, fault in _FAULT_OF_WORDS.items() if words in text), None)
    if by_words is not None:
        return by_words
    return Fault.NOT_UNDERSTOOD if _is_wrong(status) else Fault.TRANSIENT


def backoff_s(deadline_s: float | None = None) -> Iterator[float]:
    """Waits for the tries that fit a deadline (`patience_s`): exponential with full jitter, 0.1 s to 10 s.

    The last one ends with the deadline.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    ends_at = time.monotonic() + (patience_s() if deadline_s is None else deadline_s)
    ceiling_s = 0.2
    while (left_s := ends_at - time.monotonic()) > 0:
        yield min(random.uniform(0.1, ceiling_s), left_s)
        ceiling_s = min(10.0, ceiling_s * 2)


def reason(error: BaseException) -> str:
    """What a storage library raised, as the end of a sentence: S3's own words when there are any."""
    if isinstance(error, FruitsError):
        return str(error).rstrip(".")
    if is_full(error):
        return "no space is left on this disk, or of this quota"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = _ANSI.sub("", str(error))
    if _METADATA_SERVICE in text:
        return "no AWS credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run with a role"
    if _ELSEWHERE in text:
        return "the bucket lies in another region; set s3_region, or leave it out"
    code, message = (re.search(rf"<{tag}>([^<]*)</{tag}>", text) for tag in ("Code", "Message"))
    if code and message:
        return f"{message[1].rstrip('.')} ({code[1]})"
    answer = _botocore_answer(error)
    if answer.get("Message") and answer.get("Code"):
        return f"{answer['Message'].rstrip('.')} ({answer['Code']})"
    causes = [line.strip(" ↳\t") for line in text.partition(_DEBUG_DUMP)[0].splitlines()]
    return ": ".join(filter(None, causes))[:_REASON_CHARACTERS].rstrip(".") or type(error).__name__


def _code(error: BaseException, text: str) -> str:
    """S3's error code, or the status where botocore found no code; empty when there is neither."""
    found = re.search(r"<Code>([^<]*)</Code>", text)
    return _botocore_answer(error).get("Code") or (found[1] if found else "")


def _status(error: BaseException, text: str) -> int | None:
    """The status of an answer over HTTP, where a library tells it."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        told: int | None = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return told
    # Each library breaks lines elsewhere.
    found = re.search(r"status code\W+(\d{3})\b", _ANSI.sub("", text))
    return int(found[1]) if found else None


def _is_wrong(status: int | None) -> bool:
    return status is not None and (300 <= status < 500) and status not in _PASSING_STATUSES


def _botocore_answer(error: BaseException) -> Mapping[str, str]:
    response = getattr(error, "response", None)
    return response.get("Error", {}) if isinstance(response, dict) else {}


_patience_s: float | None = None

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_REASON_CHARACTERS = 400
# Below its sentence obstore prints its data structures, with everything once more.
_DEBUG_DUMP = "\n\nDebug source:"
# What obstore makes of a redirect without a place to go to.
_ELSEWHERE = "incorrectly configured region"
# Where credentials are asked for when there are none anywhere else.
_METADATA_SERVICE = "//169.254.169.254/"

# Source: Amazon S3 API Reference, "Error responses", https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html.
# What is not listed may pass. Statuses stand where an answer has no body (HEAD).
_FAULT_OF_CODE = {
    # These say that they pass, though the libraries' classes for their statuses (400, 403, 409) say otherwise.
    # Credentials that ran out are replaced while we wait, and a clock that is wrong may be set.
    "ConditionalRequestConflict": Fault.TRANSIENT,
    "ExpiredToken": Fault.TRANSIENT,
    "OperationAborted": Fault.TRANSIENT,
    "RequestExpired": Fault.TRANSIENT,
    "RequestTimeTooSkewed": Fault.TRANSIENT,
    "RequestTimeout": Fault.TRANSIENT,
    "SlowDown": Fault.TRANSIENT,
    "Throttling": Fault.TRANSIENT,
    "ThrottlingException": Fault.TRANSIENT,
    "KMS.ThrottlingException": Fault.TRANSIENT,
    "TokenRefreshRequired": Fault.TRANSIENT,
    "404": Fault.MISSING,
    "NoSuchKey": Fault.MISSING,
    "NoSuchVersion": Fault.MISSING,
    "412": Fault.CHANGED,
    "PreconditionFailed": Fault.CHANGED,
    "403": Fault.REFUSED_OBJECT,
    "AccessDenied": Fault.REFUSED_OBJECT,
    "AllAccessDisabled": Fault.REFUSED_OBJECT,
    # Of one object or of all: whoever counts them tells.
    "KMS.DisabledException": Fault.REFUSED_OBJECT,
    "KMS.InvalidKeyUsageException": Fault.REFUSED_OBJECT,
    "KMS.KMSInvalidStateException": Fault.REFUSED_OBJECT,
    "KMS.NotFoundException": Fault.REFUSED_OBJECT,
    "InvalidObjectState": Fault.UNFIT_OBJECT,
    "KeyTooLongError": Fault.UNFIT_OBJECT,
    "MethodNotAllowed": Fault.UNFIT_OBJECT,
    # Of a function that the server lacks, which every object needs.
    "NotImplemented": Fault.REFUSED,
    # What S3 says of an object under a customer's own key (SSE-C), which we never send, and of one too large to copy.
    "InvalidRequest": Fault.UNFIT_OBJECT,
    "301": Fault.REFUSED,
    "401": Fault.REFUSED,
    "AccountProblem": Fault.REFUSED,
    "AuthorizationHeaderMalformed": Fault.REFUSED,
    "IllegalLocationConstraintException": Fault.REFUSED,
    "InvalidAccessKeyId": Fault.REFUSED,
    "InvalidBucketName": Fault.REFUSED,
    "InvalidPayer": Fault.REFUSED,
    "InvalidSecurity": Fault.REFUSED,
    "InvalidToken": Fault.REFUSED,
    "NoSuchBucket": Fault.REFUSED,
    "NotSignedUp": Fault.REFUSED,
    "PermanentRedirect": Fault.REFUSED,
    "TemporaryRedirect": Fault.TRANSIENT,
    "SignatureDoesNotMatch": Fault.REFUSED,
}
_FAULT_OF_STATUS = {
    301: Fault.REFUSED,
    401: Fault.REFUSED,
    501: Fault.REFUSED,
    505: Fault.REFUSED,
}
# Not modified, temporary redirect, not found, time-out, conflict, precondition failed, too early, too many: these have
# kinds of their own by their classes, or pass.
_PASSING_STATUSES = {304, 307, 404, 408, 409, 412, 425, 429}
_FULL = (errno.ENOSPC, errno.EDQUOT)
# obstore's and deltalake's, pyarrow's, and SQLite's.
_FULL_WORDS = (
    *(f"(os error {full})" for full in _FULL),
    *(f"[errno {full}]" for full in _FULL),
    "database or disk is full",
)
_FAULT_OF_ERRNO = {
    errno.ENOENT: Fault.MISSING,
    errno.ENOTDIR: Fault.MISSING,
    errno.EEXIST: Fault.CHANGED,
    errno.EISDIR: Fault.CHANGED,
    errno.EACCES: Fault.REFUSED_OBJECT,
    errno.EPERM: Fault.REFUSED_OBJECT,
    errno.ENAMETOOLONG: Fault.UNFIT_OBJECT,
    errno.ELOOP: Fault.UNFIT_OBJECT,
    errno.EROFS: Fault.REFUSED,
}
_FAULT_OF_CLASS = {
    # obstore and Python
    "NotFoundError": Fault.MISSING,
    "FileNotFoundError": Fault.MISSING,
    "AlreadyExistsError": Fault.CHANGED,
    "FileExistsError": Fault.CHANGED,
    "PreconditionError": Fault.CHANGED,
    "PermissionDeniedError": Fault.REFUSED_OBJECT,
    "PermissionError": Fault.REFUSED_OBJECT,
    "UnauthenticatedError": Fault.REFUSED,
    # botocore
    "InvalidRegionError": Fault.REFUSED,
    "NoCredentialsError": Fault.REFUSED,
    "NoRegionError": Fault.REFUSED,
    "PartialCredentialsError": Fault.REFUSED,
    "ProfileNotFound": Fault.REFUSED,
}
# deltalake raises OSError for whatever storage said, and a HEAD has no code: these are object_store's words.
_FAULT_OF_WORDS = {
    "lacked the necessary privileges": Fault.REFUSED_OBJECT,
    "(os error 13)": Fault.REFUSED_OBJECT,
    "(os error 36)": Fault.UNFIT_OBJECT,
    "(os error 30)": Fault.REFUSED,
    "lacked valid authentication credentials": Fault.REFUSED,
    _ELSEWHERE: Fault.REFUSED,
    "the credential provider was not enabled": Fault.REFUSED,
    "no providers in chain provided credentials": Fault.REFUSED,
    "IMDS is disabled": Fault.REFUSED,
}
