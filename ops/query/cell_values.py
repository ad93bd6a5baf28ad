"""Arrow columns as JSON values, and distinct names of columns."""

import json
from collections.abc import Sequence
from decimal import Decimal
from itertools import chain, count, islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

# How DuckDB stores days and microseconds without an end.
_ENDLESS = {2**31 - 1: "infinity", 1 - 2**31: "-infinity", 2**63 - 1: "infinity", 1 - 2**63: "-infinity"}
_NS_PER_S = 10**9


def distinct_names(names: Sequence[str]) -> list[str]:
    """The names of columns, each once: a second `label` becomes `label_1`, an empty name `_col0`, as on Athena.

    No column gets a name that another one has already.
    """
    distinct: list[str] = []
    for position, name in enumerate(names):
        base = name or f"_col{position}"
        numbered = chain([base], (f"{base}_{number}" for number in count(1)))
        distinct.append(next(one for one in numbered if one not in distinct and (one == name or one not in names)))
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
    kind, types = array.type, pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return _values(array.storage, finite)
    if types.is_dictionary(kind):
        return _values(array.dictionary_decode(), finite)
    if types.is_union(kind):
        members = [_values(array.field(position), finite) for position in range(kind.num_fields)]
        return [members[code][row] for row, code in enumerate(array.type_codes.to_pylist())]
    if types.is_struct(kind):
        return _structs(array, finite)
    if types.is_map(kind):
        entries = _lists(array.cast(pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)]))), finite)
        return [None if row is None else {_key(pair["key"]): pair["value"] for pair in row} for row in entries]
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _lists(array, finite)
    if types.is_date(kind) or types.is_time(kind) or types.is_timestamp(kind):
        return _times(array)
    if types.is_floating(kind):
        return list((pc.if_else(pc.is_finite(array), array, None) if finite else array).to_pylist())
    values = array.to_pylist()
    is_plain = types.is_boolean(kind) or types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)
    return list(values) if is_plain else [_scalar(value) for value in values]


def _structs(array: pa.Array, finite: bool) -> list[Any]:
    names = distinct_names([field.name for field in array.type])
    fields = [_values(array.field(position), finite) for position in range(len(names))]
    rows = zip(*fields, strict=True) if fields else ((),) * len(array)
    are_valid = array.is_valid().to_pylist()
    return [dict(zip(names, row, strict=True)) if valid else None for row, valid in zip(rows, are_valid, strict=True)]


def _lists(array: pa.Array, finite: bool) -> list[Any]:
    elements = iter(_values(array.flatten(), finite))
    lengths = pc.list_value_length(array).to_pylist()
    return [None if length is None else list(islice(elements, length)) for length in lengths]


def _key(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _times(array: pa.Array) -> list[Any]:
    try:
        return [None if value is None else value.isoformat() for value in array.to_pylist()]
    except (OverflowError, ValueError):
        # Python has no year beyond 9999 and no nanoseconds.
        texts = (None if text is None else text.replace(" ", "T") for text in array.cast(pa.string()).to_pylist())
        numbers = array.cast(pa.int32() if array.type.bit_width == 32 else pa.int64()).to_pylist()
        return [_ENDLESS.get(number, text) for number, text in zip(numbers, texts, strict=True)]


def _scalar(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Decimal):
        return int(value) if value.as_tuple().exponent == 0 else f"{value:f}"
    if isinstance(value, pa.MonthDayNano):
        months, days, nanoseconds = value
        seconds, rest = divmod(abs(nanoseconds), _NS_PER_S)
        fraction = f".{rest:09d}".rstrip("0") if rest else ""
        return f"P{months}M{days}DT{'-' if nanoseconds < 0 else ''}{seconds}{fraction}S"
    return value
