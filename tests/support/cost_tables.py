"""The tables of docs/cost-and-gdpr.md, made by the arithmetic of `fruits cost`: python -m tests.support.cost_tables."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from bootstrap.aws.cost import Estimate, Item, Workload, estimate, idle
from bootstrap.aws.prices import Architecture, Prices, load_prices
from ops.cli.cost import money

DOC = Path(__file__).parents[2] / "docs" / "cost-and-gdpr.md"
VOLUMES = (10_000, 1_000_000, 100_000_000)
FAMILIES: dict[Architecture, str] = {"arm64": "Graviton", "x86_64": "x86"}


def with_tables(text: str, prices: Prices) -> str:
    """A document with the tables between its two marks made anew."""
    before, begin, rest = text.partition("<!-- cost tables -->\n")
    _, end, after = rest.partition("<!-- end of cost tables -->")
    assert begin and end, "the document lacks its marks"
    return f"{before}{begin}\n{tables(prices)}\n\n{end}{after}"


def tables(prices: Prices) -> str:
    """The tables of docs/cost-and-gdpr.md, as Markdown."""
    estimates = [
        estimate(Workload(photos, architecture=architecture), prices) for photos in VOLUMES for architecture in FAMILIES
    ]
    standing = [idle(Workload(0, architecture=architecture), prices) for architecture in FAMILIES]
    return "\n".join(
        [
            *_by_volume(estimates),
            "",
            "Idle, dollars a month:",
            "",
            *_by_family(standing),
            "",
            "What changes it most, dollars a month at a million photos a day, Graviton:",
            "",
            *_by_choice(Workload(1_000_000), prices),
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


def _by_family(standing: Sequence[Estimate]) -> list[str]:
    rows = []
    for number, item in enumerate(standing[0].items):
        if item.quantity:
            left = money(item.dollars) if item.stays else "0.00"
            rows.append([_kind(item), *(money(found.items[number].dollars) for found in standing), left])
    left = money(sum(item.dollars for item in standing[0].items if item.stays))
    rows.append(["**total**", *(f"**{money(found.dollars)}**" for found in standing), f"**{left}**"])
    return _markdown(["item", *FAMILIES.values(), "after `fruits destroy`"], rows)


def _by_choice(usual: Workload, prices: Prices) -> list[str]:
    choices = {
        "as above": usual,
        "archive 30 days": replace(usual, archive_days=30),
        "`--clean delete`": replace(usual, archive_days=0),
        "`--clean delete`, old versions 1 day": replace(usual, archive_days=0, old_version_days=1),
        "trigger 10 s": replace(usual, trigger_s=10),
        "photos of 350 px": replace(usual, megapixels=0.1225),
    }
    found = {name: estimate(workload, prices) for name, workload in choices.items()}
    kept = {
        name: sum(item.dollars for item in one.items if item.name.startswith("S3: photos"))
        for name, one in found.items()
    }
    return _markdown(
        ["choice", "photos in S3", "everything else", "total"],
        [[name, money(kept[name]), money(one.dollars - kept[name]), money(one.dollars)] for name, one in found.items()],
    )


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
    DOC.write_text(with_tables(DOC.read_text(), load_prices()))
