"""What an AWS account may have and a region offers, as a test wants it: what moto says nothing of, or always the same.

A POST of JSON to `/account` changes what is named in it; see `ACCOUNT`.
"""

import copy
import json
from collections.abc import Callable
from typing import Any

from moto.cloudformation.exceptions import ValidationError
from moto.cloudformation.models import CloudFormationBackend
from moto.core.responses import ActionResult
from moto.ec2.models.instance_types import InstanceTypeOfferingBackend
from moto.ec2.models.vpcs import VPCBackend
from moto.emr.exceptions import InvalidRequestException
from moto.emr.responses import ElasticMapReduceResponse
from moto.iam import models as iam_models
from moto.servicequotas.models import ServiceQuotasBackend
from moto.sns.models import SNSBackend

PATH = "/account"
_PLAN = "AWSFreeTierService.GetAccountPlanState"
_MOST_TEMPLATE_BYTES = 51_200

# Of an account that is new and paid, with quotas that somebody asked for.
ACCOUNT: dict[str, Any] = {
    "plan": "PAID",
    "quotas": {"L-1216C47A": 32, "L-34B43A08": 32, "L-F678F1CE": 5},
    "releases": ["emr-spark-8.1.0"],
    # Instance types that a zone does not have, and endpoint services that it does not have, by zone.
    "types_missing": {},
    "services_missing": {},
    "email_confirmed": True,
}


def answering_for_the_account(others: Callable[..., Any]) -> Callable[..., Any]:
    """An application that answers for the account, and passes on all other requests."""

    def application(environment: dict[str, Any], start_response: Any) -> Any:
        if environment["PATH_INFO"] == PATH:
            ACCOUNT.update(json.loads(_body(environment)))
            start_response("200 OK", [])
            return [b""]
        if environment.get("HTTP_X_AMZ_TARGET") == _PLAN:
            # moto has no such service. What is left unread would be taken for the next request.
            _body(environment)
            plan = {"accountId": "123456789012", "accountPlanType": ACCOUNT["plan"], "accountPlanStatus": "ACTIVE"}
            start_response("200 OK", [("Content-Type", "application/x-amz-json-1.0")])
            return [json.dumps(plan).encode()]
        return others(environment, start_response)

    return application


def _body(environment: dict[str, Any]) -> bytes:
    body: bytes = environment["wsgi.input"].read(int(environment["CONTENT_LENGTH"]))
    return body


def _get_service_quota(_: ServiceQuotasBackend, service_code: str, quota_code: str) -> dict[str, Any]:
    return {"ServiceCode": service_code, "QuotaCode": quota_code, "Value": float(ACCOUNT["quotas"][quota_code])}


def _describe_release_label(response: ElasticMapReduceResponse) -> Any:
    asked = response.params if isinstance(response.params, dict) else json.loads(response.body)
    label = asked["ReleaseLabel"]
    if label not in ACCOUNT["releases"]:
        raise InvalidRequestException(f"The release label {label} is invalid.")
    return ActionResult({"ReleaseLabel": label, "Applications": [{"Name": "Spark", "Version": "4.1.1"}]})


def _describe_instance_type_offerings(
    backend: InstanceTypeOfferingBackend, location_type: str | None = None, filters: Any = None
) -> list[Any]:
    found = _offerings_of_moto(backend, location_type, filters)
    missing = ACCOUNT["types_missing"]
    return [each for each in found if each["InstanceType"] not in missing.get(each["Location"], [])]


def _collect_default_endpoint_services(account_id: str, region: str) -> list[dict[str, Any]]:
    zones = [f"{region}{letter}" for letter in "abc"]
    # moto has none of EMR's own.
    emr = {
        "ServiceName": f"aws.api.{region}.emr-service-cell01",
        "ServiceId": "vpce-svc-0e3b1c0ffee000001",
        "ServiceType": [{"ServiceType": "Interface"}],
        "Tags": [],
    }
    missing = ACCOUNT["services_missing"]
    return [
        each | {"AvailabilityZones": [zone for zone in zones if each["ServiceName"] not in missing.get(zone, [])]}
        for each in (*_services_of_moto(account_id, region), emr)
    ]


def _filter_endpoint_services(names: list[str], filters: list[Any], services: list[Any]) -> list[dict[str, Any]]:
    # moto reads the values of a filter under another name than it is sent.
    return _filtered_by_moto(names, [each | {"Value": each["Values"]} for each in filters], services)


def _validate_template(_: CloudFormationBackend, template: str) -> list[Any]:
    # moto writes a file and runs cfn-lint, which `make lint` does.
    if len(template.encode()) > _MOST_TEMPLATE_BYTES:
        raise ValidationError(message="1 validation error detected: Value at 'templateBody' is too long")
    if "Resources" not in json.loads(template):
        raise ValidationError(message="Template format error: At least one Resources member must be defined.")
    return []


def _list_subscriptions_by_topic(
    backend: SNSBackend, topic_arn: str, next_token: str | None = None
) -> tuple[list[Any], Any]:
    # moto confirms for everybody.
    found, token = _subscriptions_of_moto(backend, topic_arn, next_token)
    if ACCOUNT["email_confirmed"]:
        return found, token
    waiting = [copy.copy(each) for each in found]
    for each in waiting:
        each.arn = "PendingConfirmation"
    return waiting, token


_offerings_of_moto = InstanceTypeOfferingBackend.describe_instance_type_offerings
_filtered_by_moto = VPCBackend._filter_endpoint_services
_services_of_moto = VPCBackend._collect_default_endpoint_services
_subscriptions_of_moto = SNSBackend.list_subscriptions_by_topic
PATCHES: dict[tuple[Any, str], Any] = {
    (ServiceQuotasBackend, "get_service_quota"): _get_service_quota,
    (ElasticMapReduceResponse, "describe_release_label"): _describe_release_label,
    (InstanceTypeOfferingBackend, "describe_instance_type_offerings"): _describe_instance_type_offerings,
    (VPCBackend, "_collect_default_endpoint_services"): staticmethod(_collect_default_endpoint_services),
    (VPCBackend, "_filter_endpoint_services"): staticmethod(_filter_endpoint_services),
    (CloudFormationBackend, "validate_template"): _validate_template,
    (SNSBackend, "list_subscriptions_by_topic"): _list_subscriptions_by_topic,
    # AWS's names for these roles do not follow from the service's.
    (iam_models, "SERVICE_NAME_CONVERSION"): {
        **iam_models.SERVICE_NAME_CONVERSION,
        "elasticmapreduce": "EMRCleanup",
        "spot": "EC2Spot",
    },
}
