"""What can be known before anything is made: whether this account, in this region, will let a stage stand."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bootstrap.aws.cloud import Cloud, CloudRefused, asked
from bootstrap.aws.template import FILE
from bootstrap.aws.wheelhouse import Architecture
from features.errors import FruitsError

# One primary and one core node, twice: a new cluster stands before the old one goes.
ON_DEMAND_VCPUS = 16


class NotReady(FruitsError):
    """Something has to be put right in the account first; nothing was made."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; a finding that is not `fine` stops the deployment when it is `fatal`."""

    what: str
    fine: bool
    says: str
    fatal: bool = False


@dataclass(frozen=True)
class _Quota:
    code: str
    name: str
    needed: float
    least: float


def preflight_findings(cloud: Cloud, architecture: Architecture, spot_units: int) -> list[Finding]:
    """Everything that is known to be in the way, or may be; a quota that may not be read is said to be unknown.

    spot_units: the most vCPUs of Spot instances the cluster may grow to.
    """
    return list(_findings(cloud, architecture, spot_units))


def check_ready(findings: list[Finding]) -> None:
    """Raises NotReady with what stands in the way, all of it."""
    fatal = [finding.says for finding in findings if finding.fatal and not finding.fine]
    if fatal:
        raise NotReady(" ".join(fatal))


def instance_types(architecture: Architecture) -> list[str]:
    """The instance types that the template may ask for."""
    types = set(re.findall(r"\b[a-z]\d[a-z]*\.\d*xlarge\b", FILE.read_text()))
    return sorted(kind for kind in types if ("g" in kind.partition(".")[0][2:]) == (architecture == "arm64"))


def _findings(cloud: Cloud, architecture: Architecture, spot_units: int) -> Iterator[Finding]:
    yield Finding("account", True, f"{cloud.account}, as {cloud.caller}")
    yield _looked("region", lambda: _region(cloud))
    yield _looked("instance types", lambda: _offered(cloud, architecture))
    vpcs = _Quota("L-F678F1CE", "VPCs in this region", 1, 0)
    yield _looked("VPCs", lambda: _quota(cloud, "vpc", vpcs, _vpcs(cloud)))
    on_demand = _Quota("L-1216C47A", "vCPUs of On-Demand standard instances", ON_DEMAND_VCPUS, ON_DEMAND_VCPUS / 2)
    yield _looked("On-Demand", lambda: _quota(cloud, "ec2", on_demand, 0))
    spot = _Quota("L-34B43A08", "vCPUs of Spot standard instances", spot_units, 0)
    yield _looked("Spot", lambda: _quota(cloud, "ec2", spot, 0))


def _looked(what: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except CloudRefused as error:
        return Finding(what, False, f"Not known: {error}")


def _region(cloud: Cloud) -> Finding:
    with asked(f"whether {cloud.region} is in use"):
        found = cloud.ec2.describe_regions(RegionNames=[cloud.region], AllRegions=True)["Regions"]
    if found and found[0].get("OptInStatus") == "not-opted-in":
        says = f"{cloud.region} is not enabled in account {cloud.account}; enable it under Account > AWS Regions."
        return Finding("region", False, says, fatal=True)
    return Finding("region", True, cloud.region)


def _offered(cloud: Cloud, architecture: Architecture) -> Finding:
    wanted = instance_types(architecture)
    with asked(f"which instance types {cloud.region} has"):
        pages = cloud.ec2.get_paginator("describe_instance_type_offerings").paginate(
            LocationType="region", Filters=[{"Name": "instance-type", "Values": wanted}]
        )
        offered = {offer.get("InstanceType") for page in pages for offer in page["InstanceTypeOfferings"]}
    missing = [kind for kind in wanted if kind not in offered]
    if missing:
        says = f"{cloud.region} does not offer {', '.join(missing)}; choose another region or --architecture."
        return Finding("instance types", False, says, fatal=True)
    return Finding("instance types", True, ", ".join(wanted))


def _vpcs(cloud: Cloud) -> int:
    with asked("how many VPCs there are"):
        return sum(len(page["Vpcs"]) for page in cloud.ec2.get_paginator("describe_vpcs").paginate())


def _quota(cloud: Cloud, service: str, quota: _Quota, used: int) -> Finding:
    with asked(f"how many {quota.name} are allowed"):
        allowed = cloud.quotas.get_service_quota(ServiceCode=service, QuotaCode=quota.code)["Quota"]["Value"]
    if allowed < used + quota.needed:
        taken = f", and {used} are there" if used else ""
        says = (
            f"The account may have {allowed:.0f} {quota.name}{taken}; {quota.needed:.0f} more may be needed. Ask for "
            f"more at {cloud.console}/servicequotas/home/services/{service}/quotas/{quota.code}"
        )
        return Finding(quota.name, False, says, fatal=allowed < used + quota.least)
    return Finding(quota.name, True, f"{allowed:.0f} allowed, {used + quota.needed:.0f} needed")
