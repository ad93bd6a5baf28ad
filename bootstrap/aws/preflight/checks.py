"""Checks before a deployment whether the account and the region let a stage be made."""

from collections.abc import Callable
from functools import partial

from bootstrap.aws.cloud import Cloud
from bootstrap.aws.preflight.findings import Finding
from bootstrap.aws.preflight.needs import SERVICE_ROLES, Needs, read_needs
from bootstrap.aws.preflight.quotas import network_finding, on_demand_finding, spot_finding
from bootstrap.aws.prices import Architecture
from bootstrap.aws.stack import Stack
from bootstrap.aws.template import read_template
from store.aws import aws_call, try_aws_call
from store.errors import CloudUnavailable


def preflight_findings(
    cloud: Cloud, architecture: Architecture, max_units: int, stack: Stack | None, stands: bool
) -> list[Finding]:
    """The results of all checks; each only reads. What may not be read is a finding that says so.

    max_units: the most vCPUs the cluster may grow to. stands: the stage's cluster runs.
    """
    needs = read_needs(cloud.region, architecture, stack.parameters.get("ReleaseLabel") if stack else None)
    checks: dict[str, Callable[[], Finding]] = {
        "plan": lambda: _plan(cloud),
        "region": lambda: _region(cloud),
        "template": lambda: _template(cloud),
        "release": lambda: _release(cloud, needs),
        "instance types": lambda: _instance_types(cloud, needs, architecture),
        "endpoints": lambda: _endpoints(cloud, needs),
        "roles": lambda: _roles(cloud),
        "networks": lambda: network_finding(cloud, stack is not None and stack.has_compute),
        "On-Demand": lambda: on_demand_finding(cloud, needs, stands),
        "Spot": lambda: spot_finding(cloud, needs, max_units),
    }
    findings = [Finding("account", True, f"{cloud.account}, as {cloud.caller}")]
    for what, check in checks.items():
        try:
            findings.append(check())
        except CloudUnavailable as error:
            findings.append(Finding(what, False, f"Not known: {error}"))
    return findings


def _plan(cloud: Cloud) -> Finding:
    # An account of the free plan may start small types only ("The specified instance type is not eligible for Free
    # Tier"). One from before these plans has none (Billing and Cost Management API, GetAccountPlanState).
    plan = try_aws_call(
        "tell the account's plan", lambda: cloud.free_tier.get_account_plan_state(), "ResourceNotFoundException"
    )
    if plan is not None and plan["accountPlanType"] == "FREE":
        says = (
            f"Account {cloud.account} is on AWS's free plan, which has no instances as large as a cluster needs. "
            "Upgrade it: `aws freetier upgrade-account-plan --account-plan-type PAID --region us-east-1`."
        )
        return Finding("plan", False, says, stops="everything")
    return Finding("plan", True, "paid, or from before there were plans")


def _region(cloud: Cloud) -> Finding:
    with aws_call(f"tell whether {cloud.region} is enabled"):
        found = cloud.ec2.describe_regions(RegionNames=[cloud.region], AllRegions=True)["Regions"]
    if found and found[0].get("OptInStatus") == "not-opted-in":
        says = f"{cloud.region} is not enabled in account {cloud.account}; enable it under Account > AWS Regions."
        return Finding("region", False, says, stops="everything")
    return Finding("region", True, cloud.region)


def _template(cloud: Cloud) -> Finding:
    from botocore.exceptions import ClientError

    # A request carries 51,200 bytes at most (CloudFormation API, ValidateTemplate); the rest has no bucket to lie in.
    body = read_template().foundation().text
    with aws_call("read the template"):
        try:
            cloud.cloudformation.validate_template(TemplateBody=body)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ValidationError":
                raise
            why = error.response["Error"].get("Message", "").rstrip(".")
            says = f"CloudFormation does not take this version's template: {why}. Tell us; nothing was made."
            return Finding("template", False, says, stops="everything")
    return Finding("template", True, f"CloudFormation takes its foundation, {len(body.encode()) / 1e3:.0f} kB")


def _release(cloud: Cloud, needs: Needs) -> Finding:
    label = needs.release_label
    found = try_aws_call(
        f"describe the release {label}",
        lambda: cloud.emr.describe_release_label(ReleaseLabel=label),
        *("InvalidRequestException", "ValidationException"),
    )
    if found is None or not any(each.get("Name") == "Spark" for each in found.get("Applications", [])):
        says = f"EMR in {cloud.region} has no release {label} with Spark; choose another region."
        return Finding("release", False, says, stops="a new cluster")
    return Finding("release", True, label)


def _instance_types(cloud: Cloud, needs: Needs, architecture: Architecture) -> Finding:
    with aws_call(f"list the instance types of {cloud.region}"):
        pages = cloud.ec2.get_paginator("describe_instance_type_offerings").paginate(
            LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": needs.instance_types}]
        )
        offered = {
            (offer.get("Location"), offer.get("InstanceType"))
            for page in pages
            for offer in page["InstanceTypeOfferings"]
        }
    # EMR takes one zone for all, in which each fleet needs one type.
    unfit = {
        zone: fleet.name
        for zone in needs.zones
        for fleet in needs.fleets
        if not any((zone, kind) in offered for kind in fleet.units_of)
    }
    if needs.zones and len(unfit) == len(needs.zones):
        says = (
            f"Neither {' nor '.join(needs.zones)} has instances for the fleet {' or '.join(sorted({*unfit.values()}))} "
            f"of {architecture}; choose another region or --architecture."
        )
        return Finding("instance types", False, says, stops="a new cluster")
    missing = [
        f"{kind} in {zone}" for zone in needs.zones for kind in needs.instance_types if (zone, kind) not in offered
    ]
    if missing:
        says = f"There is no {', no '.join(missing)}; a cluster does with the others."
        return Finding("instance types", False, says)
    return Finding("instance types", True, f"{', '.join(needs.instance_types)} in {', '.join(needs.zones)}")


def _endpoints(cloud: Cloud, needs: Needs) -> Finding:
    # All that an endpoint can be made for is listed, EMR's own too (AWS PrivateLink guide, "View available AWS service
    # names"), with the zones by the names that they have in this account.
    with aws_call("list the services that have endpoints"):
        pages = cloud.ec2.get_paginator("describe_vpc_endpoint_services").paginate(
            Filters=[{"Name": "service-name", "Values": sorted(needs.endpoint_zones)}]
        )
        zones_of = {each["ServiceName"]: each["AvailabilityZones"] for page in pages for each in page["ServiceDetails"]}
    missing = [
        f"{service} in {zone}"
        for service, zones in sorted(needs.endpoint_zones.items())
        for zone in sorted(zones)
        if zone not in zones_of.get(service, [])
    ]
    if missing:
        says = f"AWS offers this account no endpoint for {', '.join(missing)}; choose another region."
        return Finding("endpoints", False, says, stops="a new cluster")
    return Finding("endpoints", True, ", ".join(sorted(needs.endpoint_zones)))


def _roles(cloud: Cloud) -> Finding:
    # EMR makes the one that cleans up itself, if its caller may; nobody makes Spot's (EMR Management Guide,
    # "Using service-linked roles for Amazon EMR for cleanup").
    missing = [
        name
        for name in SERVICE_ROLES
        if try_aws_call(f"look for the role {name}", partial(cloud.iam.get_role, RoleName=name), "NoSuchEntity") is None
    ]
    says = f"{' and '.join(missing)} will be made" if missing else "the service-linked ones are there"
    return Finding("roles", True, says)
