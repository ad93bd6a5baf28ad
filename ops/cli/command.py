"""What commands share: options that follow from the settings, `--debug`, and how a command opens its home."""

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, get_args

import typer

from features.errors import InvalidSetting
from ops.cli.console import DEBUGGING, notify
from store.setting_fields import Flag, SettingFields, parse_duration

if TYPE_CHECKING:
    from datetime import timedelta

    from store.settings import Settings

# The settings that every command which opens a home takes; one that only reads gives up sooner.
HOME = ("home", "s3_endpoint", "s3_region", "allow_region")
READING = (*HOME, "reading_patience")


@dataclass(frozen=True)
class Flags:
    """The settings that a command's flags name, by the settings' names. Nothing is read or checked yet."""

    given: Mapping[str, Any]

    def load(self) -> "Settings":
        """The settings in force. Raises InvalidSetting."""
        from store.settings import load_settings

        return load_settings(**self.given)

    def open_to_read(self) -> "Settings":
        """The settings in force, after checks of the home; storage that does not answer has `reading_patience`.

        The home exists, its buckets and queue lie in the EU; nothing is written. On S3 the region of the buckets,
        unless one is set, and the credentials of a profile are found. Standard error tells of waits. Raises
        InvalidSetting, OutsideEurope, CloudRefused, HomeMissing, BucketMissing, AccessDenied, StorageUnavailable.
        """
        settings = self.load()
        return _checked(settings, settings.reading_patience, makes_home=False)

    def open_to_change(self, *, makes_home: bool = False) -> "Settings":
        """The same with `storage_patience`; with `makes_home` the home may be missing, but must be writable.

        Raises HomeNotWritable, too.
        """
        settings = self.load()
        return _checked(settings, settings.storage_patience, makes_home)


def takes_settings(
    *names: str,
) -> Callable[[Callable[Concatenate[Flags, ...], None]], Callable[..., None]]:
    """A decorator that adds an option for each named setting, and --debug; the function gets the used ones as Flags."""

    def decorate(function: Callable[Concatenate[Flags, ...], None]) -> Callable[..., None]:
        @wraps(function)
        def command(**arguments: Any) -> None:
            del arguments["debug"]
            flags = {name: value for name in names if (value := arguments.pop(name)) is not None}
            function(Flags(flags), **arguments)

        _, *own = inspect.signature(function).parameters.values()
        options = [_option(name, hint) for name, hint in SettingFields.__annotations__.items() if name in names]
        debug = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug)
        # Typer reads these two.
        command.__signature__ = inspect.Signature([*own, *options, debug])  # type: ignore[attr-defined]
        command.__annotations__ = {}
        return command

    return decorate


def runs_alone(flags: Flags, context: typer.Context) -> bool:
    """Whether a group of commands was called without one. Raises InvalidSetting for flags before the command's name."""
    command = context.invoked_subcommand
    if command is not None and flags.given:
        name = context.info_name
        raise InvalidSetting(f"Write --home and the like after `{command}`: fruits {name} {command} … --home URI.")
    return command is None


def duration_of(option: str, text: str) -> "timedelta":
    """What somebody gave to an option that is no setting, like `--every 5s`. Raises InvalidSetting."""
    try:
        found: timedelta = parse_duration(text)
    except ValueError as error:
        raise InvalidSetting(f"{option}: {error}.") from error
    return found


def examples(*commands: str) -> str:
    """Command lines as the end of a command's --help."""
    shown = "  ·  ".join(f"[bold]{command}[/]" for command in commands)
    return f"{'Examples' if len(commands) > 1 else 'Example'}:  {shown}"


def _option(name: str, hint: Any) -> inspect.Parameter:
    kind, *metadata = get_args(hint)
    [flag] = [each for each in metadata if isinstance(each, Flag)]
    option = typer.Option(f"--{name.replace('_', '-')}", metavar=flag.metavar, help=flag.help)
    # `Settings` reads what has a metavar from text; all else is checked on the command line.
    kind = str if flag.metavar else kind
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _remember_debug(debug: bool) -> bool:
    if debug:
        DEBUGGING.set()
    return debug


Debug = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.", callback=_remember_debug, is_eager=True)
]


def _checked(settings: "Settings", patience: "timedelta", makes_home: bool) -> "Settings":
    from ops.cli.process.waits import tell_waits
    from store.home_access import check_is_home, check_is_writable, check_links
    from store.objects.faults import use_patience
    from store.objects.region import check_home

    home = settings.locations()
    use_patience(patience.total_seconds())
    tell_waits()
    check_links(home)
    if not home.root.is_local and "AWS_ACCESS_KEY_ID" not in os.environ:
        from store.aws import export_credentials

        export_credentials()
    region = check_home(home, settings.queue, settings.allow_region, notify)
    if region is not None and not settings.s3_region:
        settings = settings.model_copy(update={"s3_region": region})
        home = settings.locations()
    if makes_home:
        check_is_writable(home.state)
        if home.landing.is_local and not home.landing.directory.exists():
            check_is_writable(home.landing)
    else:
        check_is_home(home)
    return settings
