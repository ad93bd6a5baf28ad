"""What a stage's stream runs with: what is set, else what its last stream had, else what the stage remembers."""

import math
from datetime import timedelta

from bootstrap.aws.cloud import Cloud
from bootstrap.aws.keeping import Keeping
from bootstrap.aws.stack import Stack
from bootstrap.aws.steps import job_steps
from store.settings import Settings

# How long photos stay in the landing, for people to look at, unless it is set.
_AFTER = {"archive": "1h", "delete": "1h", "keep": "1h", "reduce": f"{Keeping.original_days:g}d"}
_NEW_STAGE = {"clean": "reduce", "clean_after": _AFTER["reduce"]}
# One that was made before stages remembered their rule.
_OLD_STAGE = {"clean": "archive", "clean_after": _AFTER["archive"]}
_PARAMETERS = {"clean": "Clean", "clean_after": "CleanAfter"}
_STREAM_OPTIONS = (
    *("trigger", "max_files", "max_bytes", "layout", "key_pattern", "backfill", "only_new", "clean", "clean_after"),
    *("copies", "copy_px", "answers"),
    *("max_image_bytes", "max_pixels", "max_decode_time", "storage_patience"),
)
# A stream takes one of them.
_WAYS_TO_READ_KEYS = {"layout", "key_pattern"}


def stream_options(cloud: Cloud, settings: Settings, stack: Stack | None) -> tuple[str, ...]:
    """The flags of the stage's stream. A stage that exists keeps its rule for photos until another one is set.

    Replay gives the same. Raises CloudRefused, CloudUnavailable.
    """
    given = settings.model_dump(include=set(_STREAM_OPTIONS) & settings.model_fields_set, exclude_none=True)
    last = _remembered(stack) | _last_options(cloud, stack)
    if given.keys() & _WAYS_TO_READ_KEYS:
        last = {name: value for name, value in last.items() if name not in _WAYS_TO_READ_KEYS}
    if given.get("clean", last["clean"]) != last["clean"]:
        # Its time was meant for what was done before.
        last["clean_after"] = _AFTER[given["clean"]]
    options: list[str] = []
    for name, value in sorted((last | given).items()):
        if isinstance(value, bool):
            options += [_flag(name)] if value else []
        elif isinstance(value, timedelta):
            options += [_flag(name), f"{value.total_seconds() * 1000:.0f}ms"]
        else:
            options += [_flag(name), str(value)]
    return tuple(options)


def keeps_copies(options: tuple[str, ...]) -> bool:
    """Whether a stream with these flags keeps copies."""
    return not {_flag("copies"), "reduce"}.isdisjoint(options)


def remembered_parameters(settings: Settings, stack: Stack | None, options: tuple[str, ...]) -> dict[str, str]:
    """The stack's parameters that hold the rule for photos; what is not named keeps the value that the stack has."""
    rule = {parameter: options[options.index(_flag(name)) + 1] for name, parameter in _PARAMETERS.items()}
    if settings.keep_copies is not None:
        return rule | {"CopyDays": str(math.ceil(settings.keep_copies / timedelta(days=1)))}
    is_new = stack is None and keeps_copies(options)
    return rule | ({"CopyDays": f"{Keeping.copy_days:g}"} if is_new else {})


def _remembered(stack: Stack | None) -> dict[str, object]:
    if stack is None:
        return {**_NEW_STAGE}
    return {name: stack.parameters.get(parameter) or _OLD_STAGE[name] for name, parameter in _PARAMETERS.items()}


def _last_options(cloud: Cloud, stack: Stack | None) -> dict[str, object]:
    cluster = stack.outputs.get("ClusterId") if stack else None
    if cluster is None or not (streams := job_steps(cloud, cluster, "stream")):
        return {}
    arguments = streams[0].step.arguments
    return {
        name: True if Settings.model_fields[name].annotation is bool else arguments[arguments.index(_flag(name)) + 1]
        for name in _STREAM_OPTIONS
        if _flag(name) in arguments
    }


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
