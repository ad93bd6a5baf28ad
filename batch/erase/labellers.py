"""Forget who labelled photos; what was said stays."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from batch.erase.certificates import Certificate, counts_of, read_certificate, write_certificate
from batch.erase.labels import count_in_labels, take_from_labels
from batch.erase.objects import erase_old_versions
from store.home import Home
from store.objects.half_written import delete_half_written
from store.state.erasures import begin_erasure, finish_erasure
from store.state.labellers import known_pseudonym
from store.state.lease import hold_lease
from store.tables.commits import append_once
from store.tables.handles import open_table
from store.tables.labels import LABELLING
from store.tables.schemas import LABEL_ROWS


def forget_labeller(
    home: Home, name: str, say: Callable[[str], None], on_search: Callable[[int, dict[str, int]], None]
) -> Certificate:
    """Take a person's pseudonym from all labels and from every file below the table; the labels stay as they are.

    It is as if the person had said them without a name; what the person says later has the pseudonym again. Nobody can
    label photos meanwhile. Killed at any point, the same request goes on where it was. Raises HomeInUse when other work
    is under way, StateDamaged, StorageRefused, StorageUnavailable.
    """
    name = name.strip()
    with hold_lease(home, "fruits erase", say) as check:
        erasure = begin_erasure(home, "labeller", name, (), datetime.now(UTC))
        certificate = read_certificate(home, erasure.id) or Certificate(erasure.id, erasure.kind, erasure.before)
        if open_table(home, LABEL_ROWS) is not None:
            # From here on, the table refuses what somebody was about to say.
            append_once(home, LABEL_ROWS, LABELLING, (), {}, lambda _: False)
        pseudonym = known_pseudonym(home, name)
        while True:
            say(f"Searching {LABEL_ROWS.name} …")
            removed: Counter[str] = Counter({"half-written files": delete_half_written(home.labels, erasure.before)})
            if pseudonym is not None:
                names, before = (pseudonym,), erasure.before
                erased = take_from_labels(home, _said_by(pseudonym), _without(pseudonym), names, before, check)
                removed += counts_of(LABEL_ROWS, erased)
            removed = +removed
            total = dict(Counter(certificate.removed) + removed)
            certificate = replace(certificate, looks=certificate.looks + 1, removed=total)
            write_certificate(home, certificate)
            on_search(certificate.looks, dict(removed))
            if not removed:
                break
        erase_old_versions(home.labels)
        finished_at = datetime.now(UTC)
        certificate = replace(certificate, finished_at=finished_at)
        write_certificate(home, certificate)
        finish_erasure(home, erasure.id, finished_at)
    return certificate


def count_said_by(home: Home, name: str) -> int:
    """How many rows of `labels` a person's pseudonym stands in now. Raises StateDamaged, StorageUnavailable."""
    pseudonym = known_pseudonym(home, name)
    return 0 if pseudonym is None else count_in_labels(home, _said_by(pseudonym))


def _said_by(pseudonym: str) -> Callable[[pa.RecordBatch], pa.BooleanArray]:
    return lambda rows: pc.fill_null(pc.equal(rows["said_by"], pseudonym), False)


def _without(pseudonym: str) -> Callable[[pa.RecordBatch], pa.RecordBatch]:
    def without(rows: pa.RecordBatch) -> pa.RecordBatch:
        place = rows.schema.get_field_index("said_by")
        others = pc.if_else(_said_by(pseudonym)(rows), pa.scalar(None, pa.string()), rows["said_by"])
        return rows.set_column(place, rows.schema.field(place), others)

    return without
