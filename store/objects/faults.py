"""The kinds of storage faults, and retrying a request for as long as that can help."""

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
    """What a fault says of the request, and of the next one."""

    TRANSIENT = "it may pass"
    MISSING = "there is no such object"
    CHANGED = "the object has another version, or exists already"
    REFUSED_OBJECT = "access to this object is denied"
    UNFIT_OBJECT = "this object cannot be read as it is"
    NOT_UNDERSTOOD = "the request is rejected for an unknown reason"
    REFUSED = "every request will fail"


REFUSALS = (Fault.REFUSED, Fault.REFUSED_OBJECT, Fault.UNFIT_OBJECT)
# Only readers and cleaners of many objects retry NOT_UNDERSTOOD: one answer of a gateway must not reject a photo.
_FINAL = (*REFUSALS, Fault.NOT_UNDERSTOOD)
# What to retry after a write: another writer was first, or the write succeeded and only its answer was lost.
UNKNOWN_OUTCOME = (Fault.TRANSIENT, Fault.CHANGED, Fault.MISSING)


def retry_storage(
    operation: str, work: Callable[[], _T], again: Collection[Fault] = (Fault.TRANSIENT,), photo: str | None = None
) -> _T:
    """What `work` returns. It is repeated for `patience_s` after faults of the kinds in `again`.

    `operation` ends the sentence "Cannot ..."; `photo` is the key of the photo that it names. `work` must be safe to
    repeat after a success whose answer was lost.
    Of other faults, MISSING raises FileNotFoundError, CHANGED the library's own error, and a final one StorageRefused.
    At the deadline it raises StorageUnavailable. Errors that are no faults of storage pass through at once.
    Listeners of `store.objects.waits` hear of a long wait.
    """
    with waiting(operation, patience_s(), photo) as request:
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
                    raise storage_error(operation, error, photo) from error
                request.is_answered = fault is not Fault.TRANSIENT
                if fault is Fault.MISSING and fault not in again:
                    raise FileNotFoundError(reason(error)) from error
                if fault not in again:
                    raise
                failure = error
            if not request.is_answered:
                request.failed(reason(failure), is_full(failure))
            time.sleep(wait_s)
        raise storage_error(operation, failure, photo) from failure


def patience_s() -> float:
    """For how long this process retries a request to storage."""
    return RETRY_DEADLINE_S if _patience_s is None else _patience_s


def use_patience(deadline_s: float | None) -> None:
    """Set for how long this process retries each request to storage; None: two minutes."""
    global _patience_s
    _patience_s = deadline_s


def storage_error(operation: str, error: BaseException, photo: str | None = None) -> StorageUnavailable:
    """The error to raise for a fault: "Cannot `operation`: ...", StorageRefused if a later try cannot help."""
    kind = StorageRefused if is_final(error) else StorageUnavailable
    return kind(f"Cannot {operation}: {reason(error)}.", photo)


def is_final(error: BaseException) -> bool:
    """Whether the same request would fail again."""
    return fault_of(error) in _FINAL


def is_fault(error: BaseException) -> bool:
    """Whether storage raised this: obstore, deltalake, botocore or the operating system."""
    # By name, so that no library is loaded for this.
    origins = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, OSError) or bool(origins & {"obstore", "deltalake", "_internal", "botocore"})


def is_full(error: BaseException) -> bool:
    """Whether a disk or a quota is full: it may pass once somebody makes room."""
    number = error.errno if isinstance(error, OSError) else None
    return number in _FULL or any(words in str(error) for words in _FULL_WORDS)


def fault_of(error: BaseException) -> Fault:
    """The kind of a fault: by AWS's error code if there is one, else by the library's class or words.

    An unknown fault may pass, unless its status is 501 or says that the request is wrong.
    """
    text = str(error)
    found = re.search(r"<Code>([^<]*)</Code>", text)
    # Where an answer has no body, botocore takes its status for the code.
    by_code = fault_of_code(_botocore_answer(error).get("Code") or (found[1] if found else ""))
    if by_code is not None:
        return by_code
    status = http_status(error)
    if status in _FAULT_OF_STATUS:
        return _FAULT_OF_STATUS[status]
    if isinstance(error, OSError) and error.errno in _FAULT_OF_ERRNO:
        return _FAULT_OF_ERRNO[error.errno]
    for kind in type(error).__mro__:
        if kind.__name__ in _FAULT_OF_CLASS:
            return _FAULT_OF_CLASS[kind.__name__]
    if _METADATA_SERVICE in text and not re.search(r"status code: (?:429|5\d\d)", text):
        return Fault.REFUSED
    is_wrong = status is not None and (300 <= status < 500) and status not in _PASSING_STATUSES
    otherwise = Fault.NOT_UNDERSTOOD if is_wrong else Fault.TRANSIENT
    return next((fault for words, fault in _FAULT_OF_WORDS.items() if words in text), otherwise)


def fault_of_code(code: str) -> Fault | None:
    """The kind that an error code of AWS says; None if it says none."""
    return Fault.TRANSIENT if _PASSING_CODE.search(code) else _FAULT_OF_CODE.get(code)


def http_status(error: BaseException) -> int | None:
    """The status of an answer over HTTP, if the library tells one."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status: int | None = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status
    # Each library breaks lines elsewhere.
    found = re.search(r"status code\W+(\d{3})\b", _ANSI.sub("", str(error)))
    return int(found[1]) if found else None


def backoff_s(deadline_s: float | None = None) -> Iterator[float]:
    """Waits between tries until a deadline (`patience_s`): exponential with full jitter, 0.1 s to 10 s.

    The last ends with the deadline. Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    ends_at = time.monotonic() + (patience_s() if deadline_s is None else deadline_s)
    ceiling_s = 0.2
    while (left_s := ends_at - time.monotonic()) > 0:
        yield min(random.uniform(0.1, ceiling_s), left_s)
        ceiling_s = min(10.0, ceiling_s * 2)


def reason(error: BaseException) -> str:
    """An error as the end of a sentence, in AWS's own words if there are any."""
    if isinstance(error, FruitsError):
        return str(error).rstrip(".")
    if is_full(error):
        return "no space is left on this disk, or of this quota"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = _ANSI.sub("", str(error))
    if _METADATA_SERVICE in text or type(error).__name__ == "NoCredentialsError":
        return _NO_CREDENTIALS
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
# Libraries ask here for credentials when they find none anywhere else.
_METADATA_SERVICE = "//169.254.169.254/"
_NO_CREDENTIALS = (
    "no AWS credentials were found; run `aws configure` or `aws sso login`, set AWS_PROFILE or AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, or give this machine a role"
)

# Source: Amazon S3 API Reference, "Error responses", https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html,
# and "Common errors" of SQS and EMR. Any other code says nothing of its kind.
# These pass, though the libraries' classes for their statuses (400, 403, 409) say otherwise: expired credentials are
# replaced while we wait, and a wrong clock may be set.
_PASSING_CODE = re.compile(
    r"^(ConditionalRequestConflict|OperationAborted|SlowDown|TemporaryRedirect|TokenRefreshRequired|RequestTimeTooSkewed"
    r"|OverLimit|.*(Throttl|RequestLimitExceeded|ExpiredToken|RequestExpired|RequestTimeout|Unavailable).*)$"
)
_CODES = {
    Fault.MISSING: (
        *("404", "NoSuchKey", "NoSuchVersion", "QueueDoesNotExist"),
        *("AWS.SimpleQueueService.NonExistentQueue", "AWS.SimpleQueueService.QueueDeletedRecently"),
    ),
    Fault.CHANGED: ("412", "PreconditionFailed"),
    Fault.REFUSED_OBJECT: (
        *("403", "AccessDenied", "AccessDeniedException", "AllAccessDisabled"),
        # Of one object or of all: whoever counts them tells.
        *("KMS.DisabledException", "KMS.InvalidKeyUsageException", "KMS.KMSInvalidStateException"),
        "KMS.NotFoundException",
    ),
    # InvalidRequest is said of an object under a customer's own key (SSE-C), which we never send, and of one that is
    # too large to copy.
    Fault.UNFIT_OBJECT: ("InvalidObjectState", "KeyTooLongError", "MethodNotAllowed", "InvalidRequest"),
    Fault.REFUSED: (
        # The server lacks a function that every object needs.
        "NotImplemented",
        *("301", "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"),
        *("NoSuchBucket", "InvalidBucketName", "InvalidPayer", "AccountProblem", "NotSignedUp"),
        *("401", "InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException", "AuthFailure"),
        *("InvalidSecurity", "InvalidToken", "SignatureDoesNotMatch"),
    ),
}
_FAULT_OF_CODE = {code: fault for fault, codes in _CODES.items() for code in codes}
_FAULT_OF_STATUS = dict.fromkeys((301, 401, 501, 505), Fault.REFUSED)
# Not modified, temporary redirect, not found, time-out, conflict, precondition failed, too early, too many: the
# libraries have classes for these, or they pass.
_PASSING_STATUSES = {304, 307, 404, 408, 409, 412, 425, 429}
_FULL = (errno.ENOSPC, errno.EDQUOT)
# obstore's and deltalake's, pyarrow's, and SQLite's.
_FULL_WORDS = (
    *(f"(os error {full})" for full in _FULL),
    *(f"[errno {full}]" for full in _FULL),
    "database or disk is full",
)
# Python has classes for the other errors of a disk.
_FAULT_OF_ERRNO = {
    errno.ENAMETOOLONG: Fault.UNFIT_OBJECT,
    errno.ELOOP: Fault.UNFIT_OBJECT,
    errno.EROFS: Fault.REFUSED,
}
_CLASSES = {
    Fault.MISSING: ("NotFoundError", "FileNotFoundError", "NotADirectoryError"),
    Fault.CHANGED: ("AlreadyExistsError", "FileExistsError", "IsADirectoryError", "PreconditionError"),
    Fault.REFUSED_OBJECT: ("PermissionDeniedError", "PermissionError"),
    Fault.REFUSED: (
        "UnauthenticatedError",
        # botocore
        *("InvalidRegionError", "NoRegionError", "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"),
    ),
}
_FAULT_OF_CLASS = {name: fault for fault, names in _CLASSES.items() for name in names}
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
