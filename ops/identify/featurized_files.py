"""Files of this machine, read and featurized as the stream does it with landed photos."""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from features.featurizer import Recipe
from features.image import Limits
from features.rejects import Reason, Rejected
from ops.identify.feature_process import FeatureProcess
from store.objects.faults import reason

AHEAD_FILES = 8


@dataclass(frozen=True, eq=False)
class FeaturizedFile:
    """A file as it was named, and its bytes' SHA-256 and features (length,) float32, or why it has none."""

    file: str
    image_id: str | None
    features: NDArray[np.float32] | Rejected


class FileFeaturizer:
    """Featurizes files on all cores; a first process starts at once. End it with `close`."""

    def __init__(self, limits: Limits, files: Sequence[str]) -> None:
        self._limits, self._files = limits, files
        self._processes = [FeatureProcess(limits) for _ in range(min(len(files), _cores()))]
        self._processes[0].begin()

    def __enter__(self) -> "FileFeaturizer":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.close()

    def featurized(self, network: Callable[[], bytes], recipe: Recipe) -> Iterator[FeaturizedFile]:
        """Each file's outcome, in the order of the files, by a network that sees pixels of this recipe.

        Raises DecoderUnavailable, and what `network` raises.
        """
        idle: SimpleQueue[FeatureProcess] = SimpleQueue()
        for process in self._processes:
            idle.put(process)

        def featurize(place: int) -> FeaturizedFile:
            process, file, image_id = idle.get(), self._files[place], None
            try:
                ahead = place + AHEAD_FILES
                for coming in self._files[ahead if place else 1 : ahead + 1]:
                    _advise_kernel(Path(coming))
                body = read_photo(Path(file), self._limits.max_image_bytes)
                image_id = hashlib.sha256(body).hexdigest()
                return FeaturizedFile(file, image_id, process.features(body, network, recipe))
            except Rejected as rejected:
                return FeaturizedFile(file, image_id, rejected)
            finally:
                idle.put(process)

        executor = ThreadPoolExecutor(len(self._processes))
        try:
            yield from executor.map(featurize, range(len(self._files)))
        finally:
            executor.shutdown(wait=False, cancel_futures=True)


def read_photo(path: Path, most_bytes: int) -> bytes:
    """The bytes of a file, which may be a pipe. Raises Rejected when it cannot be read or is too large."""
    try:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            size_bytes = state.st_size if stat.S_ISREG(state.st_mode) else most_bytes
            body = file.read(min(size_bytes, most_bytes) + 1)
    except FileNotFoundError:
        raise Rejected(Reason.MISSING, "There is no such file.") from None
    except IsADirectoryError:
        raise Rejected(Reason.UNREADABLE, f"It is a directory; name the files in it: {path}/*") from None
    except OSError as error:
        raise Rejected(Reason.UNREADABLE, f"It cannot be read: {reason(error)}.") from error
    if len(body) > most_bytes:
        detail = f"{max(size_bytes, len(body))} bytes; the limit is {most_bytes}."
        raise Rejected(Reason.TOO_MANY_BYTES, detail)
    return body


def _advise_kernel(path: Path) -> None:
    """Have the kernel begin to read a file; whoever reads it is told what is wrong with it."""
    # A pipe must not be opened twice: its writer would lose its reader.
    if hasattr(os, "posix_fadvise") and path.is_file():
        with suppress(OSError), path.open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def _cores() -> int:
    # A container or a batch system may grant fewer than the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
