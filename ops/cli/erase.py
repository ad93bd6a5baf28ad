"""The command that forgets a person, an object or a photo."""

import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from features.errors import InvalidSetting
from ops.cli.options import (
    AllowRegion,
    Archive,
    Debug,
    Endpoint,
    FormerLanding,
    HomeUri,
    KeyPattern,
    Landing,
    Master,
    Region,
    checked_settings,
    console,
    say,
)

if TYPE_CHECKING:
    from batch.erase.erase import Certificate, ErasureRequest
    from store.settings import Settings
    from store.state.erasures import Kind

# What no command can reach from here, and when it ends by itself.
ELSEWHERE = (
    ("PCA models", "Sums over all rows, without this one's part from the next refit on: fruits refit --reproject."),
    (
        "Memory of the stream",
        "A keyed or plain hash of an object's name, for 14 days, so that a late message brings nothing back.",
    ),
    ("Half-written files of a paused job", "Deleted by fruits maintain 24 hours later."),
    ("Messages in the queue and its dead letters", "Keys of objects; deleted after 14 days at most."),
    ("Results of Athena queries", "In the operations bucket; deleted after 7 days."),
    ("Pages, query results, pictures on people's machines", "Whoever took them there has to delete them."),
)


def erase(
    subject: Annotated[
        str | None, typer.Option("--subject", metavar="NAME", help="All photos of a person; - reads it from stdin.")
    ] = None,
    image: Annotated[
        str | None, typer.Option("--image", metavar="ID", help="A photo, by its image_id, under whatever key.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", metavar="KEY", help="An object, by its key below the landing or its URI.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be erased, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; erased is erased.")] = False,
    refit: Annotated[bool, typer.Option("--refit", help="Then refit the PCA without it, and reproject.")] = False,
    former_landing: FormerLanding = None,
    home: HomeUri = None,
    landing: Landing = None,
    archive: Archive = None,
    key_pattern: KeyPattern = None,
    master: Master = None,
    s3_endpoint: Endpoint = None,
    s3_region: Region = None,
    allow_region: AllowRegion = None,
    debug: Debug = False,
) -> None:
    """Forget a person, a photo or an object everywhere, as article 17 of the GDPR asks; what arrives later stays."""
    from batch.erase.erase import certificate_key, count_erasable, is_empty
    from batch.erase.erase import erase as run_erase
    from store.objects.location import StorageLocation
    from store.tables.ingested import nothing_ingested

    kind, value = _one_of(subject=subject, image=image, source=source)
    settings = checked_settings(
        home=home,
        landing=landing,
        archive=archive,
        key_pattern=key_pattern,
        master=master,
        s3_endpoint=s3_endpoint,
        s3_region=s3_region,
        allow_region=allow_region,
    )
    places = settings.places()
    asked = _asked(settings, kind, value, [StorageLocation.at(uri).uri for uri in former_landing or ()])
    if is_empty(places):
        # A certificate would be given all the same, also of a slip.
        raise nothing_ingested(places)
    if dry_run:
        console.print(_counts(count_erasable(places, asked), "to be erased"))
        console.print("A dry run: nothing was changed.")
        return
    _ask(yes, f"Everything of this {kind} below {places.root.uri} will be gone for good.")

    def on_search(number: int, removed: dict[str, int]) -> None:
        what = ", ".join(f"{name} {count:,}" for name, count in removed.items()) or "nothing"
        console.print(f"Search {number}: {what}.", highlight=False, soft_wrap=True)

    certificate = run_erase(places, asked, say, on_search)
    _show(certificate, places.reports.uri_of(certificate_key(certificate.id)))
    if refit:
        from ops.cli.pca import refit as run_refit

        run_refit(
            then_reproject=True,
            home=home,
            master=master,
            s3_endpoint=s3_endpoint,
            s3_region=s3_region,
            allow_region=allow_region,
        )


def _one_of(**given: str | None) -> tuple["Kind", str]:
    kinds: dict[str, Kind] = {"subject": "subject", "image": "image", "source": "source"}
    chosen = [(kinds[name], value) for name, value in given.items() if value is not None]
    if len(chosen) != 1:
        raise InvalidSetting("Say what to forget with one of --subject NAME, --image ID, --source KEY.")
    [(kind, value)] = chosen
    # Out of a shell's history.
    value = sys.stdin.readline().rstrip("\n") if value == "-" else value
    if not value:
        raise InvalidSetting(f"--{kind} is empty.")
    if kind == "image" and not re.fullmatch("[0-9a-f]{64}", value):
        raise InvalidSetting("An image id is the SHA-256 of a photo, 64 hexadecimal digits; see the column image_id.")
    return kind, value


def _asked(settings: "Settings", kind: "Kind", value: str, former_landings: list[str]) -> "ErasureRequest":
    from batch.erase.erase import ErasureRequest, subject_patterns
    from ops.rejects import source_named

    places, former = settings.places(), tuple(former_landings)
    if kind == "source":
        # A path is a URI, too; a key may have stood in any landing.
        return ErasureRequest(kind, source_named(places, value) if value.startswith("/") else value, (), former)
    if kind == "image":
        return ErasureRequest(kind, value, (), former)
    patterns = subject_patterns(places, settings.key_pattern)
    if not patterns:
        raise InvalidSetting(
            "The key pattern has no group `subject`, so no key tells whose photo it is; give the stream's with "
            "--key-pattern, like '^(?P<subject>[^/]+)/(?P<label>[^/]+)/'."
        )
    return ErasureRequest(kind, value, patterns, former)


def _ask(yes: bool, sentence: str) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidSetting("Erasing needs a yes: add --yes, or --dry-run to see what it would erase.")
    if not typer.confirm(f"{sentence} Go on?"):
        raise InvalidSetting("Nothing was erased.")


def _show(certificate: "Certificate", uri: str) -> None:
    if certificate.removed:
        console.print(_counts(certificate.removed, "erased"))
    else:
        console.print("Nothing of it was there.")
    console.print(f"Done: the last of {certificate.looks} searches found nothing. Certificate: {uri}", soft_wrap=True)
    elsewhere = Table("what lives elsewhere", "until when", header_style="bold")
    for row in ELSEWHERE:
        elsewhere.add_row(*row)
    console.print(elsewhere)


def _counts(counts: dict[str, int], verb: str) -> Table:
    table = Table("place", verb, header_style="bold")
    table.columns[1].justify = "right"
    for place, count in counts.items():
        table.add_row(place, f"{count:,}")
    return table
