"""The command that shows how a home stands."""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from features.errors import InvalidSetting
from ops.cli.command import READING, Flags, duration_of, takes_settings
from ops.cli.console import console
from ops.wording import duration, escape_controls, quantity, size

if TYPE_CHECKING:
    from ops.status.health import Health
    from ops.status.status import ModelStatus, Status
    from store.tables.photo_counts import PhotosOfNetwork

_TOP_REASONS = 3
_ON_THE_CLOCK = ("plan", "work", "commit")


@takes_settings(*READING, "landing", "queue", "unknown_novelty")
def status(
    flags: Flags,
    verify: Annotated[bool, typer.Option("--verify", help="Check every planned object against the tables.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object, with --watch one a line.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until Ctrl-C.")] = False,
    every: Annotated[
        str, typer.Option("--every", metavar="DURATION", help="With --watch: how long to wait in between.")
    ] = "5s",
    count: Annotated[
        bool, typer.Option("--count", help="List the landing, instead of asking the running stream what waits.")
    ] = False,
) -> None:
    """Show whether photos flow: the stream, what waits, today's photos, the PCA, the tables. Exit 1 if not healthy."""
    from pydantic import TypeAdapter

    from ops.status.health import Finding, assess_health
    from ops.status.status import Status, read_status
    from store.tables.handles import OpenTables

    settings = flags.open_to_read()
    interval_s = _interval_s(every) if watch else None
    places = settings.places()
    tables = OpenTables(places)
    with _screen(watch and not as_json) as redraw:
        while True:
            found = read_status(places, verify, settings.queue, count, tables, settings.unknown_novelty)
            health = assess_health(found, settings.min_rows)
            if as_json:
                told = {"healthy": health.healthy, "verdict": health.verdict}
                told["findings"] = TypeAdapter(tuple[Finding, ...]).dump_python(health.findings, mode="json")
                print(json.dumps(told | TypeAdapter(Status).dump_python(found, mode="json")), flush=True)
            elif redraw is not None:
                redraw(_picture(found, health))
            elif watch:
                print(f"{found.looked_at:%Y-%m-%dT%H:%M:%SZ}  {health.verdict}", flush=True)
            else:
                console.print(_picture(found, health))
            if interval_s is None:
                break
            time.sleep(interval_s)
    if not health.healthy:
        raise typer.Exit(1)


def _interval_s(every: str) -> float:
    interval_s = duration_of("--every", every).total_seconds()
    if not interval_s:
        raise InvalidSetting("--every: write how long to wait between two looks, like 5s.")
    return interval_s


@contextmanager
def _screen(is_live: bool) -> Iterator[Callable[[RenderableType], None] | None]:
    """What draws a picture in place of the one before, on a terminal; None elsewhere."""
    if not (is_live and console.is_terminal):
        yield None
        return
    from rich.live import Live

    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        yield lambda picture: live.update(picture, refresh=True)


_PASSED_OVER = {
    "hidden": "hidden (names that begin with . or _)",
    "unfinished": "unfinished (names that end in .part, .tmp and the like)",
    "system": "of file managers",
    "link": "links that are not followed",
    "home": "folders that are homes",
    "unreadable": "that cannot be looked at",
}


def _picture(found: "Status", health: "Health") -> RenderableType:
    colour = "green" if health.healthy else "red"
    lines: list[RenderableType] = [Text(health.verdict, style=f"bold {colour}")]
    others = [finding for finding in health.findings if finding.sentence not in health.verdict]
    for finding in others:
        wrong = finding.weight == "wrong"
        sentence = f"{finding.sentence[0].upper()}{finding.sentence[1:]}"
        lines.append(Text.assemble(("Also: " if wrong else "Advice: ", "red" if wrong else "yellow"), sentence))
    if found.broken is not None:
        lines += [Text.assemble(("broken: ", "bold red"), sentence) for sentence in found.broken]
        if not found.broken:
            projected = ", every row its projection" if found.pca.serving is not None else ""
            lines.append(Text(f"Verified: every planned object has exactly one row{projected}.", style="green"))
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, what in _facts(found):
        facts.add_row(name, what)
    tables = Table(header_style="bold", box=None, padding=(0, 2, 0, 0))
    for name in ("table", "rows", "size", "files", "small", "last batch"):
        tables.add_column(name, justify="left" if name == "table" else "right")
    for table in found.tables:
        numbers = (f"{table.rows:,}", size(table.bytes), f"{table.files:,}", f"{table.small_files:,}")
        tables.add_row(table.name, *numbers, f"{table.last_batch}")
    panel = Panel(
        Group(facts, Text(""), tables),
        title=f"[bold]{escape(found.home)}[/]",
        title_align="left",
        subtitle=f"[dim]{found.looked_at:%Y-%m-%d %H:%M:%S} UTC[/]",
        subtitle_align="right",
        border_style=colour,
        expand=False,
    )
    return Group(*lines, panel)


def _facts(found: "Status") -> Iterator[tuple[str, str]]:
    def ago(at: datetime) -> str:
        return duration(found.looked_at - at)

    yield "stream", _stream_sentence(found, ago)
    yield "last batch", _last_batch_sentence(found, ago)
    if found.last_batch is not None and (stages_s := found.last_batch.stages_s):
        clock = ", ".join(f"{stage} {stages_s[stage]:.2f} s" for stage in _ON_THE_CLOCK if stage in stages_s)
        tasks = ", ".join(
            f"{stage} {seconds:.2f} s" for stage, seconds in stages_s.items() if stage not in _ON_THE_CLOCK
        )
        yield "stages", "\n".join(filter(None, (clock, tasks and f"in its tasks: {tasks}")))
    yield "backlog", _backlog_sentence(found, ago)
    if found.unfinished_batches:
        yield "in flight", f"planned and not committed: {', '.join(map(str, found.unfinished_batches))}"
    pace = found.pace.photos_per_s
    now = "" if pace is None else f"{pace:,.1f} a second over {duration(timedelta(seconds=found.pace.window_s))}; "
    yield "photos", f"{now}{found.today.photos:,} today"
    yield "rejects", _rejects_sentence(found)
    if found.queue is not None:
        yield "queue", _queue_sentence(found)
    if found.passed_over:
        yield "passed over", _passed_over_sentence(found)
    yield "featurizer", f"{found.featurizer}, from {found.weights}" if found.featurizer else "none yet"
    if found.networks:
        yield "networks", "\n".join(_network_sentence(found, network) for network in found.networks)
    yield "answers", "\n".join(filter(None, (_answers_sentence(found), _answers_behind_sentence(found))))
    yield "unknown", _unknown_sentence(found)
    yield "PCA", "\n".join(_model_sentence(found, model, ago) for model in found.models) or "no version yet"


def _stream_sentence(found: "Status", ago: Callable[[datetime], str]) -> str:
    stream = found.stream
    if stream is None:
        return "none has run yet"
    started, last_sign = f"{stream.started_at:%Y-%m-%d %H:%M:%S} UTC", f"{stream.last_sign_at:%Y-%m-%d %H:%M:%S} UTC"
    if stream.state == "running":
        return f"running since {started} on {stream.holder}; last sign {ago(stream.last_sign_at)} ago"
    if stream.state == "stopped":
        return f"stopped at {last_sign}, {ago(stream.last_sign_at)} ago"
    return f"silent since {last_sign}, for {ago(stream.last_sign_at)}; it ran on {stream.holder}"


def _last_batch_sentence(found: "Status", ago: Callable[[datetime], str]) -> str:
    last = found.last_batch
    if last is None:
        return "none yet"
    if last.finished_at is None:
        return f"{last.batch}, more than a day ago"
    return f"{last.batch}, {ago(last.finished_at)} ago: photos {last.photos:,}, rejects {last.rejects:,}"


def _backlog_sentence(found: "Status", ago: Callable[[datetime], str]) -> str:
    backlog, pace = found.backlog, found.pace.photos_per_s
    if not backlog.files or backlog.oldest_arrived_at is None:
        return "nothing waits"
    more = " or more" if backlog.at_least else ""
    waits = f"{quantity(backlog.files, 'file')}{more}, {size(backlog.bytes)}, oldest {ago(backlog.oldest_arrived_at)}"
    return f"{waits}; {duration(timedelta(seconds=math.ceil(backlog.files / pace)))} at this pace" if pace else waits


def _rejects_sentence(found: "Status") -> str:
    today = found.today
    if not today.rejects:
        return "none today"
    share = today.rejects / (today.photos + today.rejects)
    top = ", ".join(f"{reason} {count:,}" for reason, count in list(today.reasons.items())[:_TOP_REASONS])
    return f"{today.rejects:,} today ({share:.1%}): {top}"


def _queue_sentence(found: "Status") -> str:
    queue = found.queue
    if queue is None or queue.visible is None:
        return "not seen"
    parts = [f"{queue.visible:,} messages", f"{queue.in_flight:,} in flight", f"{queue.delayed:,} delayed"]
    parts += [f"{queue.held:,} in the stream's hands"] if queue.held is not None else []
    parts += [f"{queue.unknown:,} of unknown shape"] if queue.unknown else []
    parts += ["no dead-letter queue" if queue.dead_letters is None else f"{queue.dead_letters:,} dead letters"]
    return ", ".join(parts)


def _passed_over_sentence(found: "Status") -> str:
    examples = found.passed_over_examples
    parts = [
        f"{count:,} {_PASSED_OVER.get(kind, kind)}"
        + (f" (like {escape_controls(examples[kind])})" if kind in examples else "")
        for kind, count in found.passed_over.items()
    ]
    return "; ".join(parts) + ("" if examples else "; fruits status --count names examples")


def _answers_sentence(found: "Status") -> str:
    right = f"{found.accuracy} right since {found.answers_since}"
    return right if found.accuracy.of else "none to photos with a label in the last 28 days"


def _answers_behind_sentence(found: "Status") -> str:
    behind = found.answers_behind
    if behind is None:
        return ""
    return f"the app's lack those of {quantity(behind, 'batch', 'batches')}" if behind else "the app has all of them"


def _network_sentence(found: "Status", network: "PhotosOfNetwork") -> str:
    role = "is served; " if network.featurizer == found.served_featurizer else ""
    if not role and network.featurizer == found.featurizer:
        role = "is the newest; "
    rows = f"{network.featurizer} {role}it has rows of {network.with_rows:,} of {network.photos:,} photos"
    return f"{rows}; run `fruits refeaturize`" if network.lacking else rows


def _unknown_sentence(found: "Status") -> str:
    unknown = found.unknown
    if unknown.share is None:
        return "no photo was named today"
    named = f"{unknown.number:,} of {unknown.of:,} named today ({unknown.share:.1%})"
    return f"{named}, of a novelty above {found.unknown_above}"


def _model_sentence(found: "Status", model: "ModelStatus", ago: Callable[[datetime], str]) -> str:
    role = "is served" if model.version == found.pca.serving else "comes next"
    drift = "" if model.drift_rad is None else f", {math.degrees(model.drift_rad):.1f}° from version {model.parent}"
    fitted = f"fitted {ago(model.fitted_at)} ago on {quantity(model.rows, 'row')}, {model.rows_since:,} since"
    lacking = f"; {found.pca.lacking_batches} batches lack version {model.version}" if role == "comes next" else ""
    confidences = "" if model.calibrated or not model.labels else ", its confidences are uncalibrated"
    names = f"names {quantity(model.labels, 'label')}{confidences}" if model.labels else "names no fruit"
    return (
        f"version {model.version} {role}: {model.components} components, {model.explained:.1%} of the variance"
        f"{drift}; {names}; {fitted}{lacking}"
    )
