"""Arrow columns as the values that JSON has, and names that tell all columns apart."""

import json
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

# How DuckDB stores days and microseconds without an end.
_ENDLESS = {2**31 - 1: "infinity", 1 - 2**31: "-infinity", 2**63 - 1: "infinity", 1 - 2**63: "-infinity"}
_NS_PER_S = 10**9


def distinct_names(names: Sequence[str]) -> list[str]:
    """The names of columns, each once: a second `label` becomes `label_1`, and no name `_col0`, as Athena counts.

    A name that a column has of itself goes to no other.
    """
    distinct: list[str] = []
    for position, name in enumerate(names):
        wanted = name or f"_col{position}"
        given, number = wanted, 0
        while given in distinct or (given != name and given in names):
            number += 1
            given = f"{wanted}_{number}"
        distinct.append(given)
    return distinct


def column_values(column: pa.ChunkedArray, *, finite: bool) -> list[Any]:
    """A column's values, None for null: numbers, booleans, text, lists, and dictionaries with text as keys.

    Times and intervals are ISO 8601, with every digit, bytes are hexadecimal, and decimals are text unless whole.
    With `finite`, floats that JSON has no number for (NaN, the infinities) are None.
    """
    return [value for chunk in column.chunks for value in _values(chunk, finite)]


def has_interval_or_union(kind: pa.DataType) -> bool:
    """Whether a type is, or holds, one that parquet does not have."""
    if pa.types.is_interval(kind) or pa.types.is_union(kind):
        return True
    return any(has_interval_or_union(kind.field(position).type) for position in range(kind.num_fields))


def _values(array: pa.Array, finite: bool) -> list[Any]:
    for is_kind, values in _OF_KIND:
        if is_kind(array.type):
            return values(array, finite)
    return list(array.to_pylist())


def _floats(array: pa.Array, finite: bool) -> list[Any]:
    return list((pc.if_else(pc.is_finite(array), array, None) if finite else array).to_pylist())


def _decimals(array: pa.Array, finite: bool) -> list[Any]:
    if array.type.scale <= 0:
        return [None if value is None else int(value) for value in array.to_pylist()]
    return [None if value is None else f"{value:f}" for value in array.to_pylist()]


def _bytes(array: pa.Array, finite: bool) -> list[Any]:
    return [None if value is None else value.hex() for value in array.to_pylist()]


def _times(array: pa.Array, finite: bool) -> list[Any]:
    try:
        return [None if value is None else value.isoformat() for value in array.to_pylist()]
    except (OverflowError, ValueError):
        # Python has no year beyond 9999 and no nanoseconds.
        texts = (None if text is None else text.replace(" ", "T") for text in array.cast(pa.string()).to_pylist())
        numbers = array.cast(pa.int32() if array.type.bit_width == 32 else pa.int64()).to_pylist()
        return [_ENDLESS.get(number, text) for number, text in zip(numbers, texts, strict=True)]


def _intervals(array: pa.Array, finite: bool) -> list[Any]:
    return [None if value is None else _interval(*value) for value in array.to_pylist()]


def _interval(months: int, days: int, nanoseconds: int) -> str:
    sign = "-" if nanoseconds < 0 else ""
    seconds, rest = divmod(abs(nanoseconds), _NS_PER_S)
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"P{months}M{days}DT{sign}{seconds}{fraction}S"


def _lists(array: pa.Array, finite: bool) -> list[Any]:
    elements = iter(_values(array.flatten(), finite))
    lengths = pc.list_value_length(array).to_pylist()
    return [None if length is None else list(islice(elements, length)) for length in lengths]


def _structs(array: pa.Array, finite: bool) -> list[Any]:
    names = distinct_names([field.name for field in array.type])
    fields = [_values(array.field(position), finite) for position in range(len(names))]
    rows = zip(*fields, strict=True) if fields else ((),) * len(array)
    return [
        dict(zip(names, row, strict=True)) if is_valid else None
        for row, is_valid in zip(rows, array.is_valid().to_pylist(), strict=True)
    ]


def _maps(array: pa.Array, finite: bool) -> list[Any]:
    entries = pa.list_(pa.struct([("key", array.type.key_type), ("value", array.type.item_type)]))
    return [
        None if pairs is None else {_key(pair["key"]): pair["value"] for pair in pairs}
        for pairs in _lists(array.cast(entries), finite)
    ]


def _key(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _unions(array: pa.Array, finite: bool) -> list[Any]:
    members = [_values(array.field(position), finite) for position in range(array.type.num_fields)]
    return [members[code][row] for row, code in enumerate(array.type_codes.to_pylist())]


def _enums(array: pa.Array, finite: bool) -> list[Any]:
    return _values(array.dictionary_decode(), finite)


def _extensions(array: pa.Array, finite: bool) -> list[Any]:
    return _values(array.storage, finite)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_date(kind) or pa.types.is_time(kind) or pa.types.is_timestamp(kind))


_OF_KIND: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.Array, bool], list[Any]]], ...] = (
    (lambda kind: isinstance(kind, pa.BaseExtensionType), _extensions),
    (pa.types.is_floating, _floats),
    (pa.types.is_decimal, _decimals),
    (_is_bytes, _bytes),
    (_is_time, _times),
    (pa.types.is_interval, _intervals),
    (_is_list, _lists),
    (pa.types.is_struct, _structs),
    (pa.types.is_map, _maps),
    (pa.types.is_union, _unions),
    (pa.types.is_dictionary, _enums),
)
