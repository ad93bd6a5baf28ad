"""Tables in the documents that are made from the code: `python -m tests.support.doc_tables` writes them anew."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

from pydantic import ByteSize

from bootstrap.aws.cost import Estimate, Workload, estimate, idle
from bootstrap.aws.keeping import DAYS_A_MONTH, Item, Keeping, StorageClass
from bootstrap.aws.prices import Architecture, Prices, load_prices
from ops.cli.aws.cost import money
from store.answers.answer import WHAT_TO_DO
from store.setting_fields import Flag, SettingFields
from store.settings import Settings

ROOT = Path(__file__).parents[2]
VOLUMES = (10_000, 1_000_000, 100_000_000)
FAMILIES: dict[Architecture, str] = {"arm64": "Graviton", "x86_64": "x86"}
# What stays without originals and copies.
ROWS_ONLY = Keeping(original_days=0, archive_days=0, copy_days=0)
_FOR_EVER_DAYS = 36 * DAYS_A_MONTH
ORIGINALS = {
    "deleted at once": ROWS_ONLY,
    **{f"{days} day{'s' if days > 1 else ''} where they landed": Keeping(days, 0) for days in (1, 7, 30, 90)},
    "archived 90 days": Keeping(0, 90),
    "archived for ever, after 36 months": Keeping(0, _FOR_EVER_DAYS),
}
COPY_DAYS = {
    "no copies": 0.0,
    "copies 1 month": 30.0,
    "3 months": 91.0,
    "13 months": 395.0,
    "36 months": 1095.0,
}
_UNITS_S = ((3600, "h"), (60, "m"), (1, "s"))


def with_table(text: str, name: str, table: str) -> str:
    """A document with the table between its two marks replaced. Raises ValueError when it lacks the marks."""
    before, begin, rest = text.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- end of {name} -->")
    if not (begin and end):
        raise ValueError(f"The document lacks its marks <!-- {name} --> and <!-- end of {name} -->.")
    return f"{before}{begin}\n{table}\n\n{end}{after}"


def settings_table() -> str:
    """Every setting with its default and its help, for README.md."""
    lines = ["| setting | default | what it is |", "|---|---|---|"]
    for name, hint in SettingFields.__annotations__.items():
        [flag] = [each for each in get_args(hint) if isinstance(each, Flag)]
        default = _default(Settings.model_fields[name].default, flag)
        lines.append(f"| `{name}` | {f'`{default}`' if default else ''} | {flag.help.rstrip('.')} |")
    return "\n".join(lines)


def _default(value: Any, flag: Flag) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case timedelta():
            seconds = int(value.total_seconds())
            size, unit = next(each for each in _UNITS_S if seconds % each[0] == 0 and (seconds or each[0] == 1))
            return f"{seconds // size}{unit}"
        case int() if flag.metavar == "SIZE":
            return ByteSize(value).human_readable().replace(".0", "")
    return str(value)


def reasons_table() -> str:
    """Every reason of a reject with what the person is to do, for docs/app.md."""
    rows = [f"| `{reason}` | {text} |" for reason, text in WHAT_TO_DO.items()]
    return "\n".join(["| `reason` | `what_to_do` |", "|---|---|", *rows])


def cost_tables(prices: Prices) -> str:
    """What a stage costs, by volume and choice, for docs/cost-and-gdpr.md."""
    estimates = [
        estimate(Workload(photos, architecture=architecture), prices) for photos in VOLUMES for architecture in FAMILIES
    ]
    idle_stages = [idle(Workload(0, architecture=architecture), prices) for architecture in FAMILIES]
    return "\n".join(
        [
            *_by_volume(estimates),
            "",
            "Idle, dollars a month:",
            "",
            *_by_family(idle_stages),
            "",
            "What changes it most, dollars a month at a million photos a day, Graviton:",
            "",
            *_by_choice(Workload(1_000_000), prices),
            "",
            "Originals and copies kept for other periods, dollars a month at a million photos a day, Graviton:",
            "",
            *_by_period(Workload(1_000_000), prices),
            "",
            "Other storage classes, to which a rule moves objects as soon as it may; all of them are read once a year:",
            "",
            *_by_class(Workload(1_000_000), prices),
            "",
            "Regions, dollars a month for EC2 and EMR at 100 million photos a day:",
            "",
            *_by_region(prices),
        ]
    )


def _by_volume(estimates: Sequence[Estimate]) -> list[str]:
    heads = [f"{found.workload.photos_per_day:,.0f} {FAMILIES[found.workload.architecture]}" for found in estimates]
    rows = [
        [_kind(estimates[0].items[number]), *(money(found.items[number].dollars) for found in estimates)]
        for number in range(len(estimates[0].items))
        if any(found.items[number].dollars for found in estimates)
    ]
    rows.append(["**total, $ a month**", *(f"**{money(found.dollars)}**" for found in estimates)])
    rows.append(["$ for a million photos", *(f"{found.dollars_per_million_photos:,.2f}" for found in estimates)])
    rows.append(["task nodes at the busiest hour", *(f"{found.fleet.task_nodes_at_peak}" for found in estimates)])
    rows.append(["capacity units then", *(f"{found.fleet.capacity_units}" for found in estimates)])
    rows.append(["core-hours a month", *(f"{found.fleet.core_hours:,.0f}" for found in estimates)])
    return _markdown(["photos a day", *heads], rows)


def _by_family(idle_stages: Sequence[Estimate]) -> list[str]:
    rows = []
    for number, item in enumerate(idle_stages[0].items):
        if item.quantity:
            left = money(item.dollars) if item.stays else "0.00"
            rows.append([_kind(item), *(money(found.items[number].dollars) for found in idle_stages), left])
    left = money(sum(item.dollars for item in idle_stages[0].items if item.stays))
    rows.append(["**total**", *(f"**{money(found.dollars)}**" for found in idle_stages), f"**{left}**"])
    return _markdown(["item", *FAMILIES.values(), "after `fruits destroy`"], rows)


def _by_choice(usual: Workload, prices: Prices) -> list[str]:
    kept = usual.keeping
    archived = Keeping(original_days=0, archive_days=90, copy_days=0)
    choices = {
        "as above": usual,
        "`--clean archive`, 90 days": replace(usual, keeping=archived),
        "`--clean delete`": replace(usual, keeping=ROWS_ONLY),
        "trigger 10 s": replace(usual, trigger_s=10),
        "old versions 1 day": replace(usual, keeping=replace(kept, old_version_days=1)),
        "`--answers`": replace(usual, answers=True),
        "photos of 350 px": replace(usual, megapixels=0.1225),
    }
    found = {name: estimate(workload, prices) for name, workload in choices.items()}
    return _markdown(
        ["choice", "photos and copies in S3", "everything else", "total"],
        [[name, money(_kept(one)), money(one.dollars - _kept(one)), money(one.dollars)] for name, one in found.items()],
    )


def _by_period(usual: Workload, prices: Prices) -> list[str]:
    def total(keeping: Keeping) -> str:
        return money(estimate(replace(usual, keeping=keeping), prices).dollars)

    rows = [
        [name, *(total(replace(keeping, copy_days=days)) for days in COPY_DAYS.values())]
        for name, keeping in ORIGINALS.items()
    ]
    return _markdown(["originals", *COPY_DAYS], rows)


def _by_class(usual: Workload, prices: Prices) -> list[str]:
    rows = []
    for storage_class in get_args(StorageClass):
        copied = replace(usual.keeping, copy_class=storage_class)
        archives = [
            replace(ROWS_ONLY, archive_days=days, archive_class=storage_class) for days in (30, 90, _FOR_EVER_DAYS)
        ]
        found = (estimate(replace(usual, keeping=keeping), prices) for keeping in (copied, *archives))
        rows.append([storage_class, *(money(one.dollars) for one in found)])
    heads = ("copies, 13 months", "archived originals, 30 days", "90 days", "for ever, after 36 months")
    return _markdown(["class", *heads], rows)


def _kept(found: Estimate) -> float:
    """Dollars for the bytes of originals and copies."""
    kinds = ("S3: originals", "S3: archived", "S3: copies")
    return sum(item.dollars for item in found.items if item.name.startswith(kinds))


def _by_region(prices: Prices) -> list[str]:
    def machines(region: str, architecture: Architecture) -> str:
        found = estimate(Workload(VOLUMES[-1], region=region, architecture=architecture), prices)
        return money(sum(item.dollars for item in found.items if item.name.startswith(("EC2", "EMR"))))

    rows = [
        [region, *(machines(region, architecture) for architecture in FAMILIES)] for region in sorted(prices.regions)
    ]
    return _markdown(["region", *FAMILIES.values()], rows)


def _kind(item: Item) -> str:
    # The name without the machine's, which differs between families.
    return item.name.partition(", ")[0] if item.name.startswith("EC2") else item.name


def _markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [heads, ["---", *("---:" for _ in heads[1:])], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


if __name__ == "__main__":
    for file, name, table in (
        ("docs/cost-and-gdpr.md", "cost tables", cost_tables(load_prices())),
        ("README.md", "settings", settings_table()),
        ("docs/app.md", "reasons", reasons_table()),
    ):
        document = ROOT / file
        document.write_text(with_table(document.read_text(), name, table))
