"""What a month costs: against bills reckoned by hand, the published tables, and what a price list may lack."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from bootstrap.aws.cost import (
    CLUSTERS,
    MEASURED,
    Estimate,
    MeasuredPace,
    Workload,
    batches_a_month,
    core_seconds,
    estimate,
    hourly_load,
    idle,
    megapixels_of,
    tasks_a_month,
    usual_bytes,
)
from bootstrap.aws.keeping import COPY_BYTES, Keeping
from bootstrap.aws.prices import Architecture, Prices, load_prices
from bootstrap.aws.template import read_template
from features.errors import InvalidSetting
from ops.cli.aws.cost import money
from ops.cli.main import app
from tests.support.doc_tables import cost_tables, with_table

ROOT = Path(__file__).parents[3]
PRICES = load_prices()
ARCHIVED = Keeping(original_days=0, archive_days=90, copy_days=0)
ROWS_ONLY = Keeping(original_days=0, archive_days=0, copy_days=0)


def dollars(found: Estimate, begin: str) -> float:
    return sum(item.dollars for item in found.items if item.name.startswith(begin))


def test_the_documents_tables_are_what_the_arithmetic_gives() -> None:
    doc = (ROOT / "docs/cost-and-gdpr.md").read_text()
    assert with_table(doc, "cost tables", cost_tables(PRICES)) == doc, "run python -m tests.support.doc_tables"


def test_the_command_shows_the_sum_what_a_million_photos_cost_and_what_stands_idle() -> None:
    shown = CliRunner().invoke(app, ["cost", "--photos-per-day", "100000", "--architecture", "x86_64"])
    workload = Workload(100_000, architecture="x86_64")
    found = estimate(workload, PRICES)
    assert shown.exit_code == 0
    assert re.search(rf"total .* {money(found.dollars)} ", shown.stdout)
    assert f"${found.dollars_per_million_photos:,.2f} for a million photos" in shown.stdout
    assert f"Idle: ${money(idle(workload, PRICES).dollars)} a month" in shown.stdout
    assert "they are assumed: emr_share" in shown.stdout


def test_the_command_takes_the_size_of_photos_either_way() -> None:
    small = estimate(Workload(1e6, megapixels=0.1225), PRICES)
    for flags in (["--megapixels", "0.1225"], ["--photo-bytes", "23900"]):
        shown = CliRunner().invoke(app, ["cost", "--photos-per-day", "1000000", *flags])
        assert f"${small.dollars_per_million_photos:,.2f} for a million photos" in shown.stdout


def test_the_command_wants_a_number_of_photos_unless_it_shows_what_is_idle() -> None:
    refused = CliRunner().invoke(app, ["cost"])
    assert isinstance(refused.exception, InvalidSetting)
    shown = CliRunner().invoke(app, ["cost", "--idle"]).stdout
    assert "KMS: the key" in shown
    assert "million photos" not in shown


@pytest.mark.parametrize(("photos", "source", "pace"), [("12MP", "S3", MEASURED[2]), ("350px", "S3", MEASURED[1])])
def test_the_pace_is_the_benchmarks_by_core(photos: str, source: str, pace: MeasuredPace) -> None:
    table = (ROOT / "docs/benchmarks.md").read_text()
    row = re.search(rf"^\| {photos} \| {source} \| [\d.]+ \| (?P<service>[\d.]+) \|", table, re.MULTILINE)
    assert row is not None
    assert pace.photos_per_s_per_core == float(row["service"]) / 2


def test_a_small_stage_is_its_three_machines_and_what_it_stores() -> None:
    found = estimate(Workload(10_000), PRICES)
    # A stream always asks for an executor, which is on a task node: the smallest, half of the type that has the price.
    assert found.fleet.task_nodes_at_peak == 1
    assert found.fleet.capacity_units == 8
    assert dollars(found, "EC2") == pytest.approx(730 * (2 * 0.18 + 0.0986 / 2))
    assert dollars(found, "EMR") == pytest.approx(730 * (2 * 0.18 + 0.324 / 2) / 4)
    assert dollars(found, "EBS") == pytest.approx(3 * 62 * 0.0928)
    # 10,000 photos of 3.8 MB a day: 7 days, 3 hours until a listing, a day as an old version; all in the first tier.
    assert dollars(found, "S3: originals") == pytest.approx(10_000 * 8.125 * 3.8e6 / 2**30 * 0.024)
    # Their copies 395 days; compaction and retention leave a file each for a day, and for 30 as an old version.
    assert dollars(found, "S3: copies") == pytest.approx(10_000 * 457 * 53_000 / 2**30 * 0.024)


def test_a_large_stage_has_the_core_hours_its_photos_take() -> None:
    found = estimate(Workload(100e6, peak_factor=1, utilisation=1, keeping=ROWS_ONLY), PRICES)
    needed = 100e6 / 18.95 / 86_400
    assert found.fleet.core_hours == pytest.approx(needed * 730)
    # Each task node has 8; the core node has drivers.
    assert found.fleet.task_nodes_at_peak == math.ceil(needed / 8)
    assert found.fleet.capacity_units == 4 + 8 * found.fleet.task_nodes_at_peak
    assert found.fleet.task_hours == pytest.approx(found.fleet.task_nodes_at_peak * 730)
    assert dollars(found, "EC2: task nodes on Spot") == pytest.approx(found.fleet.task_hours * 0.0986)


def test_storage_is_charged_by_tier() -> None:
    keeping = Keeping(original_days=0, archive_days=499, copy_days=0, old_version_days=100)
    one_tib_a_day = Workload(2**40 / 1e6, photo_bytes=1e6, keeping=keeping)
    found = estimate(one_tib_a_day, PRICES)
    # A day of them lies in the landing as old versions.
    assert dollars(found, "S3: originals") == pytest.approx(1024 * 0.024)
    tiers = 49 * 1024 * 0.024 + 450 * 1024 * 0.023 + 100 * 1024 * 0.022
    assert dollars(found, "S3: archived") == pytest.approx(tiers)


def test_what_is_archived_is_copied_and_kept_as_an_old_version() -> None:
    assert (ARCHIVED.landed_days, ARCHIVED.archived_days, ARCHIVED.copied_days) == (1, 120, 0)
    assert (ROWS_ONLY.landed_days, ROWS_ONLY.archived_days, ROWS_ONLY.copied_days) == (1, 0, 0)
    archived, deleted = (estimate(Workload(1e6, keeping=kept), PRICES) for kept in (ARCHIVED, ROWS_ONLY))
    copied = 1e6 * 730 / 24
    saved = dollars(archived, "S3: PUT") - dollars(deleted, "S3: PUT")
    assert saved == pytest.approx(copied / 1e3 * 0.0053)


def test_a_week_of_originals_and_a_year_of_copies_cost_a_quarter_of_the_archive_at_most() -> None:
    archived, reduced = estimate(Workload(1e6, keeping=ARCHIVED), PRICES), estimate(Workload(1e6), PRICES)
    assert reduced.dollars <= archived.dollars / 4
    originals_gib, copies_gib = (1e6 * days * size / 2**30 for days, size in ((8.125, 3.8e6), (457, 53_000)))
    assert dollars(reduced, "S3: originals") == pytest.approx(originals_gib * 0.024)
    # Together they have 51,312 GiB: 112 of them are in the second tier.
    second_gib = originals_gib + copies_gib - 50 * 1024
    assert dollars(reduced, "S3: copies") == pytest.approx((copies_gib - second_gib) * 0.024 + second_gib * 0.023)
    # The landing has 7.125 million objects, which is as many thousands of requests, four times a day.
    assert dollars(reduced, "S3: LIST") == pytest.approx(7_125 * 4 * 730 / 24 / 1e3 * 0.0053)
    # A file more for each task, and a fourth log: a third of the 24 requests of three, and of 640 each hundredth time.
    tasks, batches = tasks_a_month(reduced.workload), batches_a_month(reduced.workload)
    more = (tasks + batches * (8 + 6.4 / 3) - 1e6 * 730 / 24) / 1e3 * 0.0053
    assert dollars(reduced, "S3: PUT") - dollars(archived, "S3: PUT") == pytest.approx(more)
    assert reduced.workload.keeping.steady_after_days == 426
    told = (ROOT / "docs/cost-and-gdpr.md").read_text()
    for item in ("", "S3: originals", "S3: copies"):
        assert f"${money(dollars(reduced, item))}" in told


def test_copies_are_as_large_as_the_benchmark_measured() -> None:
    table = (ROOT / "docs/benchmarks.md").read_text()
    row = re.search(r"^\| 12 MP, drawn \| [\d.]+ \| [^|]+ \| (?P<kb>\d+), 1/\d+ \|", table, re.MULTILINE)
    assert row is not None
    assert int(row["kb"]) * 1000 == COPY_BYTES


def test_a_cheaper_class_is_charged_for_moving_for_its_least_time_and_for_reading() -> None:
    day = 1e4 * 3.8e6 / 2**30
    moved = 1e4 * 730 / 24 / 1e3
    rare = replace(ARCHIVED, archive_days=20, old_version_days=20, archive_class="Standard-IA")
    found = estimate(Workload(1e4, keeping=rare), PRICES)
    # 30 days in Standard first; then 10 days are charged as 30. All that is there is read once a year.
    assert dollars(found, "S3: archived originals in") == pytest.approx(30 * day * 0.0131)
    assert dollars(found, "S3: archived originals, moved") == pytest.approx(moved * 0.01)
    assert dollars(found, "S3: archived originals, read") == pytest.approx(10 * day / 12 * 0.01)
    assert dollars(found, "S3: archived") == pytest.approx(
        30 * day * 0.024 + 30 * day * 0.0131 + moved * 0.01 + 10 * day / 12 * 0.01
    )
    cold = replace(ARCHIVED, archive_days=20, old_version_days=10, archive_class="Glacier IR")
    found = estimate(Workload(1e4, keeping=cold), PRICES)
    assert dollars(found, "S3: archived") == pytest.approx(90 * day * 0.005 + moved * 0.02 + 30 * day / 12 * 0.03)


def test_objects_too_small_or_too_young_for_a_class_stay_in_standard() -> None:
    small = Workload(1e4, photo_bytes=100_000, keeping=replace(ARCHIVED, archive_class="Glacier IR"))
    young = Workload(1e4, keeping=replace(ARCHIVED, archive_days=5, old_version_days=20, archive_class="Standard-IA"))
    few = Workload(1, keeping=Keeping(copy_class="Glacier IR"))
    for workload in (small, young, few):
        standard = replace(workload.keeping, archive_class="Standard", copy_class="Standard")
        assert estimate(workload, PRICES).dollars == estimate(replace(workload, keeping=standard), PRICES).dollars


def test_batches_are_as_many_as_photos_when_few_come_and_as_triggers_when_many_do() -> None:
    days = 730 / 24
    assert batches_a_month(Workload(10)) == pytest.approx(10 * days, rel=1e-3)
    assert batches_a_month(Workload(50e6)) == pytest.approx(43_200 * days)
    assert batches_a_month(Workload(50e6, trigger_s=10)) == pytest.approx(8_640 * days)


def test_nothing_but_what_stands_there_is_charged_without_photos() -> None:
    standing = idle(Workload(1e6), PRICES)
    assert dollars(standing, "S3") == 0
    assert standing.dollars_per_million_photos is None
    assert [item.name for item in standing.items if item.stays and item.dollars] == ["KMS: the key"]


def test_what_stands_there_is_what_the_template_makes() -> None:
    resources = list(read_template().sections["Resources"].values())
    endpoints = [each["Properties"] for each in resources if each["Type"] == "AWS::EC2::VPCEndpoint"]
    zones = sum(len(each["SubnetIds"]) for each in endpoints if each["VpcEndpointType"] == "Interface")
    alarms = [each["Properties"] for each in resources if each["Type"] == "AWS::CloudWatch::Alarm"]
    metrics = sum(
        sum("MetricStat" in metric for metric in alarm.get("Metrics", [{"MetricStat": 1}])) for alarm in alarms
    )
    for cluster in CLUSTERS.values():
        assert (cluster.interface_endpoints, cluster.alarm_metrics) == (zones, metrics)
    told = (ROOT / "docs/cost-and-gdpr.md").read_text()
    assert f"{len(alarms)} alarms, which look at {metrics} metrics" in told
    assert f"{sum(each['VpcEndpointType'] == 'Interface' for each in endpoints)} interface endpoints: " in told


def test_spot_hours_that_are_not_had_are_paid_on_demand() -> None:
    spot, half = (estimate(Workload(100e6, spot_share=share), PRICES) for share in (1.0, 0.5))
    hours = spot.fleet.task_hours
    assert half.dollars - spot.dollars == pytest.approx(hours / 2 * (0.324 - 0.0986))


@given(st.floats(1, 12))
def test_a_days_load_has_its_peak_and_adds_up_to_a_day(peak: float) -> None:
    load = hourly_load(peak)
    assert sum(load) == pytest.approx(24)
    assert min(load) >= 0
    # Hours stand for their middle, half an hour from the peak.
    assert max(load) == pytest.approx(peak, rel=0.35)


@given(st.floats(0, 1e8), st.floats(1, 4), st.sampled_from(["arm64", "x86_64"]))
def test_more_photos_never_cost_less(photos: float, times: float, architecture: Architecture) -> None:
    few = Workload(photos, architecture=architecture)
    many = replace(few, photos_per_day=photos * times)
    assert estimate(many, PRICES).dollars >= estimate(few, PRICES).dollars * (1 - 1e-9)


@given(st.floats(0.01, 200))
def test_bytes_and_megapixels_are_each_others_inverse(megapixels: float) -> None:
    assert megapixels_of(usual_bytes(megapixels)) == pytest.approx(megapixels)
    assert core_seconds(megapixels) >= 1 / MEASURED[0].photos_per_s_per_core


def test_every_region_has_every_machine_and_every_price_says_where_it_is_from() -> None:
    for region, machines in PRICES.regions.items():
        assert set(machines) == set(PRICES.instances.types), region
        assert all(0 < hourly.spot < hourly.on_demand for hourly in machines.values())
    assert all(service.source and service.date for service in PRICES.services.values())
    assert all("not found" not in service.date for service in PRICES.services.values() if not service.assumed)


def test_another_price_list_is_used(tmp_path: Path) -> None:
    text = (ROOT / "bootstrap/aws/prices.toml").read_text()
    other = tmp_path / "prices.toml"
    other.write_text(
        text.replace('"m6g.xlarge" = { on_demand = 0.1800, spot', '"m6g.xlarge" = { on_demand = 1.0, emr = 0.5, spot')
    )
    found = estimate(Workload(10_000), load_prices(other))
    assert dollars(found, "EC2: primary") == pytest.approx(2 * 730)
    assert dollars(found, "EMR") == pytest.approx(730 * (2 / 2 + 0.324 / 2 / 4))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[instances", "cannot be read as a price list"),
        ("[services]", "instances: Field required"),
        (None, "cannot be read as a price list"),
    ],
)
def test_a_file_that_is_no_price_list_is_refused(tmp_path: Path, content: str | None, sentence: str) -> None:
    file = tmp_path / "prices.toml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InvalidSetting, match=sentence):
        load_prices(file)


@pytest.mark.parametrize("days", ["original_days", "archive_days", "copy_days", "old_version_days"])
def test_nothing_is_kept_for_less_than_no_time(days: str) -> None:
    with pytest.raises(InvalidSetting, match="0 days or more"):
        Keeping(**{days: -1})


def test_what_a_price_list_lacks_is_named() -> None:
    without = replace(PRICES, services={name: one for name, one in PRICES.services.items() if name != "athena_tb"})
    with pytest.raises(InvalidSetting, match=r"\[services.athena_tb\]"):
        estimate(Workload(1), without)
    with pytest.raises(InvalidSetting, match="region us-east-1; choose one of eu-central-1"):
        estimate(Workload(1, region="us-east-1"), PRICES)
    with pytest.raises(InvalidSetting, match=r"says nothing of m6g\.xlarge"):
        estimate(Workload(1), Prices(replace(PRICES.instances, types={}), PRICES.regions, PRICES.services))


@pytest.mark.parametrize(
    "wrong",
    [
        {"photos_per_day": -1},
        {"megapixels": 0},
        {"photo_bytes": 0},
        {"peak_factor": 0.5},
        {"spot_share": 1.5},
        {"trigger_s": 0},
    ],
)
def test_an_impossible_workload_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidSetting):
        replace(Workload(1), **wrong)
