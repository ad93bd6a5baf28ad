"""What a storage library raised, by what can be done about it; and trying again for as long as that can help."""

import errno
import random
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from enum import Enum
from typing import TypeVar

from features.errors import FruitsError, StorageRefused, StorageUnavailable

RETRY_DEADLINE_S = 120.0

_T = TypeVar("_T")


class Fault(Enum):
    """The kinds of storage faults."""

    TRANSIENT = "may pass"
    MISSING = "no such object"
    CHANGED = "another version stands there, or one does already"
    REFUSED_OBJECT = "this object is refused"
    UNFIT_OBJECT = "this object cannot be had as it is"
    REFUSED = "no request can succeed"


REFUSALS = (Fault.REFUSED, Fault.REFUSED_OBJECT, Fault.UNFIT_OBJECT)
# What to try again after a write. Somebody else may have written, or it landed and only the answer was lost.
UNKNOWN_OUTCOME = (Fault.TRANSIENT, Fault.CHANGED, Fault.MISSING)


def persistently(what: str, work: Callable[[], _T], again: Collection[Fault] = (Fault.TRANSIENT,)) -> _T:
    """What `work` returns, tried anew for two minutes after faults of the kinds in `again`.

    `what` ends the sentence "Cannot ...". Of the other kinds, MISSING raises FileNotFoundError, CHANGED the library's
    own error, and both REFUSED kinds StorageRefused. Raises StorageUnavailable at the deadline, and at once what is no
    fault of storage. `work` must be safe to repeat, also after it succeeded and only the answer was lost.
    """
    for wait_s in backoff_s():
        try:
            return work()
        except Exception as error:
            if not is_fault(error):
                raise
            fault = fault_of(error)
            if fault in REFUSALS:
                raise given_up(what, error) from error
            if fault is Fault.MISSING and fault not in again:
                raise FileNotFoundError(reason(error)) from error
            if fault not in again:
                raise
            failure = error
        time.sleep(wait_s)
    raise given_up(what, failure) from failure


def given_up(what: str, error: BaseException) -> StorageUnavailable:
    """What to raise when a fault is not tried again: the sentence "Cannot ...", and whether a later try can help."""
    kind = StorageRefused if fault_of(error) in REFUSALS else StorageUnavailable
    return kind(f"Cannot {what}: {reason(error)}.")


def is_fault(error: BaseException) -> bool:
    """Whether storage raised this: obstore, deltalake, botocore or the operating system."""
    # By name, so that nobody has to load a library only to learn that it raised nothing.
    origins = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, OSError) or bool(origins & {"obstore", "deltalake", "_internal", "botocore"})


def fault_of(error: BaseException) -> Fault:
    """The kind of a fault: by S3's error code where there is one, else by what the library made of it.

    What is not known may pass: trying again is safe, rejecting a photo is not.
    """
    text = str(error)
    by_code = _FAULT_OF_CODE.get(_code(error, text))
    if by_code is not None:
        return by_code
    if isinstance(error, OSError) and error.errno is not None:
        return _FAULT_OF_ERRNO.get(error.errno, Fault.TRANSIENT)
    for kind in type(error).__mro__:
        if kind.__name__ in _FAULT_OF_CLASS:
            return _FAULT_OF_CLASS[kind.__name__]
    if _METADATA_SERVICE in text and not re.search(r"status code: (?:429|5\d\d)", text):
        return Fault.REFUSED
    return next((fault for words, fault in _FAULT_OF_WORDS.items() if words in text), Fault.TRANSIENT)


def backoff_s(deadline_s: float | None = None) -> Iterator[float]:
    """Waits for the tries that fit a deadline (two minutes): exponential with full jitter, 0.1 s to 10 s.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    ends_at = time.monotonic() + (RETRY_DEADLINE_S if deadline_s is None else deadline_s)
    ceiling_s = 0.2
    while time.monotonic() < ends_at:
        yield random.uniform(0.1, ceiling_s)
        ceiling_s = min(10.0, ceiling_s * 2)


def reason(error: BaseException) -> str:
    """What a storage library raised, as the end of a sentence: S3's own words when there are any."""
    if isinstance(error, FruitsError):
        return str(error).rstrip(".")
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = _ANSI.sub("", str(error))
    if _METADATA_SERVICE in text:
        return "no AWS credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run with a role"
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


def _botocore_answer(error: BaseException) -> Mapping[str, str]:
    response = getattr(error, "response", None)
    return response.get("Error", {}) if isinstance(response, dict) else {}


_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_REASON_CHARACTERS = 400
# Below its sentence obstore prints its data structures, with everything once more.
_DEBUG_DUMP = "\n\nDebug source:"
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
    "SignatureDoesNotMatch": Fault.REFUSED,
}
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
    "incorrectly configured region": Fault.REFUSED,
    "the credential provider was not enabled": Fault.REFUSED,
    "no providers in chain provided credentials": Fault.REFUSED,
    "IMDS is disabled": Fault.REFUSED,
}
