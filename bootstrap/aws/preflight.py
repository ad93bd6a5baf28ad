"""Checks before a deployment whether the account and the region let a stage be made."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from bootstrap.aws.cloud import Cloud
from bootstrap.aws.prices import Architecture
from bootstrap.aws.template import read_template
from features.errors import FruitsError
from store.aws import aws_call
from store.errors import CloudUnavailable

# One primary and one core node, twice: a new cluster stands before the old one goes.
ON_DEMAND_VCPUS = 16


class NotReady(FruitsError):
    """The account lacks something that a stage needs; nothing was made."""


@dataclass(frozen=True)
class Finding:
    """The result of one check; one that is not `fine` stops the deployment if it is `fatal`."""

    what: str
    fine: bool
    says: str
    fatal: bool = False


def preflight_findings(cloud: Cloud, architecture: Architecture, spot_units: int) -> list[Finding]:
    """The results of all checks. What may not be read is a finding that says so.

    spot_units: the most vCPUs of Spot instances the cluster may grow to.
    """
    on_demand, least = "vCPUs of On-Demand standard instances", ON_DEMAND_VCPUS / 2
    checks: dict[str, Callable[[], Finding]] = {
        "region": lambda: _region(cloud),
        "instance types": lambda: _offered(cloud, architecture),
        "VPCs": lambda: _quota(cloud, "vpc/L-F678F1CE", "VPCs in this region", 1, 0, _count_vpcs(cloud)),
        "On-Demand": lambda: _quota(cloud, "ec2/L-1216C47A", on_demand, ON_DEMAND_VCPUS, least),
        "Spot": lambda: _quota(cloud, "ec2/L-34B43A08", "vCPUs of Spot standard instances", spot_units, 0),
    }
    findings = [Finding("account", True, f"{cloud.account}, as {cloud.caller}")]
    for what, check in checks.items():
        try:
            findings.append(check())
        except CloudUnavailable as error:
            findings.append(Finding(what, False, f"Not known: {error}"))
    return findings


def check_ready(findings: list[Finding]) -> None:
    """Raises NotReady with all that stops a deployment."""
    fatal = [finding.says for finding in findings if finding.fatal and not finding.fine]
    if fatal:
        raise NotReady(" ".join(fatal))


def instance_types(architecture: Architecture) -> list[str]:
    """The instance types in the template."""
    types = set(re.findall(r"\b[a-z]\d[a-z]*\.\d*xlarge\b", read_template().text))
    return sorted(kind for kind in types if ("g" in kind.partition(".")[0][2:]) == (architecture == "arm64"))


def _region(cloud: Cloud) -> Finding:
    with aws_call(f"tell whether {cloud.region} is enabled"):
        found = cloud.ec2.describe_regions(RegionNames=[cloud.region], AllRegions=True)["Regions"]
    if found and found[0].get("OptInStatus") == "not-opted-in":
        says = f"{cloud.region} is not enabled in account {cloud.account}; enable it under Account > AWS Regions."
        return Finding("region", False, says, fatal=True)
    return Finding("region", True, cloud.region)


def _offered(cloud: Cloud, architecture: Architecture) -> Finding:
    types = instance_types(architecture)
    with aws_call(f"list the instance types of {cloud.region}"):
        pages = cloud.ec2.get_paginator("describe_instance_type_offerings").paginate(
            LocationType="region", Filters=[{"Name": "instance-type", "Values": types}]
        )
        offered = {offer.get("InstanceType") for page in pages for offer in page["InstanceTypeOfferings"]}
    missing = [kind for kind in types if kind not in offered]
    if missing:
        says = f"{cloud.region} does not offer {', '.join(missing)}; choose another region or --architecture."
        return Finding("instance types", False, says, fatal=True)
    return Finding("instance types", True, ", ".join(types))


def _count_vpcs(cloud: Cloud) -> int:
    with aws_call("count the VPCs"):
        return sum(len(page["Vpcs"]) for page in cloud.ec2.get_paginator("describe_vpcs").paginate())


def _quota(cloud: Cloud, quota: str, name: str, needed: float, least: float, used: int = 0) -> Finding:
    service, code = quota.split("/")
    with aws_call(f"tell the quota of {name}"):
        allowed = cloud.quotas.get_service_quota(ServiceCode=service, QuotaCode=code)["Quota"]["Value"]
    if allowed < used + needed:
        existing = f", and {used} are there" if used else ""
        says = (
            f"The account may have {allowed:.0f} {name}{existing}; {needed:.0f} more may be needed. Ask for "
            f"more at {cloud.console}/servicequotas/home/services/{service}/quotas/{code}"
        )
        return Finding(name, False, says, fatal=allowed < used + least)
    return Finding(name, True, f"{allowed:.0f} allowed, {used + needed:.0f} needed")
