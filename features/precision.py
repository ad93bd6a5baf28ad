"""In what arithmetic a network runs."""

from typing import Literal

Precision = Literal["float32", "int8"]
