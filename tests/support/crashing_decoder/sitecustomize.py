"""Python runs this at its start when its folder is on PYTHONPATH: JPEGs with a marked comment crash or hang Pillow."""

import ctypes

from PIL.JpegImagePlugin import JpegImageFile

SEGFAULT = b"fruits-test: segmentation fault"
STUCK = b"fruits-test: stuck with the interpreter in hand"

_load = JpegImageFile.load


def _fall(image: JpegImageFile) -> object:
    comment = image.info.get("comment")
    if comment == SEGFAULT:
        ctypes.string_at(0)
    if comment == STUCK:
        # Unlike CDLL, PyDLL keeps the interpreter's lock: no other thread of the process runs any more.
        ctypes.PyDLL(None).pause()
    return _load(image)


JpegImageFile.load = _fall  # type: ignore[method-assign,assignment]
