"""Forget a person, an object or a photo everywhere in a home (GDPR, article 17)."""

import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from batch.erase.answers import erase_answers
from batch.erase.certificates import Certificate, counts_of, read_certificate, write_certificate
from batch.erase.labels import count_labels, erase_labels
from batch.erase.objects import count_objects, erase_archived, erase_landed, erase_old_versions, find_photo
from batch.erase.rows import count_rows, erase_rows, note_objects
from batch.erase.selection import Selection, landings_of
from batch.refit.stored_sums import forget_sums
from features.errors import InvalidSetting
from store.answers.progress import answered_through
from store.errors import HomeInUse
from store.home import Home
from store.objects.half_written import delete_half_written
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
from store.state.plans import Plan, delete_from_plan, delete_from_result, read_plans
from store.state.retries import delete_from_requests
from store.tables.commits import append_once
from store.tables.copies import COPYING
from store.tables.handles import open_table, open_tables, tables_of_batches, unsettled_batches
from store.tables.labels import LABELLING
from store.tables.projections import SWITCHING
from store.tables.schemas import COPY_ROWS, LABEL_ROWS, PROJECTION_ROWS

# A living stream that takes longer for a batch counts as stuck.
PATIENCE_S = 300.0
POLL_INTERVAL_S = 1.0
# A copy to the archive that had begun when its photo was deleted from the landing has ended by then.
COPY_S = 60.0
MOST_SEARCHES = 20


@dataclass(frozen=True)
class ErasureRequest:
    """Who or what is to be erased; `key_patterns` are those by which a key may name its subject.

    `former_landings` are URIs of places where photos landed and that no state of the home names any more.
    """

    kind: Kind
    value: str
    key_patterns: tuple[str, ...] = ()
    former_landings: tuple[str, ...] = ()


def erase(
    home: Home,
    request: ErasureRequest,
    say: Callable[[str], None],
    on_search: Callable[[int, dict[str, int]], None],
    copy_s: float = COPY_S,
) -> Certificate:
    """Erase what a request covers and arrived before this moment: rows, objects, and all that names them.

    The stream plans nothing of it from now on. Batches in flight are waited for; photos that arrive later stay. `say`
    gets waits in words, `on_search` what each search removed; everything is searched again until a search finds
    nothing. Killed at any point, the same request goes on where it was, with its own time. Files that hold a row are
    deleted at once, so a query that began before may fail. Raises HomeInUse when other work is under way, or a batch is
    planned that no stream finishes; StateDamaged, StorageRefused, StorageUnavailable.
    """
    request = _with_source(home, request)
    with hold_lease(home, "fruits erase", say) as check:
        settle_erased_rows(home, open_tables(home))
        if unknown := note_objects(home, _selection(home, request)):
            raise InvalidSetting(
                f"{len(unknown):,} rows are of objects below {common_folder(unknown)}, which is no landing that is "
                "known, so their photos would stay; add --former-landing with the place where they landed. Nothing was "
                "erased."
            )
        erasure = begin_erasure(home, request.kind, request.value, request.key_patterns, datetime.now(UTC))
        certificate = read_certificate(home, erasure.id)
        if certificate is None:
            certificate = Certificate(erasure.id, erasure.kind, erasure.before)
        else:
            # The request was cut off; which days' sums were stored before that, nobody knows.
            forget_sums(home)
        if open_tables(home)[PROJECTION_ROWS] is not None:
            # From here on, the table refuses what a paused reprojection read before.
            append_once(home, PROJECTION_ROWS, SWITCHING, (), {}, lambda _: False)
        if open_table(home, LABEL_ROWS) is not None:
            # The same for labels of images that were looked up before.
            append_once(home, LABEL_ROWS, LABELLING, (), {}, lambda _: False)
        if open_table(home, COPY_ROWS) is not None:
            # And for copies that a stream makes of photos that it took in before.
            append_once(home, COPY_ROWS, COPYING, (), {}, lambda _: False)
        _wait_for_batches(home, set(unsettled_batches(home)), say, check)
        _wait_for_answers(home, say, check)
        selection = _selection(home, request, erasure)
        # Before their rows go: a request that is cut off then still knows which objects they were of.
        note_objects(home, selection)
        add_erased_versions(home, erasure.id, selection.versions)
        for _ in range(MOST_SEARCHES):
            removed = _search_once(home, erasure, selection, say, check)
            total = dict(Counter(certificate.removed) + removed)
            certificate = replace(certificate, looks=certificate.looks + 1, removed=total)
            write_certificate(home, certificate)
            on_search(certificate.looks, dict(removed))
            if not removed:
                break
            if removed["landing"] and not home.archive.is_local and _is_running(home):
                say(f"Waiting {copy_s:.0f} s for copies to the archive that had begun …")
                _wait(copy_s, check)
        else:
            raise HomeInUse(
                f"Each of {MOST_SEARCHES} searches found something new; look who brings it, and run this again."
            )
        _wait_for_answers(home, say, check)
        for place in home.record_locations:
            erase_old_versions(place)
        finished_at = datetime.now(UTC)
        certificate = replace(certificate, finished_at=finished_at)
        write_certificate(home, certificate)
        finish_erasure(home, erasure.id, finished_at)
    return certificate


def count_erasable(home: Home, request: ErasureRequest) -> dict[str, int]:
    """How many rows of each table, and how many objects of the landing and the archive, a request covers now."""
    request = _with_source(home, request)
    selection = _selection(home, request)
    counts = {table.name: count_rows(home, selection, table) for table in tables_of_batches(home)}
    counts[LABEL_ROWS.name] = count_labels(home, selection)
    if request.kind == "image":
        find_photo(home, selection)
    return {**counts, **count_objects(home, selection)}


def is_empty(home: Home) -> bool:
    """Whether nothing is below a home: no table, no state, no photo. Raises StorageRefused, StorageUnavailable."""
    below = (place for place in (home.landing, home.archive) if place.uri.startswith(f"{home.root.uri}/"))
    return (
        all(handle is None for handle in open_tables(home).handles.values())
        and next(keys_below(home.state), None) is None
        and not any(next(list_versions(place), None) for place in below)
    )


def subject_patterns(home: Home, own: str) -> tuple[str, ...]:
    """The key patterns that name a subject: our own, and those of the stored plans. Raises StorageUnavailable."""
    patterns = {own, *(plan.key_pattern for plan in read_plans(home))}
    return tuple(sorted(pattern for pattern in patterns if "subject" in re.compile(pattern).groupindex))


def _with_source(home: Home, request: ErasureRequest) -> ErasureRequest:
    # The tables may call an object by another URI than today's.
    return replace(request, value=home.source_at(request.value)) if request.kind == "source" else request


def _search_once(
    home: Home, erasure: Erasure, selection: Selection, say: Callable[[str], None], check: Callable[[], None]
) -> Counter[str]:
    """Search everything once, and say how much of what was removed."""
    removed: Counter[str] = Counter()
    newer: set[tuple[str, str]] = set()
    # Before the answers: a folder that holds one does not go.
    for place in home.record_locations:
        removed["half-written files"] += delete_half_written(place, erasure.before)
    say("Searching the answers …")
    removed["answers"] += erase_answers(home, selection, check)
    # Labels before photos: by its photos' rows a replay finds the images whose labels are to go.
    for table in (LABEL_ROWS, *tables_of_batches(home)):
        say(f"Searching {table.name} …")
        erased = (
            erase_labels(home, selection, check) if table is LABEL_ROWS else erase_rows(home, selection, table, check)
        )
        newer |= erased.newer_versions
        removed += counts_of(table, erased)
    say("Searching the landing and the archive …")
    if selection.kind == "image":
        find_photo(home, selection)
        add_erased_versions(home, erasure.id, selection.versions)
    for landing in selection.landings:
        check()
        removed["landing"] += erase_landed(landing, selection)
    removed["archive"] += erase_archived(home, selection, newer)
    check()
    removed["plans"] += _drop_from_plans(home, selection, say, check)
    removed["requests"] += delete_from_requests(home, selection.covers_planned)
    # Pages of reports show keys and perhaps thumbnails; `fruits report` makes them anew.
    pages = [key for key in keys_below(home.reports) if key.endswith(".html")]
    removed["report pages"] += delete_all(home.reports, pages)
    return +removed


def _selection(home: Home, request: ErasureRequest, erasure: Erasure | None = None) -> Selection:
    return Selection(
        request.kind,
        request.value,
        erasure.before if erasure else datetime.now(UTC),
        (erasure.key_patterns if erasure else ()) or request.key_patterns,
        landings_of(home, list(read_plans(home)), request.former_landings),
        erasure_filter(home),
        avoid=home.own_locations,
    )


def _drop_from_plans(home: Home, selection: Selection, say: Callable[[str], None], check: Callable[[], None]) -> int:
    """Take covered objects out of plans and results, or wait for the batch; says how many plans had some."""

    def is_covered(plan: Plan, landed: LandedObject) -> bool:
        return selection.covers_planned(home.landing_named(plan.landing), landed)

    plans = 0
    in_flight: set[int] = set()
    committed = open_tables(home).committed_to_all
    for plan in read_plans(home):
        keys = {landed.key for landed in plan.objects if is_covered(plan, landed)}
        if not keys:
            continue
        plans += 1
        if plan.batch <= committed:
            # The plan last: it tells a replay what to look for.
            delete_from_result(home, plan.batch, keys)
            delete_from_plan(home, plan.batch, is_covered, committed=True)
        else:
            # The stream drops them when it begins the batch, or the next search finds its rows.
            in_flight.add(plan.batch)
    _wait_for_batches(home, in_flight, say, check)
    if in_flight:
        _wait_for_answers(home, say, check)
    return plans


def _wait_for_batches(home: Home, batches: set[int], say: Callable[[str], None], check: Callable[[], None]) -> None:
    """Return when all tables hold these batches."""
    waited_for: set[int] = set()
    deadline_s = 0.0
    while batches and (missing := {batch for batch in batches if batch > open_tables(home).committed_to_all}):
        if missing != waited_for:
            # The wait begins again whenever the stream has committed a batch.
            waited_for, deadline_s = missing, time.monotonic() + PATIENCE_S
            say(f"Waiting for batch {min(missing)}, which is in flight …")
        if not _is_running(home) or time.monotonic() > deadline_s:
            raise HomeInUse(
                f"Batch {min(missing)} is planned and not committed; run `fruits stream --drain` to finish it, "
                "then run this again: it goes on where it was."
            )
        _wait(POLL_INTERVAL_S, check)


def _wait_for_answers(home: Home, say: Callable[[str], None], check: Callable[[], None]) -> None:
    """Return when a stream that lives has written the answers to what was committed by now.

    Without one there is nothing to wait for: the next stream looks at this request before it writes any.
    """
    committed, waited_for, deadline_s = open_tables(home).committed_to_all, -1, 0.0
    while _is_running(home) and (through := answered_through(home)) is not None and through < committed:
        if through != waited_for:
            # The wait begins again whenever the stream has answered a batch.
            waited_for, deadline_s = through, time.monotonic() + PATIENCE_S
            say(f"Waiting for the answers of batch {through + 1} …")
        if time.monotonic() > deadline_s:
            raise HomeInUse(
                f"The answers of batch {through + 1} are not written; see what the stream says, then run this again: "
                "it goes on where it was."
            )
        _wait(POLL_INTERVAL_S, check)


def _wait(seconds: float, check: Callable[[], None]) -> None:
    ends_at_s = time.monotonic() + seconds
    while (left_s := ends_at_s - time.monotonic()) > 0:
        check()
        time.sleep(min(POLL_INTERVAL_S, left_s))


def _is_running(home: Home) -> bool:
    heartbeat = read_heartbeat(home)
    return heartbeat is not None and is_alive(heartbeat, datetime.now(UTC))
