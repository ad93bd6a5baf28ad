"""The command that forgets a person, an object, a photo, or who labelled photos."""

import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from features.errors import InvalidSetting
from ops.cli.command import HOME, Flags, takes_settings
from ops.cli.console import console, echo, notify
from ops.cli.stream import FormerLanding

if TYPE_CHECKING:
    from store.state.erasures import Kind

# What no command can reach from here, and when it ends by itself.
ELSEWHERE = (
    (
        "Models",
        "What names fruit is deleted from those that were fitted on this one's labelled rows. Their PCA is a sum over "
        "all rows, without this one's part from the next refit on: fruits refit --reproject.",
    ),
    ("Names that such a model gave to others' photos", "They stay, for they are about those photos."),
    (
        "Memory of the stream",
        "A keyed or plain hash of an object's name, for 14 days, so that a late message brings nothing back.",
    ),
    ("Half-written files of a paused job", "Deleted by fruits maintain 24 hours later."),
    ("Messages in the queue and its dead letters", "Keys of objects; deleted after 14 days at most."),
    ("Results of Athena queries", "In the operations bucket; deleted after 7 days."),
    ("Pages, query results, pictures on people's machines", "Whoever took them there has to delete them."),
)


@takes_settings(*HOME, "landing", "archive", "key_pattern", "master")
def erase(
    flags: Flags,
    subject: Annotated[
        str | None, typer.Option("--subject", metavar="NAME", help="All photos of a person; - reads it from stdin.")
    ] = None,
    image: Annotated[
        str | None, typer.Option("--image", metavar="ID", help="A photo, by its image_id, under whatever key.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", metavar="KEY", help="An object, by its key below the landing or its URI.")
    ] = None,
    labeller: Annotated[
        str | None,
        typer.Option("--labeller", metavar="NAME", help="Who labelled photos; the labels stay. - reads it from stdin."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be erased, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; erased is erased.")] = False,
    refit: Annotated[bool, typer.Option("--refit", help="Then refit the PCA without it, and reproject.")] = False,
    former_landing: FormerLanding = None,
) -> None:
    """Forget a person, a photo or an object everywhere, as article 17 of the GDPR asks; what arrives later stays."""
    from batch.erase.certificates import certificate_key
    from batch.erase.erase import ErasureRequest, count_erasable, is_empty, subject_patterns
    from batch.erase.erase import erase as run_erase
    from batch.erase.labellers import count_said_by, forget_labeller
    from ops.rejects import source_of
    from store.models.pca_models import served_without_names
    from store.objects.location import StorageLocation
    from store.tables.handles import nothing_ingested

    kind, value = _one_of(subject=subject, image=image, source=source, labeller=labeller)
    if kind == "labeller" and refit:
        raise InvalidSetting("--refit has nothing to do after --labeller: the labels stay as they are; leave it out.")
    settings = flags.open_to_change()
    home = settings.places()
    patterns = subject_patterns(home, settings.key_pattern_in_force) if kind == "subject" else ()
    if kind == "subject" and not patterns:
        raise InvalidSetting(
            "The key pattern has no group `subject`, so no key tells whose photo it is; give the stream's with "
            "--key-pattern, like '^(?P<subject>[^/]+)/(?P<label>[^/]+)/'."
        )
    request = ErasureRequest(
        kind,
        # A path is a URI, too; a key may have stood in any landing.
        source_of(home, value) if kind == "source" and value.startswith("/") else value,
        patterns,
        tuple(StorageLocation.at(uri).uri for uri in former_landing or ()),
    )
    if is_empty(home):
        # A certificate would be given all the same, also of a slip.
        raise nothing_ingested(home)
    if dry_run:
        counts = {"labels": count_said_by(home, value)} if kind == "labeller" else count_erasable(home, request)
        console.print(_counts(counts, "to be erased"))
        echo("A dry run: nothing was changed.")
        return
    if not yes and not sys.stdin.isatty():
        raise InvalidSetting("Erasing needs a yes: add --yes, or --dry-run to see what it would erase.")
    what = "What tells the labels of this person from others'" if kind == "labeller" else f"Everything of this {kind}"
    if not yes and not typer.confirm(f"{what} below {home.root.uri} will be gone for good. Go on?"):
        raise InvalidSetting("Nothing was erased.")

    def on_search(number: int, removed: dict[str, int]) -> None:
        echo(f"Search {number}: {', '.join(f'{name} {count:,}' for name, count in removed.items()) or 'nothing'}.")

    certificate = (
        forget_labeller(home, value, notify, on_search)
        if kind == "labeller"
        else run_erase(home, request, notify, on_search)
    )
    if certificate.removed:
        console.print(_counts(certificate.removed, "erased"))
    else:
        echo("Nothing of it was there.")
    uri = home.reports.uri_of(certificate_key(certificate.id))
    echo(f"Done: the last of {certificate.looks} searches found nothing. Certificate: {uri}")
    if kind == "labeller":
        return
    elsewhere = Table("what lives elsewhere", "until when", header_style="bold")
    for row in ELSEWHERE:
        elsewhere.add_row(*row)
    console.print(elsewhere)
    if refit:
        from ops.cli.refit import fit

        # There is nothing to hold it back for: what it would be compared with is to go.
        fit(settings, force=True, then_reproject=True)
    elif (served := served_without_names(home)) is not None:
        echo(
            f"Version {served}, which is served, names no fruit any more: it was fitted on what was erased. "
            "Fit it anew: fruits refit --reproject."
        )


def _one_of(**values: str | None) -> tuple["Kind", str]:
    kinds: tuple[Kind, ...] = ("subject", "image", "source", "labeller")
    chosen = [(kind, value) for kind in kinds if (value := values[kind]) is not None]
    if len(chosen) != 1:
        raise InvalidSetting(
            "Say what to forget with one of --subject NAME, --image ID, --source KEY, --labeller NAME."
        )
    [(kind, value)] = chosen
    # Out of a shell's history.
    value = sys.stdin.readline().rstrip("\n") if value == "-" else value
    if not value.strip():
        raise InvalidSetting(f"--{kind} is empty.")
    if kind == "image" and not re.fullmatch("[0-9a-f]{64}", value):
        raise InvalidSetting("An image id is the SHA-256 of a photo, 64 hexadecimal digits; see the column image_id.")
    return kind, value


def _counts(counts: dict[str, int], verb: str) -> Table:
    table = Table("place", verb, header_style="bold")
    table.columns[1].justify = "right"
    for place, count in counts.items():
        table.add_row(place, f"{count:,}")
    return table
