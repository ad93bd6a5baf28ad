"""Decoding that may crash or hang: under a deadline in the worker, and in a process of its own for suspects."""

import json
import os
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import IO, NoReturn

import numpy as np

from features.environment import interrupts_withheld, python_environment
from features.errors import DecoderUnavailable
from features.featurizer import DRAFT, Recipe
from features.image import Limits, Photo, decode
from features.rejects import Reason, Rejected

# What a process may need to begin on a machine that is busy; the decoder's own deadline starts after that.
START_S = 120.0


def decode_or_die(body: bytes, limits: Limits, recipe: Recipe = DRAFT) -> Photo:
    """As `decode`, in this process, which the kernel kills when the decoder is stuck; for a worker's main thread."""
    with process_deadline(limits.max_decode_s):
        return decode(body, limits, recipe)


class IsolatedDecoder:
    """Decodes each photo in a process of its own, forked from one that has imported the decoder and touched no photo.

    All are decoded within the same limits. For one thread at a time. The first photo waits some
    0.3 s for that process, the others a few milliseconds.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "IsolatedDecoder":
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.communicate()
            self._server = None

    def decode(self, body: bytes, limits: Limits, recipe: Recipe = DRAFT) -> Photo:
        """Decode a photo within the limits that this was made for.

        Raises what `decode` raises, and Rejected with `decoder_crashed` when the process dies in the decoder or is
        stuck there. Raises DecoderUnavailable when no process can do its work, which says nothing of the photo.
        """
        assert limits == self._limits
        self._server = self._server or _start_server(limits)
        request = json.dumps(asdict(recipe)).encode() + b"\n" + body
        try:
            code, answer = ask(self._server, request, START_S + limits.max_decode_s)
        except (OSError, EOFError) as error:
            self.__exit__()
            raise DecoderUnavailable(f"A decoder process did not answer: {error or 'it ended'}; try again.") from error
        if code < 0:
            raise crashed(code, limits)
        if code:
            raise DecoderUnavailable(f"A decoder process failed: {answer.decode(errors='replace')}")
        return _photo(answer, recipe)


def _start_server(limits: Limits) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "features.isolation", json.dumps(asdict(limits))]
    with interrupts_withheld():
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=python_environment())


def crashed(code: int, limits: Limits) -> Rejected:
    """The outcome of a photo whose decoder ended with this code, the negative number of a signal."""
    if code == -signal.SIGALRM:
        return Rejected(Reason.DECODER_CRASHED, f"The decoder was stuck for {limits.max_decode_s:g} s.")
    return Rejected(Reason.DECODER_CRASHED, f"The decoder was ended by {signal.Signals(-code).name}.")


def ask(server: "subprocess.Popen[bytes]", body: bytes, timeout_s: float) -> tuple[int, bytes]:
    """Send a process some bytes, and wait for its code and its answer. Raises OSError and EOFError."""
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(HEAD.pack(0, len(body)) + body)
    server.stdin.flush()
    # The answer comes whole once it comes: whoever forks has read all of it by then.
    if not select.select([server.stdout], [], [], timeout_s)[0]:
        raise TimeoutError(f"not within {timeout_s:.0f} s")
    code, size_bytes = HEAD.unpack(read_exactly(server.stdout, HEAD.size))
    return code, read_exactly(server.stdout, size_bytes)


def read_exactly(pipe: IO[bytes], size_bytes: int) -> bytes:
    """So many bytes of a pipe. Raises EOFError when it ends before."""
    content = pipe.read(size_bytes)
    if len(content) < size_bytes:
        raise EOFError
    return content


@contextmanager
def process_deadline(seconds: float) -> Iterator[None]:
    """Have the kernel end this process if the block takes longer; for the main thread, and not nested."""
    # The signal's default action needs no interpreter, which stuck native code may be holding, and ends a wait for a
    # network disk as SIGKILL does.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _photo(answer: bytes, recipe: Recipe) -> Photo:
    head, _, content = answer.partition(b"\n")
    said = json.loads(head)
    if "reason" in said:
        raise Rejected(Reason(said["reason"]), said["detail"])
    side_px = recipe.input_px
    size_bytes = 3 * side_px**2
    pixels = np.frombuffer(content, np.uint8, size_bytes).reshape(side_px, side_px, 3)
    return Photo(pixels, **said, copy=content[size_bytes:] or None)


def _answer(request: bytes, limits: Limits) -> bytes:
    recipe, _, body = request.partition(b"\n")
    try:
        photo = decode_or_die(body, limits, Recipe(**json.loads(recipe)))
    except Rejected as rejected:
        return json.dumps({"reason": rejected.reason, "detail": rejected.detail}).encode()
    except MemoryError:
        return json.dumps({"reason": Reason.DECODER_CRASHED, "detail": "The decoder ran out of memory."}).encode()
    head = {"format": photo.format, "width_px": photo.width_px, "height_px": photo.height_px}
    return json.dumps(head).encode() + b"\n" + photo.pixels.tobytes() + (photo.copy or b"")


def _serve(limits: Limits, requests: IO[bytes], answers: IO[bytes]) -> None:
    """Fork a process for each photo that comes, and pass on its exit code and what it said."""
    while head := requests.read(HEAD.size):
        request = read_exactly(requests, HEAD.unpack(head)[1])
        from_child, to_parent = os.pipe()
        child = os.fork()
        if child == 0:
            _decode_and_exit(request, limits, to_parent)
        os.close(to_parent)
        with os.fdopen(from_child, "rb") as pipe:
            answer = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        answers.write(HEAD.pack(code, len(answer)) + answer)
        answers.flush()


def _decode_and_exit(request: bytes, limits: Limits, to_parent: int) -> NoReturn:
    code = 1
    try:
        with os.fdopen(to_parent, "wb") as pipe:
            try:
                pipe.write(_answer(request, limits))
                code = 0
            except Exception as error:
                pipe.write(f"{type(error).__name__}: {error}".encode())
    finally:
        # Nothing of the parent's is to be flushed or cleaned up here.
        os._exit(code)


# An exit code, and how many bytes follow.
HEAD = struct.Struct(">iQ")

if __name__ == "__main__":
    answers = os.dup(1)
    # Whatever a native library prints must not be taken for the answer.
    os.dup2(2, 1)
    with os.fdopen(answers, "wb") as out:
        _serve(Limits(**json.loads(sys.argv[1])), sys.stdin.buffer, out)
