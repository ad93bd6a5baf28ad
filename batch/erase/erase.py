"""Forget a person, an object or a photo everywhere in a home (GDPR, article 17)."""

import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from batch.erase.objects import count_objects, erase_archived, erase_landed, erase_old_versions, find_photo
from batch.erase.rows import count_rows, erase_rows, strange_sources
from batch.erase.selection import Selection, landings_of
from batch.refit.stored_moments import all_moments, forget_moments
from features.errors import InvalidSetting
from store.errors import HomeInUse
from store.home import Home
from store.objects.document import Document
from store.objects.landing import LandedObject
from store.objects.operations import delete_all, keys_below
from store.objects.versions import list_versions
from store.state.erasures import (
    Erasure,
    Kind,
    add_erased_versions,
    begin_erasure,
    erasure_filter,
    finish_erasure,
    settle_erased_rows,
)
from store.state.heartbeat import is_alive, read_heartbeat
from store.state.landing_names import common_folder
from store.state.lease import hold_lease
from store.state.plans import Plan, delete_from_plan, delete_from_result, planned_batches, read_plan, read_plans
from store.state.retries import delete_from_requests
from store.tables.commits import append_once
from store.tables.handles import open_tables
from store.tables.projections import SWITCHING
from store.tables.schemas import PROJECTION_ROWS, TABLES
from store.tables.unsettled import unsettled_batches

# How long a stream that lives may take for a batch before it counts as stuck.
PATIENCE_S = 300.0
LOOK_S = 1.0
# A copy to the archive that had begun when its photo was deleted from the landing has ended by then.
COPY_S = 60.0
MOST_LOOKS = 20


@dataclass(frozen=True)
class Asked:
    """Who or what is to be forgotten; `key_patterns` are those by which a key may tell its subject.

    `former_landings` are URIs of places where photos landed that nothing else tells of any more.
    """

    kind: Kind
    value: str
    key_patterns: tuple[str, ...] = ()
    former_landings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Certificate:
    """What was removed, in numbers and times; it names nobody. `finished_at` is None while it is not done.

    `removed` counts rows by table, files by table, and objects by place; work that a kill cut off in between may be
    missing from it. `looks` is how often everything was searched; the last look found nothing.
    """

    id: str
    kind: Kind
    asked_at: datetime
    finished_at: datetime | None = None
    looks: int = 0
    removed: dict[str, int] = field(default_factory=dict)


_CERTIFICATE = Document(Certificate, "erasures/{}.json", remedy="restore it or delete it")


@dataclass(frozen=True)
class Watcher:
    """Who follows the work: told in words of waits, and of what each look removed."""

    say: Callable[[str], None]
    on_look: Callable[[int, dict[str, int]], None]


def erase(home: Home, asked: Asked, watcher: Watcher, copy_s: float = COPY_S) -> Certificate:
    """Remove what is asked for and arrived before this moment from the tables, the objects and all that tells of it.

    From its beginning the stream plans nothing of it; batches in flight are waited for, and photos that arrive later
    stay. Everything is searched again until a search finds nothing. Killed at any point, the same request goes on
    where it was, with its own time. Files that hold a row are deleted at once, so a query that began before may fail.
    Raises HomeInUse when other work is under way, or a batch is planned that no stream finishes; StateDamaged,
    StorageRefused, StorageUnavailable.
    """
    asked = _by_source(home, asked)
    with hold_lease(home, "fruits erase", watcher.say) as check:
        settle_erased_rows(home, open_tables(home))
        _refuse_unknown_landings(home, asked)
        erasure = begin_erasure(home, asked.kind, asked.value, asked.key_patterns, datetime.now(UTC))
        certificate = _standing(home, erasure)
        if open_tables(home)[PROJECTION_ROWS] is not None:
            # What a paused reprojection read before is refused from here on.
            append_once(home, PROJECTION_ROWS, SWITCHING, (), {}, lambda _: False)
        _wait_for_batches(home, watcher, check, lambda _: True)
        selection = _selection(home, asked, erasure)
        # Before their rows go: a request that is cut off then still knows which objects they were of.
        strange_sources(home, selection)
        add_erased_versions(home, erasure.id, selection.versions)
        for _ in range(MOST_LOOKS):
            removed = _look(home, erasure, selection, watcher, check)
            certificate = _counted(home, certificate, removed)
            watcher.on_look(certificate.looks, dict(removed))
            if not removed:
                break
            if removed["landing"] and not home.archive.is_local and _is_running(home):
                watcher.say(f"Waiting {copy_s:.0f} s for copies to the archive that had begun …")
                _wait(copy_s, check)
        else:
            raise HomeInUse(
                f"Each of {MOST_LOOKS} searches found something new; look who brings it, and run this again."
            )
        _remove_copies(home)
        finished_at = datetime.now(UTC)
        certificate = replace(certificate, finished_at=finished_at)
        _CERTIFICATE.write(home.reports, certificate, certificate.id)
        finish_erasure(home, erasure.id, finished_at)
    return certificate


def would_erase(home: Home, asked: Asked) -> dict[str, int]:
    """How many rows of each table, and how many objects of the landing and the archive, a request covers now."""
    asked = _by_source(home, asked)
    selection = _selection(home, asked, Erasure("", asked.kind, (), datetime.now(UTC), asked.key_patterns))
    counts = {table.name: count_rows(home, selection, table) for table in TABLES}
    if asked.kind == "image":
        find_photo(home, selection)
    return {**counts, **count_objects(home, selection)}


def _by_source(home: Home, asked: Asked) -> Asked:
    # By today's URI of an object that the tables may call by another.
    return replace(asked, value=home.source_at(asked.value)) if asked.kind == "source" else asked


def is_empty(home: Home) -> bool:
    """Whether nothing is below a home: no table, no state, no photo. Raises StorageRefused, StorageUnavailable."""
    below = (place for place in (home.landing, home.archive) if place.uri.startswith(f"{home.root.uri}/"))
    return (
        all(handle is None for handle in open_tables(home).handles.values())
        and next(keys_below(home.state), None) is None
        and not any(next(list_versions(place), None) for place in below)
    )


def patterns_of(home: Home, own: str) -> tuple[str, ...]:
    """The key patterns that tell a subject: our own, and those of the plans that stand. Raises StorageUnavailable."""
    patterns = {own, *(plan.key_pattern for plan in read_plans(home))}
    return tuple(sorted(pattern for pattern in patterns if "subject" in re.compile(pattern).groupindex))


def certificate_key(id: str) -> str:
    """Where a certificate stands below the reports."""
    return _CERTIFICATE.key(id)


def _refuse_unknown_landings(home: Home, asked: Asked) -> None:
    selection = _selection(home, asked, Erasure("", asked.kind, (), datetime.now(UTC), asked.key_patterns))
    strange = strange_sources(home, selection)
    if strange:
        raise InvalidSetting(
            f"{len(strange):,} rows are of objects below {common_folder(strange)}, which is no landing that is known, "
            "so their photos would stay; add --former-landing with the place where they landed. Nothing was erased."
        )


def _look(
    home: Home, erasure: Erasure, selection: Selection, watcher: Watcher, check: Callable[[], None]
) -> Counter[str]:
    removed: Counter[str] = Counter()
    kept: set[tuple[str, str]] = set()
    for table in TABLES:
        watcher.say(f"Searching {table.name} …")
        found = erase_rows(home, selection, table, check)
        kept |= found.kept
        removed += Counter({f"{table.name} rows": found.rows, f"{table.name} files": found.rewritten_files})
        removed += Counter({f"{table.name} files": found.unreferenced_files, f"{table.name} log": found.log_files})
    watcher.say("Searching the landing and the archive …")
    if selection.kind == "image":
        find_photo(home, selection)
        add_erased_versions(home, erasure.id, selection.versions)
    for landing in selection.landings:
        check()
        removed["landing"] += erase_landed(landing, selection)
    removed["archive"] += erase_archived(home, selection, kept)
    check()
    removed += _drop_from_plans(home, selection, watcher, check)
    removed["requests"] += delete_from_requests(home, selection.planned)
    removed["report pages"] += _delete_pages(home)
    return +removed


def _selection(home: Home, asked: Asked, erasure: Erasure) -> Selection:
    return Selection(
        asked.kind,
        asked.value,
        erasure.before,
        erasure.key_patterns or asked.key_patterns,
        landings_of(home, list(read_plans(home)), asked.former_landings),
        erasure_filter(home),
        avoid=home.own_locations,
    )


def _drop_from_plans(home: Home, selection: Selection, watcher: Watcher, check: Callable[[], None]) -> Counter[str]:
    def goes(plan: Plan, landed: LandedObject) -> bool:
        return selection.planned(home.landing_named(plan.landing), landed)

    removed: Counter[str] = Counter()
    late: set[int] = set()
    committed = open_tables(home).committed_to_all
    for batch in planned_batches(home):
        plan = read_plan(home, batch)
        keys = {landed.key for landed in plan.objects if goes(plan, landed)} if plan else set()
        if not keys:
            continue
        removed["plans"] += 1
        if batch <= committed:
            # The plan last: it tells a replay what to look for.
            delete_from_result(home, batch, keys)
            delete_from_plan(home, batch, goes, committed=True)
        else:
            # In flight: the stream drops them when it begins it, or its rows are found by the next look.
            late.add(batch)
    if late:
        _wait_for_batches(home, watcher, check, lambda batch: batch in late)
    return removed


def _wait_for_batches(home: Home, watcher: Watcher, check: Callable[[], None], which: Callable[[int], bool]) -> None:
    """Return when these of the batches that are planned now are committed to all tables."""
    waited_for = set(filter(which, unsettled_batches(home)))
    before: set[int] | None = None
    deadline_s = 0.0
    while waited_for := _not_committed(home, waited_for):
        if waited_for != before:
            # As long as the stream gets on, it is waited for.
            before, deadline_s = waited_for, time.monotonic() + PATIENCE_S
            watcher.say(f"Waiting for batch {min(waited_for)}, which is in flight …")
        if not _is_running(home) or time.monotonic() > deadline_s:
            raise HomeInUse(
                f"Batch {min(waited_for)} is planned and not committed; run `fruits stream --drain` to finish it, "
                "then run this again: it goes on where it was."
            )
        _wait(LOOK_S, check)


def _not_committed(home: Home, batches: set[int]) -> set[int]:
    committed = open_tables(home).committed_to_all
    return {batch for batch in batches if batch > committed}


def _wait(seconds: float, check: Callable[[], None]) -> None:
    gives_up_at_s = time.monotonic() + seconds
    while (left_s := gives_up_at_s - time.monotonic()) > 0:
        check()
        time.sleep(min(LOOK_S, left_s))


def _is_running(home: Home) -> bool:
    heartbeat = read_heartbeat(home)
    return heartbeat is not None and is_alive(heartbeat, datetime.now(UTC))


def _delete_pages(home: Home) -> int:
    """Pages of reports show keys and perhaps thumbnails; they are made anew by `fruits report`."""
    return delete_all(home.reports, [key for key in keys_below(home.reports) if key.endswith(".html")])


def _remove_copies(home: Home) -> None:
    """What a bucket keeps of objects that were replaced or deleted, wherever a row or a key can have stood."""
    places = (home.features, home.projections, home.rejects, home.state, home.reports, all_moments(home))
    for place in places:
        erase_old_versions(place)


def _standing(home: Home, erasure: Erasure) -> Certificate:
    standing = read_certificate(home, erasure.id)
    if standing is None:
        return Certificate(erasure.id, erasure.kind, erasure.before)
    # What the cut off one had stored of these days, nobody knows any more.
    forget_moments(home)
    return standing


def read_certificate(home: Home, id: str) -> Certificate | None:
    """A certificate, or None when there is none."""
    return _CERTIFICATE.read(home.reports, id)


def _counted(home: Home, certificate: Certificate, removed: Counter[str]) -> Certificate:
    total = dict(Counter(certificate.removed) + removed)
    counted = replace(certificate, looks=certificate.looks + 1, removed=total)
    _CERTIFICATE.write(home.reports, counted, counted.id)
    return counted
