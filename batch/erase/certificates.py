"""What an erasure leaves: a certificate of what it removed."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

from batch.erase.rows import ErasedRows
from store.home import Home
from store.objects.document import Document
from store.state.erasures import Kind
from store.tables.schemas import Table


@dataclass(frozen=True)
class Certificate:
    """What was removed, in numbers and times; it names nobody. `finished_at` is None while it is not done.

    `removed` counts rows by table, files by table, and objects by place; work that a kill cut off in between may be
    missing from it. `looks` is how often everything was searched; the last search found nothing.
    """

    id: str
    kind: Kind
    asked_at: datetime
    finished_at: datetime | None = None
    looks: int = 0
    removed: dict[str, int] = field(default_factory=dict)


_CERTIFICATE = Document(Certificate, "erasures/{}.json", remedy="restore it or delete it")


def certificate_key(id: str) -> str:
    return _CERTIFICATE.key(id)


def read_certificate(home: Home, id: str) -> Certificate | None:
    return _CERTIFICATE.read(home.reports, id)


def write_certificate(home: Home, certificate: Certificate) -> None:
    _CERTIFICATE.write(home.reports, certificate, certificate.id)


def counts_of(table: Table, erased: ErasedRows) -> Counter[str]:
    """What was erased from a table, by what a certificate calls it."""
    return Counter(
        {
            f"{table.name} rows": erased.rows,
            f"{table.name} files": erased.rewritten_files + erased.unreferenced_files,
            f"{table.name} log": erased.log_files,
            "classifiers": erased.classifiers,
        }
    )
