"""Checks whether the account may have as many processors and networks as a cluster needs, beside what it has."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Literal

from bootstrap.aws.cloud import Cloud
from bootstrap.aws.preflight.findings import Finding
from bootstrap.aws.preflight.needs import Needs
from store.aws import aws_call

ON_DEMAND, SPOT, VPCS = "ec2/L-1216C47A", "ec2/L-34B43A08", "vpc/L-F678F1CE"
# The families that these two quotas count together: A, C, D, H, I, M, R, T, Z (EC2 User Guide, "Amazon EC2 service
# quotas"). Others with these first letters, as inf, trn, dl and mac, have quotas of their own.
_STANDARD = re.compile(r"([acdhimrtz]|i[ms])\d")
_TYPES_AT_ONCE = 100


def on_demand_finding(cloud: Cloud, needs: Needs, stands: bool) -> Finding:
    """Whether a new cluster may have its On-Demand instances, and those that take the place of Spot ones.

    stands: a cluster runs, so the next one comes beside it.
    """
    vcpus_of = _vcpus_of(cloud, set(needs.instance_types))
    always = sum(fleet.least_vcpus(fleet.on_demand_units, vcpus_of) for fleet in needs.fleets)
    instead_of_spot = sum(fleet.least_vcpus(fleet.spot_units, vcpus_of) for fleet in needs.fleets)
    allowed, used = _allowed(cloud, ON_DEMAND), _vcpus_in_use(cloud, "on-demand")
    needed = always + instead_of_spot
    link = _link(cloud, ON_DEMAND)
    if allowed < used + needed:
        says = (
            f"The account may have {allowed} vCPUs of On-Demand standard instances, and {used} are in use. A new "
            f"cluster needs {needed}: {always} always, {instead_of_spot} when there are no Spot instances; an upgrade "
            f"makes it beside the old one. Ask for {used + needed + always} at {link}; the answer takes minutes to "
            "days."
        )
        return Finding("On-Demand", False, says, stops="a new cluster")
    if not stands and allowed < used + needed + always:
        says = (
            f"{allowed} vCPUs of On-Demand standard instances suffice for a first cluster; an upgrade, old beside "
            f"new, needs {used + needed + always}. Ask for them at {link} before the first upgrade."
        )
        return Finding("On-Demand", False, says)
    return Finding("On-Demand", True, f"{allowed} vCPUs allowed, {used} in use, {needed} needed for a new cluster")


def spot_finding(cloud: Cloud, needs: Needs, max_units: int) -> Finding:
    """Whether the account may have a cluster's first Spot instance, and as many as the cluster may grow to.

    max_units: how far a cluster may grow, in vCPUs; what is On-Demand is part of it, the primary node is not.
    """
    vcpus_of = _vcpus_of(cloud, set(needs.instance_types))
    first = sum(fleet.least_vcpus(fleet.spot_units, vcpus_of) for fleet in needs.fleets)
    core = sum(fleet.on_demand_units for fleet in needs.fleets if fleet.name == "core")
    allowed, used, grown = _allowed(cloud, SPOT), _vcpus_in_use(cloud, "spot"), max_units - core
    link = _link(cloud, SPOT)
    if allowed < used + first:
        says = (
            f"The account may have {allowed} vCPUs of Spot standard instances, and {used} are in use; a new cluster "
            f"begins with {first}. Ask for {used + grown} at {link}; the answer takes minutes to days."
        )
        return Finding("Spot", False, says, stops="a new cluster")
    if allowed < grown:
        says = (
            f"The account may have {allowed} vCPUs of Spot standard instances; a cluster may grow to {grown}. It "
            f"stays smaller, and a backlog takes longer. Ask for {grown} at {link}, or set --max-capacity-units."
        )
        return Finding("Spot", False, says)
    return Finding("Spot", True, f"{allowed} vCPUs allowed, {used} in use, up to {grown} needed")


def network_finding(cloud: Cloud, has_network: bool) -> Finding:
    """Whether the account may have one more network, if the stage has none yet."""
    with aws_call("count the networks"):
        used = sum(len(page["Vpcs"]) for page in cloud.ec2.get_paginator("describe_vpcs").paginate())
    allowed = _allowed(cloud, VPCS)
    if not has_network and allowed < used + 1:
        says = (
            f"The account may have {allowed} networks (VPCs) in {cloud.region}, and has {used}; a stage needs one. "
            f"Delete one, or ask at {_link(cloud, VPCS)} for more."
        )
        return Finding("networks", False, says, stops="everything")
    return Finding("networks", True, f"{allowed} allowed, {used} there")


def _allowed(cloud: Cloud, quota: str) -> int:
    service, code = quota.split("/")
    with aws_call(f"tell the quota {code} of {service}"):
        return int(cloud.quotas.get_service_quota(ServiceCode=service, QuotaCode=code)["Quota"]["Value"])


def _vcpus_in_use(cloud: Cloud, lifecycle: Literal["on-demand", "spot"]) -> int:
    count: Counter[str] = Counter()
    with aws_call("list the instances that run"):
        pages = cloud.ec2.get_paginator("describe_instances").paginate(
            Filters=[{"Name": "instance-state-name", "Values": ["pending", "running"]}]
        )
        for instance in (each for page in pages for group in page["Reservations"] for each in group["Instances"]):
            kind = str(instance["InstanceType"])
            # Only one of the two has the word.
            if _STANDARD.match(kind) and (instance.get("InstanceLifecycle") == "spot") == (lifecycle == "spot"):
                count[kind] += 1
    vcpus_of = _vcpus_of(cloud, set(count))
    return sum(number * vcpus_of[kind] for kind, number in count.items())


def _vcpus_of(cloud: Cloud, types: set[str]) -> Mapping[str, int]:
    """What quotas count: the type's processors, even if an instance was started with fewer."""
    found: dict[str, int] = {}
    names = sorted(types)
    with aws_call("describe instance types"):
        # By filter: a name that the region does not know is no error then.
        for start in range(0, len(names), _TYPES_AT_ONCE):
            pages = cloud.ec2.get_paginator("describe_instance_types").paginate(
                Filters=[{"Name": "instance-type", "Values": names[start : start + _TYPES_AT_ONCE]}]
            )
            for each in (each for page in pages for each in page["InstanceTypes"]):
                found[str(each["InstanceType"])] = each["VCpuInfo"]["DefaultVCpus"]
    return found


def _link(cloud: Cloud, quota: str) -> str:
    service, code = quota.split("/")
    return f"{cloud.console}/servicequotas/home/services/{service}/quotas/{code}"
