"""What the template asks of a region and an account, read from the template itself."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bootstrap.aws.prices import Architecture
from bootstrap.aws.template import read_template

# AWS makes these when a person first clicks through the console, which nobody may have done in a new account.
SERVICE_ROLES = {
    "AWSServiceRoleForEMRCleanup": "elasticmapreduce.amazonaws.com",
    "AWSServiceRoleForEC2Spot": "spot.amazonaws.com",
}


@dataclass(frozen=True)
class Fleet:
    """Instances of one purpose, of any of its types; `units_of` is what one instance of a type counts for."""

    name: str
    units_of: Mapping[str, int]
    on_demand_units: int
    spot_units: int

    def least_vcpus(self, units: int, vcpus_of: Mapping[str, int]) -> int:
        """The virtual processors of the smallest choice of one type that makes up so many units."""
        choices = [math.ceil(units / each) * vcpus_of[kind] for kind, each in self.units_of.items() if kind in vcpus_of]
        return min(choices, default=0)


@dataclass(frozen=True)
class Needs:
    """What a cluster and its network need; `endpoint_zones` are the zones of each endpoint, by its service."""

    release_label: str
    zones: tuple[str, ...]
    fleets: tuple[Fleet, ...]
    endpoint_zones: Mapping[str, frozenset[str]]

    @property
    def instance_types(self) -> list[str]:
        return sorted({kind for fleet in self.fleets for kind in fleet.units_of})


def read_needs(region: str, architecture: Architecture, release_label: str | None = None) -> Needs:
    """The needs of this version's template in a region.

    release_label: what the stage runs, default the template's.
    """
    template = read_template().sections
    resources: dict[str, Any] = template["Resources"]
    zone_of = {
        name: _text(each["Properties"]["AvailabilityZone"], region)
        for name, each in resources.items()
        if each["Type"] == "AWS::EC2::Subnet"
    }
    endpoints = {
        _text(each["Properties"]["ServiceName"], region): frozenset(
            zone_of[name] for name in _references(each["Properties"]["SubnetIds"]) if name in zone_of
        )
        for each in resources.values()
        if each["Type"] == "AWS::EC2::VPCEndpoint" and each["Properties"].get("VpcEndpointType") == "Interface"
    }
    clusters = [each["Properties"] for each in resources.values() if each["Type"] == "AWS::EMR::Cluster"]
    zones = {zone_of[name] for each in clusters for name in _references(each["Instances"]["Ec2SubnetIds"])}
    return Needs(
        release_label or template["Parameters"]["ReleaseLabel"]["Default"],
        tuple(sorted(zones)),
        tuple(fleet for each in clusters for fleet in _fleets(each["Instances"], architecture)),
        endpoints,
    )


def _fleets(instances: dict[str, Any], architecture: Architecture) -> Iterator[Fleet]:
    described = [instances["MasterInstanceFleet"], instances["CoreInstanceFleet"]]
    for fleet in (*described, *instances.get("TaskInstanceFleets", [])):
        units_of = {
            _of_architecture(each["InstanceType"], architecture): int(each["WeightedCapacity"])
            for each in fleet["InstanceTypeConfigs"]
        }
        on_demand, spot = (fleet.get(f"Target{kind}Capacity", 0) for kind in ("OnDemand", "Spot"))
        yield Fleet(fleet["Name"], units_of, int(on_demand), int(spot))


def _of_architecture(value: Any, architecture: Architecture) -> str:
    if isinstance(value, str):
        return value
    _, arm64, x86_64 = value["Fn::If"]
    return str(arm64 if architecture == "arm64" else x86_64)


def _text(value: Any, region: str) -> str:
    return str(value["Fn::Sub"] if isinstance(value, dict) else value).replace("${AWS::Region}", region)


def _references(value: Any) -> Iterator[str]:
    """The names of the resources that a value refers to, however deep."""
    if isinstance(value, dict):
        if "Ref" in value:
            yield str(value["Ref"])
        for each in value.values():
            yield from _references(each)
    elif isinstance(value, list):
        for each in value:
            yield from _references(each)
