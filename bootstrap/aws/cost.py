"""Estimates a month's bill on Amazon EMR from a price list, the measured pace and the protocol's requests."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from bootstrap.aws.keeping import DAYS_A_MONTH, GIB, Item, Keeping, listings_a_month, storage_items
from bootstrap.aws.prices import Architecture, Prices
from features.errors import InvalidSetting

HOURS_A_MONTH = 730
SECONDS_A_DAY = 86_400

USUAL_MEGAPIXELS = 12.2
MEASURED_ON = "2026-11-22"

# A row in one zstd file: 296 drawn photos through MobileNetV2, projected on 64 components.
FEATURE_ROW_BYTES = 3_200
PROJECTION_ROW_BYTES = 300

# A picture of 300 px that is written and read back, whatever the photo's size: docs/benchmarks.md, Copies.
COPY_SECONDS = 0.002

# The protocol, docs/architecture.md: a batch on open tables, its share of the checkpoints at each hundredth, the files
# of a task; each photo is put and fetched once. The table of copies is a fourth log beside three, and one more file.
BATCH_REQUESTS = 27
COPIES_BATCH_REQUESTS = 24 / 3
CHECKPOINT_REQUESTS = 640 / 100
COPIES_CHECKPOINT_REQUESTS = CHECKPOINT_REQUESTS / 3
FILES_A_TASK = 2
# Each file of copies is read for compaction, and before originals are deleted that a listing shows.
GETS_A_FILE_OF_COPIES = 3
SHORTEST_TASK_S = 0.5
# The queue's poll when nothing comes, and how many calls a second its receivers make when much does.
IDLE_POLL_S = 20
DEPTH_POLL_S = 30
QUEUE_CALLS_A_SECOND = 160
MESSAGES_A_CALL = 10
MESSAGE_BYTES = 2_000
TRANSITIONS_A_RUN = 5


@dataclass(frozen=True)
class Cluster:
    """The machines of a stage, and what it has beside them whatever the load, as in bootstrap/aws/templates.

    One primary and one core node always run, On-Demand; drivers are on the core node. Executors are on task nodes,
    which come and go with the load, down to one of `least_task_vcpus`: a stream always asks for an executor. `disk_gib`
    is of a node with its root volume. `interface_endpoints` counts one in two zones twice.
    """

    steady: str
    task: str
    least_task_vcpus: int = 4
    disk_gib: int = 62
    interface_endpoints: int = 5
    alarm_metrics: int = 14
    metrics: int = 28
    runs_a_month: float = 2 * DAYS_A_MONTH


CLUSTERS: Mapping[Architecture, Cluster] = {
    "arm64": Cluster(steady="m6g.xlarge", task="c6g.2xlarge"),
    "x86_64": Cluster(steady="m5.xlarge", task="c5.2xlarge"),
}


@dataclass(frozen=True)
class Workload:
    """What the service has to do, and how.

    `photo_bytes` None means the bytes of the measured photos of that size. `peak_factor` is the busiest hour relative
    to the mean. `utilisation` is the share of a task node's time that photos use; it spends the rest on starting and
    scaling. With `answers` each photo is answered by one object more; its few hundred bytes do not count.
    `projected_versions` is how many PCA versions of each row are kept; `fruits models prune` deletes older ones.
    """

    photos_per_day: float
    region: str = "eu-west-3"
    architecture: Architecture = "arm64"
    megapixels: float = USUAL_MEGAPIXELS
    photo_bytes: float | None = None
    peak_factor: float = 2.0
    spot_share: float = 1.0
    utilisation: float = 0.7
    trigger_s: float = 2.0
    keeping: Keeping = field(default_factory=Keeping)
    table_months: float = 12
    projected_versions: float = 2
    scans_per_projection: float = 3
    bucket_key_share: float = 0.01
    answers: bool = False

    def __post_init__(self) -> None:
        _refuse_unless(self.photos_per_day >= 0, "The photos a day must be 0 or more.")
        _refuse_unless(self.megapixels > 0, "The megapixels must be more than 0.")
        _refuse_unless(self.photo_bytes is None or self.photo_bytes > 0, "A photo must have more than 0 bytes.")
        _refuse_unless(1 <= self.peak_factor <= 12, "The peak factor must be between 1 and 12.")
        _refuse_unless(0 <= self.spot_share <= 1, "The Spot share must be between 0 and 1.")
        _refuse_unless(self.trigger_s > 0, "The trigger must be more than 0 s.")

    @property
    def bytes_a_photo(self) -> float:
        """Bytes of one photo."""
        return usual_bytes(self.megapixels) if self.photo_bytes is None else self.photo_bytes


@dataclass(frozen=True)
class Fleet:
    """Machines over a month: `task_nodes_at_peak` at once, `task_node_hours` of them in all, `core_hours` of real work.

    `task_hours` counts the least task node by its share of the usual one, whose price it has by the processor.
    `capacity_units` are the vCPUs at the peak without the primary node's, as the stack's MaxCapacityUnits counts them.
    """

    task_nodes_at_peak: int
    capacity_units: int
    steady_hours: float
    task_node_hours: float
    task_hours: float
    core_hours: float


@dataclass(frozen=True)
class Estimate:
    """A month's bill."""

    workload: Workload
    cluster: Cluster
    fleet: Fleet
    items: tuple[Item, ...]

    @property
    def dollars(self) -> float:
        """The month's sum."""
        return sum(item.dollars for item in self.items)

    @property
    def dollars_per_million_photos(self) -> float | None:
        """The sum for a million photos; None when none come."""
        photos = self.workload.photos_per_day * DAYS_A_MONTH
        return self.dollars / photos * 1e6 if photos else None


@dataclass(frozen=True)
class MeasuredPace:
    """One row of docs/benchmarks.md: the service on two cores, by one core."""

    megapixels: float
    photo_bytes: float
    photos_per_s_per_core: float


# 100px from disk, 350px and 12MP from S3, whose stand-in took its share of the same two cores.
MEASURED = (
    MeasuredPace(0.01, 4_400, 321.5 / 2),
    MeasuredPace(0.1225, 23_900, 174.9 / 2),
    MeasuredPace(USUAL_MEGAPIXELS, 3_800_000, 37.9 / 2),
)
_MEGAPIXELS = [pace.megapixels for pace in MEASURED]
_PHOTO_BYTES = [pace.photo_bytes for pace in MEASURED]


def estimate(workload: Workload, prices: Prices) -> Estimate:
    """A month's bill, in dollars. Raises InvalidSetting when the price list lacks a region, a machine or a service."""
    cluster = CLUSTERS[workload.architecture]
    fleet = _fleet(workload, cluster, prices)
    items = (
        *_machines(workload, cluster, fleet, prices),
        *_storage(workload, prices),
        *_requests(workload, prices),
        *_load_independent(workload, cluster, prices),
    )
    return Estimate(workload, cluster, fleet, items)


def idle(workload: Workload, prices: Prices) -> Estimate:
    """The same with no photos at all and empty buckets."""
    return estimate(replace(workload, photos_per_day=0), prices)


def core_seconds(megapixels: float) -> float:
    """Seconds one core of the measured machine takes for a photo, interpolated between the measured sizes."""
    return _interpolate(megapixels, _MEGAPIXELS, [1 / pace.photos_per_s_per_core for pace in MEASURED])


def usual_bytes(megapixels: float) -> float:
    """Bytes of a photo, interpolated between the measured sizes."""
    return _interpolate(megapixels, _MEGAPIXELS, _PHOTO_BYTES)


def megapixels_of(photo_bytes: float) -> float:
    """The megapixels of a photo with so many bytes; the inverse of `usual_bytes`."""
    return _interpolate(photo_bytes, _PHOTO_BYTES, _MEGAPIXELS)


def batches_a_month(workload: Workload) -> float:
    """Micro-batches: one at each trigger at which a photo waits, if photos come independently of each other."""
    busy_share = 1 - math.exp(-workload.photos_per_day / SECONDS_A_DAY * workload.trigger_s)
    return DAYS_A_MONTH * SECONDS_A_DAY / workload.trigger_s * busy_share


def tasks_a_month(workload: Workload) -> float:
    """Tasks of the micro-batches: one each, or as many as half seconds of work."""
    work_s = workload.photos_per_day * DAYS_A_MONTH * core_seconds(workload.megapixels)
    return max(batches_a_month(workload), work_s / SHORTEST_TASK_S)


def hourly_load(peak_factor: float) -> list[float]:
    """The 24 hours' load relative to the mean: it falls in a straight line from the busiest hour to both sides.

    Up to a factor of 2 the quietest hour lacks what the busiest has too much; above 2, the quiet hours have no load.
    """
    away = [abs(hour - 11.5) / 12 for hour in range(24)]
    if peak_factor <= 2:
        load = [peak_factor - 2 * (peak_factor - 1) * distance for distance in away]
    else:
        load = [max(0.0, peak_factor * (1 - distance * peak_factor / 2)) for distance in away]
    mean = sum(load) / len(load)
    return [part / mean for part in load]


def _fleet(workload: Workload, cluster: Cluster, prices: Prices) -> Fleet:
    steady, task = prices.instance_type(cluster.steady), prices.instance_type(cluster.task)
    seconds_a_photo = core_seconds(workload.megapixels) + (COPY_SECONDS if workload.keeping.copy_days else 0.0)
    mean_cores = workload.photos_per_day * seconds_a_photo / SECONDS_A_DAY
    one_task_node = task.vcpus * task.relative_speed
    least = cluster.least_task_vcpus / task.vcpus
    needed = [mean_cores * load / workload.utilisation for load in hourly_load(workload.peak_factor)]
    nodes = [least if cores <= least * one_task_node else math.ceil(cores / one_task_node) for cores in needed]
    return Fleet(
        task_nodes_at_peak=math.ceil(max(nodes)),
        capacity_units=steady.vcpus + math.ceil(max(nodes) * task.vcpus),
        steady_hours=2 * HOURS_A_MONTH,
        task_node_hours=sum(map(math.ceil, nodes)) * DAYS_A_MONTH,
        task_hours=sum(nodes) * DAYS_A_MONTH,
        core_hours=mean_cores * HOURS_A_MONTH,
    )


def _machines(workload: Workload, cluster: Cluster, fleet: Fleet, prices: Prices) -> list[Item]:
    steady = prices.machine(workload.region, cluster.steady)
    task = prices.machine(workload.region, cluster.task)
    spot_hours = fleet.task_hours * workload.spot_share
    emr = fleet.steady_hours * prices.emr(workload.region, cluster.steady)
    emr += fleet.task_hours * prices.emr(workload.region, cluster.task)
    all_hours, node_hours = fleet.steady_hours + fleet.task_hours, fleet.steady_hours + fleet.task_node_hours
    return [
        Item(f"EC2: primary and core node, {cluster.steady}", fleet.steady_hours, "hour", steady.on_demand),
        Item(f"EC2: task nodes on Spot, {cluster.task}", spot_hours, "hour", task.spot),
        Item(f"EC2: task nodes On-Demand, {cluster.task}", fleet.task_hours - spot_hours, "hour", task.on_demand),
        Item("EMR on all of them", all_hours, "hour", emr / all_hours),
        Item("EBS gp3", cluster.disk_gib * node_hours / HOURS_A_MONTH, "GiB-month", prices.of("ebs_gb_month")),
    ]


def _storage(workload: Workload, prices: Prices) -> list[Item]:
    rows = workload.photos_per_day * DAYS_A_MONTH * workload.table_months
    tables_gib = rows * (FEATURE_ROW_BYTES + PROJECTION_ROW_BYTES * workload.projected_versions) / GIB
    tables = f"tables after {workload.table_months:g} months"
    return list(
        storage_items(workload.keeping, workload.photos_per_day, workload.bytes_a_photo, tables_gib, tables, prices)
    )


def _requests(workload: Workload, prices: Prices) -> list[Item]:
    photos = workload.photos_per_day * DAYS_A_MONTH
    batches, tasks = batches_a_month(workload), tasks_a_month(workload)
    archives, copies = workload.keeping.archive_days > 0, workload.keeping.copy_days > 0
    # Whether a log is read or written, the request is counted at the dearer price.
    requests_a_batch = BATCH_REQUESTS + CHECKPOINT_REQUESTS
    requests_a_batch += (COPIES_BATCH_REQUESTS + COPIES_CHECKPOINT_REQUESTS) * copies
    puts = photos * (1 + archives + workload.answers) + batches * requests_a_batch + tasks * (FILES_A_TASK + copies)
    reads = copies * (2 if workload.keeping.original_days else 1)
    gets = photos + tasks * reads * GETS_A_FILE_OF_COPIES
    lists = listings_a_month(workload.keeping, workload.photos_per_day)
    # S3 sends each message alone; they are received and deleted together as far as they come faster than calls return.
    photos_a_second = workload.photos_per_day / SECONDS_A_DAY
    calls = min(1.0, max(1 / MESSAGES_A_CALL, QUEUE_CALLS_A_SECOND / photos_a_second)) if photos_a_second else 1.0
    polls = DAYS_A_MONTH * SECONDS_A_DAY * (1 / IDLE_POLL_S + 1 / DEPTH_POLL_S)
    queue = photos * (1 + 2 * calls) + polls
    keys = (puts + gets) * workload.bucket_key_share
    scanned_tb = photos * PROJECTION_ROW_BYTES * workload.scans_per_projection / 1e12
    return [
        Item("S3: PUT, COPY", puts / 1e3, "thousand", prices.of("s3_put_thousand")),
        Item("S3: LIST of the landing", lists / 1e3, "thousand", prices.of("s3_put_thousand")),
        Item("S3: GET", gets / 1e3, "thousand", prices.of("s3_get_thousand")),
        Item("SQS", queue / 1e6, "million", prices.of("sqs_million")),
        Item("KMS: the key", 1, "month", prices.of("kms_key_month"), stays=True),
        Item("KMS: requests", keys / 1e4, "ten thousand", prices.of("kms_ten_thousand")),
        Item("Athena", scanned_tb, "TB scanned", prices.of("athena_tb")),
    ]


def _load_independent(workload: Workload, cluster: Cluster, prices: Prices) -> list[Item]:
    endpoint_hours = cluster.interface_endpoints * HOURS_A_MONTH
    # Only the queue's messages are many; S3 is reached through a gateway endpoint, which costs nothing.
    messages_gb = workload.photos_per_day * DAYS_A_MONTH * MESSAGE_BYTES / 1e9
    run = prices.of("schedule_million") / 1e6 + TRANSITIONS_A_RUN * prices.of("transition_thousand") / 1e3
    return [
        Item("Interface endpoints: hours", endpoint_hours, "hour", prices.of("endpoint_hour")),
        Item("Interface endpoints: bytes", messages_gb, "GB", prices.of("endpoint_gb")),
        Item("CloudWatch: alarms", cluster.alarm_metrics, "metric", prices.of("alarm_month")),
        Item("CloudWatch: metrics", cluster.metrics, "metric", prices.of("metric_month")),
        Item("CloudWatch: puts", HOURS_A_MONTH * 60 / 1e3, "thousand", prices.of("metric_put_thousand")),
        Item("Scheduler and Step Functions", cluster.runs_a_month, "run", run),
    ]


def _interpolate(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    # Not NumPy: it would be loaded at every start of the command.
    upper = min(max(bisect_left(xs, x), 1), len(xs) - 1)
    slope = (ys[upper] - ys[upper - 1]) / (xs[upper] - xs[upper - 1])
    # Below the smallest measured size the line could reach nothing or less.
    return max(ys[0], ys[upper] + slope * (x - xs[upper]))


def _refuse_unless(holds: bool, sentence: str) -> None:
    if not holds:
        raise InvalidSetting(sentence)
