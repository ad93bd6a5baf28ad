"""The names of a home's landings: the first URI of each, which stays its name when the home moves or is copied.

`state/home.json` holds them, and so does every commit to the tables, for a home that lost its `state/`.
"""

import json
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pyarrow.compute as pc

from features.errors import FruitsError, InvalidSetting
from store.home import Home, home_around
from store.objects.document import Document
from store.objects.faults import retry_storage
from store.objects.location import StorageLocation
from store.objects.operations import download, keys_below
from store.state.heartbeat import read_heartbeat
from store.state.plans import read_plans
from store.tables.handles import LANDINGS_METADATA, open_table
from store.tables.schemas import FEATURE_ROWS, REJECT_ROWS

HOME_KEY = "home.json"

_HISTORY_SEARCHED = 1000


@dataclass(frozen=True)
class NamedLanding:
    """A name, and where its landing lies: a path below the home, or a URI.

    One location can have several names; the first one counts.
    """

    name: str
    location: str


@dataclass(frozen=True)
class HomeRecord:
    """What a home knows of itself: since when it does, and its landings."""

    made_at: datetime
    landings: tuple[NamedLanding, ...] = ()


_RECORD = Document(HomeRecord, HOME_KEY, remedy="restore it or delete it")


class UnknownLanding(FruitsError):
    """Rows lie below a landing that the home does not know, so its photos would be taken for new ones."""


def with_names(home: Home) -> Home:
    """The home with its landings' names, as far as they are known; nothing is written.

    Raises InvalidSetting when the landing or the archive lies in another home, StateDamaged, StorageRefused,
    StorageUnavailable.
    """
    _check_no_other_home(home)
    record = read_record(home)
    return _with_landings(home, record.landings if record else _infer_landings(home))


def remember_landing(home: Home, moved_from: str | None = None, former: Sequence[str] = ()) -> Home:
    """Write down the name of the home's landing, and return the home with it. Replay changes nothing.

    `moved_from` is the name of a landing that was moved here, `former` are URIs of other landings that rows are of.
    Raises UnknownLanding when rows lie below no landing that is known, InvalidSetting when a name is taken; and as
    `with_names`.
    """
    _check_no_other_home(home)
    record = read_record(home)
    known = record.landings if record else _infer_landings(home)
    landings = _add_own_landing(home, known, moved_from and StorageLocation.at(moved_from).uri)
    names = {landing.name for landing in landings}
    landings += tuple(NamedLanding(uri, uri) for uri in _uris(former) if uri not in names)
    named = _with_landings(home, landings)
    if record is None:
        _check_rows(named)
    now = datetime.now(UTC)
    _RECORD.change(home.state, lambda stored: HomeRecord(stored.made_at if stored else now, landings))
    return named


def read_record(home: Home) -> HomeRecord | None:
    """What `state/home.json` says, or None before the first stream. Raises StateDamaged, StorageUnavailable."""
    return _RECORD.read(home.state)


def _with_landings(home: Home, known: Sequence[NamedLanding]) -> Home:
    location = _own_location(home, known)
    own = next((landing.name for landing in known if landing.location == location), home.landing.uri)
    others = (replace(_location_of(home, landing), name=landing.name) for landing in known if landing.name != own)
    return replace(home, landing=replace(home.landing, name=own), other_landings=tuple(others))


def _location_of(home: Home, landing: NamedLanding) -> StorageLocation:
    return home.location_at(landing.location) if "://" in landing.location else home.root.child(landing.location)


def _own_location(home: Home, known: Iterable[NamedLanding]) -> str:
    location = home.path_or_uri(home.landing)
    if "://" in location and home.landing.is_local:
        # The same directory, by way of a link or a second mount.
        for landing in known:
            if "://" in landing.location and _is_same_directory(home.location_at(landing.location), home.landing):
                return landing.location
    return location


def _is_same_directory(one: StorageLocation, other: StorageLocation) -> bool:
    with suppress(OSError):
        return one.is_local and other.is_local and one.directory.samefile(other.directory)
    return False


def _add_own_landing(home: Home, known: Sequence[NamedLanding], moved_from: str | None) -> tuple[NamedLanding, ...]:
    location = _own_location(home, known)
    own = next((landing for landing in known if landing.location == location), None)
    if moved_from is None:
        if own is not None:
            return tuple(known)
        taken = next((landing for landing in known if landing.name == home.landing.uri), None)
        if taken is not None:
            raise InvalidSetting(
                f"{home.landing.uri} is the name of the landing that lies at {_location_of(home, taken).uri} now; "
                "its photos and those of another landing of this name could not be told apart. Choose another one."
            )
        return (*known, NamedLanding(home.landing.uri, location))
    if own is not None and own.name != moved_from and any(landing.name != moved_from for landing in known):
        raise InvalidSetting(
            f"--moved-from {moved_from}: the landing {home.landing.uri} has the name {own.name} already; "
            "leave --moved-from out."
        )
    return (NamedLanding(moved_from, location), *(landing for landing in known if landing.name != moved_from))


def _uris(locations: Iterable[str]) -> list[str]:
    return [StorageLocation.at(location).uri for location in locations]


def _infer_landings(home: Home) -> tuple[NamedLanding, ...]:
    """The landings by the tables' commits; for a home made before names were kept, by its state."""
    if landings := _landings_in_commits(home):
        return landings
    names = list(dict.fromkeys(_names_in_state(home)))
    if not names:
        return ()
    location = home.path_or_uri(home.landing)
    own = [name for name in names if name == home.landing.uri]
    own += [name for name in names if name not in own and _is_former_location(home, location, name)]
    others = (name for name in names if name not in own)
    return (*(NamedLanding(name, location) for name in own), *(NamedLanding(name, name) for name in others))


def _landings_in_commits(home: Home) -> tuple[NamedLanding, ...]:
    for table in (FEATURE_ROWS, REJECT_ROWS):
        handle = open_table(home, table)
        history = retry_storage(f"read {table.name}", partial(handle.history, _HISTORY_SEARCHED)) if handle else []
        landings = next((entry[LANDINGS_METADATA] for entry in history if LANDINGS_METADATA in entry), None)
        if landings is not None:
            return tuple(NamedLanding(name, location) for name, location in json.loads(landings))
    return ()


def _names_in_state(home: Home) -> Iterator[str]:
    """The landings of plans, of the last stream and of the newest snapshot, the latest first."""
    yield from reversed([plan.landing for plan in read_plans(home)])
    heartbeat = read_heartbeat(home)
    if heartbeat is not None and heartbeat.vitals is not None:
        yield heartbeat.vitals.settings.landing
    yield from _names_in_snapshot(home)


def _names_in_snapshot(home: Home) -> Iterator[str]:
    newest = max(keys_below(home.snapshots), default=None)
    if newest is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "snapshot.sqlite")
        # A damaged snapshot counts as never written; what the tables hold is checked besides.
        if download(home.snapshots, newest, file):
            with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(file)) as connection:
                yield from (row[0] for row in connection.execute("SELECT value FROM fact WHERE name = 'landing'"))


def _is_former_location(home: Home, location: str, name: str) -> bool:
    """Whether a name is of the home's own landing, from when the home lay elsewhere."""
    if "://" in location or not name.endswith(f"/{location}"):
        return False
    landing, root = home.location_at(name), home.location_at(name.removesuffix(f"/{location}"))
    if root.is_local != home.root.is_local or f"{home.root.uri}/".startswith(f"{root.uri}/"):
        # A home never lay around itself: that is a landing beside it.
        return False
    if not landing.is_local:
        is_empty = next(keys_below(landing), None) is None
        return is_empty or next(keys_below(root.child("models/featurizer")), None) is not None
    if not landing.directory.exists() or home_around(landing, home.root) is not None:
        return True
    return _is_same_directory(landing, home.landing)


def _check_no_other_home(home: Home) -> None:
    for what, location in (("landing", home.landing), ("archive", home.archive)):
        if other := home_around(location, home.root):
            raise InvalidSetting(
                f"The {what} {location.uri} lies in another home, {other}; one home never touches another's photos. "
                f"Choose a directory outside it."
            )


def _check_rows(home: Home) -> None:
    known = pc.scalar(False)
    for landing in home.landings:
        known = known | pc.starts_with(pc.field("source"), f"{landing.source}/")
    for table in (FEATURE_ROWS, REJECT_ROWS):
        handle = open_table(home, table)
        if handle is None:
            continue
        scanner = handle.to_pyarrow_dataset().scanner(["source"], filter=~known)
        sources = retry_storage(f"read {table.name}", scanner.to_table)["source"].to_pylist()
        if sources:
            raise UnknownLanding(
                f"{len(sources):,} rows are of objects below {_landing_of(home, sources)}, no landing that this home "
                f"knows. Were they moved to {home.landing.uri}? Then start once with --moved-from and the URI of the "
                "landing as it was. Is it another landing? Then with --former-landing and its URI. Nothing was planned."
            )


def _landing_of(home: Home, sources: Sequence[str]) -> str:
    # It ends at a landing's usual name where there is one: folders below it can name people.
    folder, usual = f"{common_folder(sources)}/", f"/{home.landing.uri.rpartition('/')[2]}/"
    before, found, _ = folder.partition(usual)
    return f"{before}{found}".rstrip("/") if found else folder.rstrip("/")


def common_folder(sources: Sequence[str]) -> str:
    """The folder that all of some sources lie below."""
    scheme, _, _ = sources[0].partition("://")
    return f"{scheme}://{os.path.commonpath([source.partition('://')[2].rpartition('/')[0] for source in sources])}"
