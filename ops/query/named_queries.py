"""The named queries: the files in `ops/query/sql/`, each one SELECT in Athena's dialect under a header of comments.

A header is a block of comment lines: what the query answers; a line for each parameter,
`-- name: type: what it is` or `-- name: type = default: what it is`; and `-- none: `, what it means that no row comes.
The types are varchar, integer, double, date and boolean. A boolean is a flag that takes no value.
Athena knows parameters by their place only, and only below WHERE
(docs.aws.amazon.com/athena/latest/ug/querying-with-prepared-statements.html). So the file holds one `?` for each
parameter, in the order of the header, and is valid Athena SQL as it stands.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from itertools import takewhile
from typing import Literal, cast, get_args

from features.errors import InvalidSetting
from store.objects.location import to_nfc

Kind = Literal["varchar", "integer", "double", "date", "boolean"]
Value = str | bool | int | float | date

_PARAMETER = re.compile(
    rf"(?P<name>[a-z_]+): (?P<kind>{'|'.join(get_args(Kind))})(?: = (?P<default>[^:]+))?: (?P<what>.+)"
)
_NONE = "none: "
_DAYS_AGO = re.compile(r"(\d{1,5}) days? ago")
# Athena's integer has 32 bits.
_LARGEST = 2**31 - 1


@dataclass(frozen=True)
class Parameter:
    """What a query has to be told; without a default it must be."""

    name: str
    kind: Kind
    default: str | None
    what: str

    @property
    def flag(self) -> str:
        return f"--{self.name}"

    @property
    def is_switch(self) -> bool:
        """Whether the flag alone says it, without a value."""
        return self.kind == "boolean"

    def __str__(self) -> str:
        """As a person writes it; in brackets what may be left out."""
        if self.is_switch:
            return f"[{self.flag}]"
        if self.default is None:
            return f"{self.flag} {self.kind.upper()}"
        return f"[{self.flag} {self.default!r}]" if " " in self.default else f"[{self.flag} {self.default}]"


@dataclass(frozen=True)
class NamedQuery:
    """One file: what it answers, its parameters in the order of their `?`, what no row means, and its SQL, whole."""

    name: str
    answers: str
    parameters: tuple[Parameter, ...]
    none: str
    sql: str

    def values(self, given: Mapping[str, str]) -> list[Value]:
        """The parameters' values in the order of their `?`, from what a person wrote for them.

        A date is YYYY-MM-DD or a number of days ago (UTC).
        Raises InvalidSetting for a parameter that the query does not have, that is missing, or not of its type.
        """
        for name in given.keys() - {parameter.name for parameter in self.parameters}:
            known = " and ".join(parameter.flag for parameter in self.parameters) or "none"
            raise InvalidSetting(f"{self.name} has no parameter --{name}; it has {known}.")
        return [self._value(parameter, given.get(parameter.name, parameter.default)) for parameter in self.parameters]

    def _value(self, parameter: Parameter, text: str | None) -> Value:
        if text is None:
            raise InvalidSetting(f"{self.name} needs {parameter.flag}: {parameter.what}.")
        try:
            return _PARSED[parameter.kind](text)
        except ValueError as error:
            raise InvalidSetting(f"{parameter.flag} must be {error}, not {text!r}.") from error


@cache
def named_queries() -> tuple[NamedQuery, ...]:
    """All of them, by name."""
    folder = files("ops.query") / "sql"
    found = sorted(file.name.removesuffix(".sql") for file in folder.iterdir() if file.name.endswith(".sql"))
    return tuple(read_query(name, (folder / f"{name}.sql").read_text("utf-8")) for name in found)


def named_query(name: str) -> NamedQuery:
    """The query of a name. Raises InvalidSetting, with the names that are most like it, when there is none."""
    known = {query.name: query for query in named_queries()}
    if name not in known:
        alike = get_close_matches(name.lower(), known, n=2)
        hint = f"did you mean {' or '.join(alike)}?" if alike else f"there are {', '.join(known)}."
        raise InvalidSetting(f"No query is named {name}, and it is no SQL; {hint}")
    return known[name]


def read_query(name: str, text: str) -> NamedQuery:
    """A query from the text of its file. Raises InvalidSetting when the header is not as it must be."""
    comments = takewhile(lambda line: line.startswith("-- "), text.splitlines())
    header = [line.removeprefix("-- ") for line in comments]
    parameters, none = [], None
    for line in header[1:]:
        match = _PARAMETER.fullmatch(line)
        if match:
            parameters.append(Parameter(match["name"], cast(Kind, match["kind"]), match["default"], match["what"]))
        elif line.startswith(_NONE):
            none = line.removeprefix(_NONE)
        else:
            raise InvalidSetting(f"The header of {name}.sql has a line that is neither parameter nor none: {line}")
    if none is None:
        raise InvalidSetting(
            f"The header of {name}.sql must say what it answers, and after `-- none: ` what no row means."
        )
    return NamedQuery(name, header[0], tuple(parameters), none, text)


def _varchar(text: str) -> str:
    if not text:
        raise ValueError("some text")
    return to_nfc(text)


def _integer(text: str) -> int:
    if not (re.fullmatch(r"[0-9]{1,10}", text) and 1 <= int(text) <= _LARGEST):
        raise ValueError(f"a whole number from 1 to {_LARGEST}")
    return int(text)


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("true or false")
    return text == "true"


def _double(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,10}(\.[0-9]{1,10})?", text):
        raise ValueError("a number like 0.99")
    return float(text)


def _date(text: str) -> date:
    if ago := _DAYS_AGO.fullmatch(text):
        return datetime.now(UTC).date() - timedelta(days=int(ago[1]))
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError as error:
        raise ValueError("a day like 2026-10-31 or '7 days ago'") from error


_PARSED: dict[Kind, Callable[[str], Value]] = {
    "varchar": _varchar,
    "integer": _integer,
    "double": _double,
    "date": _date,
    "boolean": _boolean,
}
