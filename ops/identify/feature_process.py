"""Features of photos, made in processes of their own: Python runs one network at a time, and a photo may crash one."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import IO

import numpy as np
from numpy.typing import NDArray

from bootstrap.weights.network import without_chatter
from features.environment import interrupts_withheld, python_environment
from features.errors import DecoderUnavailable
from features.featurizer import DRAFT, Featurizer, Recipe
from features.image import Limits
from features.isolation import HEAD, START_S, ask, crashed, decode_or_die, read_exactly
from features.rejects import Reason, Rejected


class FeatureProcess:
    """A process that decodes photos and featurizes them, as an executor's worker does. For one thread at a time."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._is_closed = False
        self._has_network = False
        self._has_met_photos = False

    def begin(self) -> None:
        """Start the process, which loads its libraries while others go on; once is enough."""
        if self._process is None:
            command = [sys.executable, "-m", "ops.identify.feature_process", json.dumps(asdict(self._limits))]
            pipe = subprocess.PIPE
            with interrupts_withheld():
                self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=python_environment())
            self._has_network = self._has_met_photos = False

    def features(self, body: bytes, network: Callable[[], bytes], recipe: Recipe) -> NDArray[np.float32]:
        """The features (length,) of a photo, by a network and a recipe that are always the same.

        A process that ends in a photo may have been damaged by those before: then a new one tries this photo first.
        Raises what `decode` raises, Rejected with `decoder_crashed` for a photo that ends the new one, too, and
        DecoderUnavailable when no process can do its work.
        """
        while True:
            if self._is_closed:
                raise DecoderUnavailable("A decoder process did not answer: it was ended; try again.")
            self.begin()
            assert self._process is not None
            is_new = not self._has_met_photos
            try:
                if not self._has_network:
                    _checked(*ask(self._process, json.dumps(asdict(recipe)).encode() + b"\n" + network(), START_S))
                    self._has_network = True
                self._has_met_photos = True
                return _features(_checked(*ask(self._process, body, START_S + self._limits.max_decode_s)))
            except (OSError, EOFError) as error:
                code = self._end()
                if code is None or code >= 0 or not self._has_met_photos:
                    raise DecoderUnavailable(
                        f"A decoder process did not answer: {error or 'it ended'}; try again."
                    ) from error
                if is_new:
                    raise crashed(code, self._limits) from error

    def close(self) -> None:
        """End the process; a thread that waits for it gets DecoderUnavailable."""
        self._is_closed = True
        process = self._process
        if process is not None:
            process.kill()
            process.communicate()

    def _end(self) -> int | None:
        """The exit code of a process that does not answer any more; None for one that goes on, which is killed."""
        process, self._process = self._process, None
        assert process is not None
        code: int | None = None
        with suppress(subprocess.TimeoutExpired):
            code = process.wait(_ENDS_WITHIN_S)
        process.kill()
        process.communicate()
        return code


def _checked(code: int, answer: bytes) -> bytes:
    if code:
        raise DecoderUnavailable(f"A decoder process failed: {answer.decode(errors='replace')}")
    return answer


def _features(answer: bytes) -> NDArray[np.float32]:
    head, _, vector = answer.partition(b"\n")
    if head:
        said = json.loads(head)
        raise Rejected(Reason(said["reason"]), said["detail"])
    return np.frombuffer(vector, np.float32)


def _serve(limits: Limits, requests: IO[bytes], answers: IO[bytes]) -> None:
    """Take a network with its recipe, and then photos one by one; each is answered."""
    featurizer: Featurizer | None = None
    recipe = DRAFT
    while head := requests.read(HEAD.size):
        body, code = read_exactly(requests, HEAD.unpack(head)[1]), 0
        try:
            if featurizer is None:
                said, _, network = body.partition(b"\n")
                recipe = Recipe(**json.loads(said))
                with without_chatter():
                    featurizer, answer = Featurizer(network), b""
            else:
                answer = _answer(body, limits, featurizer, recipe)
        except Exception as error:
            # It is raised where the photo came from.
            code, answer = 1, f"{type(error).__name__}: {error}".encode()
        answers.write(HEAD.pack(code, len(answer)) + answer)
        answers.flush()


def _answer(body: bytes, limits: Limits, featurizer: Featurizer, recipe: Recipe) -> bytes:
    try:
        photo = decode_or_die(body, limits, recipe)
    except Rejected as rejected:
        return json.dumps({"reason": rejected.reason, "detail": rejected.detail}).encode() + b"\n"
    except MemoryError:
        refusal = {"reason": Reason.DECODER_CRASHED, "detail": "The decoder ran out of memory."}
        return json.dumps(refusal).encode() + b"\n"
    return b"\n" + featurizer.features(photo.pixels[None]).tobytes()


# A process whose pipe has ended is about to end itself; a core dump takes some time.
_ENDS_WITHIN_S = 10.0

if __name__ == "__main__":
    answers = os.dup(1)
    # Whatever a native library prints must not be taken for the answer.
    os.dup2(2, 1)
    with os.fdopen(answers, "wb") as out:
        _serve(Limits(**json.loads(sys.argv[1])), sys.stdin.buffer, out)
