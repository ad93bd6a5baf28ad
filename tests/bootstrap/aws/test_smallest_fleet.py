"""The smallest fleet runs a nightly job beside the stream: reckoned from the template and from what EMR gives YARN.

The smallest fleet is the core node and one task node of 4 units. Processors and memory are counted, as
DominantResourceCalculator does, and no container is cut.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from bootstrap.aws.template import read_template

# yarn.nodemanager.resource.memory-mb of a node in MiB, from "Task configuration" in EMR's Release Guide
# (emr-hadoop-task-config): what it has for all xlarge and 2xlarge types of the families looked up, c6g and m6g too.
YARN_MIB = {"c.xlarge": 5_632, "c.2xlarge": 11_712, "m.xlarge": 11_712, "m.2xlarge": 23_424}
# Memory types are not looked up; they have more than m types.
YARN_MIB |= {"r.xlarge": YARN_MIB["m.xlarge"]}
VCPUS = {"xlarge": 4, "2xlarge": 8}
QUEUES = ("stream", "jobs")


@dataclass(frozen=True)
class Size:
    """Of a node, a container or a share: virtual processors and MiB."""

    cores: float
    mib: float

    def __add__(self, other: "Size") -> "Size":
        return Size(self.cores + other.cores, self.mib + other.mib)

    def times(self, share: float) -> "Size":
        return Size(self.cores * share, self.mib * share)

    def fits_in(self, other: "Size") -> bool:
        return self.cores <= other.cores and self.mib <= other.mib


@pytest.mark.parametrize("core_node", ["m6g.xlarge", "r6g.xlarge", "m5.xlarge", "r5.xlarge"])
def test_the_core_node_has_room_for_the_drivers_of_the_stream_and_of_a_job(core_node: str) -> None:
    assert core_node in _types("CoreInstanceFleet")
    node, driver = _node(core_node), _container("driver")
    assert (driver + driver).fits_in(node)
    for queue in QUEUES:
        assert driver.fits_in(node.times(_share(queue, ".accessible-node-labels.CORE.capacity"))), queue
    # A second job's driver waits.
    at_most = node.times(_share("jobs", ".accessible-node-labels.CORE.maximum-capacity"))
    assert driver.fits_in(at_most)
    assert not (driver + driver).fits_in(at_most) or core_node.startswith("r")


def test_one_task_node_of_any_type_has_room_for_an_executor_of_each() -> None:
    """Also if YARN lends executors nothing of the core node."""
    executor = _container("executor")
    types = list(_types("TaskInstanceFleets"))
    assert {"c6g.xlarge", "c5.xlarge"} <= set(types)
    for name in types:
        node = _node(name)
        assert (executor + executor).fits_in(node), name
        for queue in QUEUES:
            assert executor.fits_in(node.times(_share(queue, ".capacity"))), (name, queue)
        at_most = node.times(_share("jobs", ".maximum-capacity"))
        assert executor.fits_in(at_most), name


def test_jobs_never_take_the_last_executor_of_the_smallest_fleet() -> None:
    at_most = _node("c6g.xlarge").times(_share("jobs", ".maximum-capacity"))
    executor = _container("executor")
    assert not (executor + executor).fits_in(at_most)


def test_an_executor_uses_the_processors_and_most_of_the_memory_that_it_takes_of_a_task_node() -> None:
    node, executor = _node("c6g.xlarge"), _container("executor")
    on_a_node = int(node.cores // executor.cores)
    assert executor.times(on_a_node).cores == node.cores
    assert executor.times(on_a_node).mib >= 0.9 * node.mib


def test_the_shares_of_the_queues_are_a_whole() -> None:
    for suffix in (".capacity", ".accessible-node-labels.CORE.capacity"):
        assert sum(_share(queue, suffix) for queue in QUEUES) == 1
    properties = _configuration("capacity-scheduler")
    assert properties["yarn.scheduler.capacity.resource-calculator"].endswith(".DominantResourceCalculator")
    assert properties["yarn.scheduler.capacity.maximum-am-resource-percent"] == "1"


def test_the_smallest_fleet_is_what_the_template_begins_with_and_the_least_that_it_may_grow_to() -> None:
    cluster = _cluster()
    instances = cluster["Instances"]
    assert instances["CoreInstanceFleet"]["TargetOnDemandCapacity"] == 4
    assert [fleet["TargetSpotCapacity"] for fleet in instances["TaskInstanceFleets"]] == [4]
    assert _template()["Parameters"]["MaxCapacityUnits"]["MinValue"] == 8


def _container(of: str) -> Size:
    settings = _configuration("spark-defaults")
    mib = sum(_mib(settings[f"spark.{of}.{part}"]) for part in ("memory", "memoryOverhead"))
    return Size(int(settings[f"spark.{of}.cores"]), mib)


def _mib(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([gm])", text).groups()  # type: ignore[union-attr]
    return int(number) * (1024 if unit == "g" else 1)


def _node(name: str) -> Size:
    family, size = name.split(".")
    assert "yarn.nodemanager.resource.cpu-vcores" not in _configuration("yarn-site")
    return Size(VCPUS[size], YARN_MIB[f"{family[0]}.{size}"])


def _share(queue: str, suffix: str) -> float:
    return float(_configuration("capacity-scheduler")[f"yarn.scheduler.capacity.root.{queue}{suffix}"]) / 100


def _configuration(classification: str) -> dict[str, str]:
    (found,) = (each for each in _cluster()["Configurations"] if each["Classification"] == classification)
    return dict(found["ConfigurationProperties"])


def _types(fleet: str) -> Iterator[str]:
    fleets = _cluster()["Instances"][fleet]
    for each in fleets if isinstance(fleets, list) else [fleets]:
        for config in each["InstanceTypeConfigs"]:
            assert "Configurations" not in config
            yield from config["InstanceType"]["Fn::If"][1:]


def _cluster() -> dict[str, Any]:
    return dict(_template()["Resources"]["Cluster"]["Properties"])


def _template() -> dict[str, Any]:
    return read_template().sections
