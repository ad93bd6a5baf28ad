"""Decoding that may crash or hang: under a deadline in the worker, and in a process of its own for suspects."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import numpy as np

from features.errors import DecoderUnavailable
from features.featurizer import INPUT_PX
from features.image import Limits, Photo, decode
from features.rejects import Reason, Rejected

# What a process may need to begin on a machine that is busy; the decoder's own deadline starts after that.
START_S = 120.0


def decode_or_die(body: bytes, limits: Limits) -> Photo:
    """Decode in this process, which the kernel kills when the decoder is stuck; for the main thread of a worker.

    Raises what `decode` raises.
    """
    with _deadline(limits.max_decode_s):
        return decode(body, limits)


def decode_isolated(body: bytes, limits: Limits) -> Photo:
    """Decode in a process that is started for this photo alone, some 0.3 s slower.

    Raises what `decode` raises, and Rejected with `decoder_crashed` when the process dies in the decoder or is stuck
    there. Raises DecoderUnavailable when the process cannot do its work at all, which says nothing of the photo.
    """
    command = [sys.executable, "-m", "features.isolation", json.dumps(asdict(limits))]
    importable = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        ended = subprocess.run(
            command, input=body, capture_output=True, timeout=START_S + limits.max_decode_s, env=importable
        )
    except subprocess.TimeoutExpired as error:
        raise DecoderUnavailable(f"A decoder process did not begin within {START_S:.0f} s; try again.") from error
    if ended.returncode == -signal.SIGALRM:
        raise Rejected(Reason.DECODER_CRASHED, f"The decoder was stuck for {limits.max_decode_s:g} s.")
    if ended.returncode < 0:
        raise Rejected(Reason.DECODER_CRASHED, f"The decoder was ended by {signal.Signals(-ended.returncode).name}.")
    if ended.returncode:
        last_words = ended.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no word"]
        raise DecoderUnavailable(f"A decoder process failed: {last_words[0]}")
    return _photo(ended.stdout)


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    # The signal's default action needs no interpreter, which a decoder stuck in native code may be holding.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _photo(answer: bytes) -> Photo:
    head, _, pixels = answer.partition(b"\n")
    said = json.loads(head)
    if "reason" in said:
        raise Rejected(Reason(said["reason"]), said["detail"])
    return Photo(np.frombuffer(pixels, np.uint8).reshape(INPUT_PX, INPUT_PX, 3), **said)


def _answer(body: bytes, limits: Limits) -> bytes:
    try:
        photo = decode_or_die(body, limits)
    except Rejected as rejected:
        return json.dumps({"reason": rejected.reason, "detail": rejected.detail}).encode()
    except MemoryError:
        return json.dumps({"reason": Reason.DECODER_CRASHED, "detail": "The decoder ran out of memory."}).encode()
    head = {"format": photo.format, "width_px": photo.width_px, "height_px": photo.height_px}
    return json.dumps(head).encode() + b"\n" + photo.pixels.tobytes()


if __name__ == "__main__":
    answers = os.dup(1)
    # Whatever a native library prints must not be taken for the answer.
    os.dup2(2, 1)
    with os.fdopen(answers, "wb") as out:
        out.write(_answer(sys.stdin.buffer.read(), Limits(**json.loads(sys.argv[1]))))
