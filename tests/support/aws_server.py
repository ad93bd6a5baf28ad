"""AWS on this machine: moto's services, and an EMR of one node that does what it is told.

moto keeps a cluster and its steps but runs nothing. Here the cluster of a stack runs its bootstrap actions, below a
folder instead of `/opt`, and its steps run as Spark jobs on this machine: with the role and the Spark settings that the
template gives the cluster, and nothing of who deployed it. A step ends as its process does, and its words go to the
cluster's log. A step that fails is an event, which starts the state machines of the rules it matches.

Run as `python -m tests.support.aws_server PORT FOLDER`.
"""

import copy
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

import boto3
import pyspark
from moto.athena.models import athena_backends
from moto.cloudformation import parsing
from moto.cloudformation.exceptions import ValidationError
from moto.cloudformation.models import CloudFormationBackend, cloudformation_backends
from moto.cloudformation.parsing import clean_json
from moto.cloudformation.responses import CloudFormationResponse
from moto.cloudwatch.models import cloudwatch_backends
from moto.core.responses import ActionResult, BaseResponse
from moto.emr.models import emr_backends
from moto.emr.responses import ElasticMapReduceResponse
from moto.events.models import events_backends
from moto.glue.models import glue_backends
from moto.iam.access_control import IAMPolicyStatement, IAMRequestBase
from moto.iam.models import Role, iam_backends
from moto.kms.models import KmsBackend
from moto.moto_server import werkzeug_app
from moto.s3.models import s3_backends
from moto.s3.responses import ACTION_MAP
from moto.sns.models import sns_backends
from moto.stepfunctions.models import stepfunctions_backends
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service import state_task_service_aws_sdk
from moto.stepfunctions.parser.models import stepfunctions_parser_backends
from moto.sts.models import sts_backends

from bootstrap.programs import use_java
from streaming.local_machine import spark_home
from streaming.session import class_archive
from tests.support.account import PATCHES, answering_for_the_account
from tests.support.moto_server import serve

LOOK_S = 0.2
# A state machine's minute is a second here.
_PAUSE = re.compile(r'"Seconds": 60,')
# A request for this path kills what runs the streams.
LOSE_THE_STREAM = "/lose-the-stream"
OPT = "/opt/fruits"
_NOT_THE_NODES = ("AWS_", "FRUITS_", "PYTHON", "PYSPARK", "SPARK", "MOTO", "VIRTUAL_ENV")
_ENVIRONMENT = "spark.yarn.appMasterEnv."
_INSTALLED_SPARK = Path(pyspark.__file__).parent
# It shares this machine with whatever else is tested on it.
_LIGHT_JVM = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xlog:disable")
# Lists and kills the drivers that steps have started, which live on when their step is cancelled.
_YARN = """\
#!/bin/bash
cd "{folder}/applications"
case "$2" in
    -list) for each in *; do [ -f "$each" ] && echo "$each $(cut -d' ' -f1 "$each")"; done ;;
    -kill) kill -9 -- "-$(cut -d' ' -f2 "$3")" ;;
esac
"""


@dataclass
class Node:
    """The one machine of a cluster."""

    account: str
    region: str
    cluster: Any
    properties: dict[str, Any]
    folder: Path
    endpoint: str
    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)
    is_ready: bool = False

    def start(self) -> None:
        """Run the bootstrap actions; the cluster ends when one fails, as EMR's do."""
        self.cluster.state = "BOOTSTRAPPING"
        (self.folder / "applications").mkdir()
        yarn = self.folder / "bin" / "yarn"
        yarn.parent.mkdir()
        yarn.write_text(_YARN.format(folder=self.folder))
        yarn.chmod(0o755)
        for number, action in enumerate(self.properties.get("BootstrapActions", [])):
            script = action["ScriptBootstrapAction"]
            file = self.folder / f"bootstrap-{number}.sh"
            file.write_bytes(self._object(script["Path"]))
            command = ["bash", str(file), *script.get("Args", []), str(self.opt)]
            environment = self._environment()
            for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
                # A node tells nobody where it is.
                del environment[name]
            with (self.folder / f"bootstrap-{number}.log").open("wb") as log:
                done = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
            if done.returncode:
                self.cluster.state = "TERMINATED_WITH_ERRORS"
                return
        self.cluster.state = "WAITING"
        self.is_ready = True

    def begin(self, step: Any) -> None:
        """Start a step's process."""
        self.begun.add(step.id)
        step.state = "RUNNING"
        is_spark = step.args[0] == "spark-submit"
        command = self._as_here(list(step.args)) if is_spark else list(step.args)
        self._spark_defaults.write_text(
            "".join(f"{name} {value}\n" for name, value in self._spark().items() if not name.startswith(_ENVIRONMENT))
        )
        with (
            (self.folder / f"{step.id}.stdout").open("wb") as out,
            (self.folder / f"{step.id}.stderr").open("wb") as err,
        ):
            process = subprocess.Popen(
                command,
                env=self._environment() | self._spark_here(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                cwd=self.folder,
            )
        self.running[step.id] = process
        if is_spark:
            (self.folder / "applications" / step.id).write_text(f"{step.name} {process.pid}")
        threading.Thread(target=self._attend, args=(step, process), daemon=True).start()

    def kill(self, step: str | None = None) -> None:
        """End a step, or all of them, as a machine that goes does."""
        for identity, process in list(self.running.items()):
            if step in (None, identity):
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def _attend(self, step: Any, process: "subprocess.Popen[bytes]") -> None:
        code = process.wait()
        for name in ("stdout", "stderr"):
            body = gzip.compress((self.folder / f"{step.id}.{name}").read_bytes())
            place = urlsplit(self.cluster.log_uri)
            key = f"{place.path.strip('/')}/{self.cluster.id}/steps/{step.id}/{name}.gz"
            with suppress(Exception):
                s3_backends[self.account]["aws"].put_object(place.netloc, key, body)
        self.running.pop(step.id)
        (self.folder / "applications" / step.id).unlink(missing_ok=True)
        if step.state != "CANCELLED":
            step.state = "FAILED" if code else "COMPLETED"
        if step.state == "FAILED":
            _announce(self, step)

    def _as_here(self, arguments: list[str]) -> list[str]:
        assert arguments[0] == "spark-submit", arguments
        for option in ("--deploy-mode", "--queue"):
            at = arguments.index(option)
            del arguments[at : at + 2]
        arguments[arguments.index("yarn", arguments.index("--master"))] = "local[2,4]"
        # Not in a folder of settings, which would be the first of Java's class path: the archive knows another one.
        submit = [f"{_spark_home()}/bin/spark-submit", "--properties-file", f"{self._spark_defaults}"]
        return [*submit, *(self._here(argument) for argument in arguments[1:])]

    @property
    def _spark_defaults(self) -> Path:
        return self.folder / "spark-defaults.conf"

    def _spark_here(self) -> dict[str, str]:
        """What lets Spark start in half the time: its Java classes archived, its Python modules compiled once."""
        modules = self.folder.parent / "spark"
        if not modules.exists():
            for packed in (_INSTALLED_SPARK / "python" / "lib").glob("*.zip"):
                shutil.unpack_archive(packed, modules)
        options = [*_LIGHT_JVM, *([f"-XX:SharedArchiveFile={class_archive()}"] if class_archive().exists() else [])]
        return {
            "SPARK_HOME": f"{_spark_home()}",
            "PYTHONPATH": f"{modules}",
            "JAVA_TOOL_OPTIONS": " ".join(options),
        }

    def _here(self, text: str) -> str:
        return text.replace(OPT, f"{self.opt}/fruits")

    @property
    def opt(self) -> Path:
        """Where all clusters install: what one of them has installed, the next need not."""
        return self.folder.parent / "opt"

    def _spark(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for each in self.properties.get("Configurations", []):
            if each["Classification"] == "spark-defaults":
                found |= {name: self._here(str(value)) for name, value in each["ConfigurationProperties"].items()}
        return found

    def _environment(self) -> dict[str, str]:
        given = {name: os.environ[name] for name in os.environ if not name.startswith(_NOT_THE_NODES)}
        given |= {
            name.removeprefix(_ENVIRONMENT): value
            for name, value in self._spark().items()
            if name.startswith(_ENVIRONMENT)
        }
        key = self._credentials()
        python = Path(sys.executable).parent
        return given | {
            "PATH": f"{self.folder}/bin:{python}:{os.environ['PATH']}",
            "SPARK_HOME": str(_INSTALLED_SPARK),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "AWS_ENDPOINT_URL": self.endpoint,
            "FRUITS_S3_ENDPOINT": self.endpoint,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ACCESS_KEY_ID": key.access_key_id,
            "AWS_SECRET_ACCESS_KEY": key.secret_access_key,
            "AWS_SESSION_TOKEN": key.session_token,
        }

    def _credentials(self) -> Any:
        profile = self.properties["JobFlowRole"].rpartition("/")[2]
        role = iam_backends[self.account]["aws"].get_instance_profile(profile).roles[0]
        return _credentials_of(self.account, self.region, role.arn)

    def _object(self, uri: str) -> bytes:
        place = urlsplit(uri)
        found = s3_backends[self.account]["aws"].get_object(place.netloc, place.path.lstrip("/"))
        assert found is not None, f"there is no {uri}"
        return bytes(found.value)


NODES: dict[str, Node] = {}


def _spark_home() -> Path:
    return spark_home() if (spark_home() / "jars").exists() else _INSTALLED_SPARK


def _run_clusters(folder: Path, endpoint: str) -> None:
    while True:
        time.sleep(LOOK_S)
        for account, regions in list(emr_backends.items()):
            for region, backend in list(regions.items()):
                for cluster in list(backend.clusters.values()):
                    _look_at(account, region, cluster, folder, endpoint)


def _look_at(account: str, region: str, cluster: Any, folder: Path, endpoint: str) -> None:
    node = NODES.get(cluster.id)
    if node is None:
        properties = _properties_of(account, region, cluster.id)
        if properties is None:
            # The stack is not finished.
            return
        node = NODES[cluster.id] = Node(account, region, cluster, properties, folder / cluster.id, endpoint)
        node.folder.mkdir()
        threading.Thread(target=node.start, daemon=True).start()
    elif cluster.state.startswith("TERMINAT"):
        node.kill()
    elif node.is_ready:
        for step in list(cluster.steps):
            if step.id not in node.begun and step.state in ("PENDING", "RUNNING"):
                node.begin(step)


def _properties_of(account: str, region: str, cluster: str) -> dict[str, Any] | None:
    for stack in list(cloudformation_backends[account][region].stacks.values()):
        if stack.status.endswith("_IN_PROGRESS"):
            continue
        for name, resource in stack.template_dict["Resources"].items():
            if resource["Type"] == "AWS::EMR::Cluster" and name in stack.resource_map:
                made = stack.resource_map[name]
                if made is not None and made.physical_resource_id == cluster:
                    properties = clean_json(copy.deepcopy(resource["Properties"]), stack.resource_map)
                    assert isinstance(properties, dict)
                    return properties
    return None


def _announce(node: Node, step: Any) -> None:
    event: Any = {
        "source": "aws.emr",
        "detail-type": "EMR Step Status Change",
        "account": node.account,
        "region": node.region,
        "detail": {"clusterId": node.cluster.id, "stepId": step.id, "name": step.name, "state": step.state},
    }
    for rule in list(events_backends[node.account][node.region].event_buses["default"].rules.values()):
        if rule.event_pattern.matches_event(event):
            for target in rule.targets:
                if ":states:" in target["Arn"]:
                    _run_machine(node, target, event, f"step-{step.id}")


def _run_machine(node: Node, target: dict[str, Any], event: dict[str, Any], name: str) -> None:
    # moto keeps the machines that it runs apart from those that a stack made.
    made = stepfunctions_backends[node.account][node.region].describe_state_machine(target["Arn"])
    runner = stepfunctions_parser_backends[node.account][node.region]
    copied = runner.create_state_machine(name, _PAUSE.sub('"Seconds": 1,', made.definition), made.roleArn)
    assert target["InputPath"] == "$.detail"
    runner.start_execution(copied.arn, name, json.dumps(event["detail"]))


def _client_of_machine(region: str, service: str, state_credentials: Any) -> Any:
    # moto's machines sign their requests with a key that nobody has.
    account = state_credentials.role_arn.split(":")[4]
    key = _credentials_of(account, region, state_credentials.role_arn)
    client: Any = boto3.client
    return client(
        service,
        region_name=region,
        endpoint_url=f"http://127.0.0.1:{os.environ['MOTO_PORT']}",
        aws_access_key_id=key.access_key_id,
        aws_secret_access_key=key.secret_access_key,
        aws_session_token=key.session_token,
    )


def _credentials_of(account: str, region: str, role: str) -> Any:
    return sts_backends[account]["aws"].assume_role(region, "service", role, policy="", duration=3600, external_id="")


def _lose_the_stream(environment: dict[str, Any], start_response: Any) -> list[bytes]:
    """Kill what runs the streams, as a machine that goes would."""
    for node in NODES.values():
        for step in node.cluster.steps:
            if step.name == "fruits-stream":
                node.kill(step.id)
    start_response("200 OK", [])
    return [b""]


def _cancel_steps(response: ElasticMapReduceResponse) -> Any:
    # moto has no CancelSteps.
    asked = response.params if isinstance(response.params, dict) else json.loads(response.body)
    node = NODES[asked["ClusterId"]]
    for step in node.cluster.steps:
        if step.id in asked["StepIds"]:
            # What the step had started lives on, as a driver in the cluster does.
            step.state = "CANCELLED"
    return ActionResult({"CancelStepsInfoList": [{"StepId": each, "Status": "SUBMITTED"} for each in asked["StepIds"]]})


def _protect(response: CloudFormationResponse) -> Any:
    # moto has no termination protection.
    stack = response.cloudformation_backend.get_stack(response._get_param("StackName"))
    stack.enable_termination_protection = response._get_param("EnableTerminationProtection") == "true"
    return ActionResult({"StackId": stack.stack_id})


def _delete_unless_protected(response: CloudFormationResponse) -> Any:
    name = response._get_param("StackName")
    if response.cloudformation_backend.get_stack(name).enable_termination_protection:
        raise ValidationError(message=f"Stack [{name}] cannot be deleted while TerminationProtection is enabled")
    for resource in response.cloudformation_backend.get_stack(name).resource_map._resource_json_map.values():
        # moto knows only the older word.
        if resource.get("DeletionPolicy") == "RetainExceptOnCreate":
            resource["DeletionPolicy"] = "Retain"
    return _delete_stack(response)


def _execute_change_set(backend: CloudFormationBackend, change_set_name: str, stack_name: str | None = None) -> None:
    # moto changes the resources and leaves the stack's template, parameters and outputs as they were.
    change = backend.describe_change_set(change_set_name)
    assert change is not None
    stack = backend.stacks[change.stack_id]
    before = _meant(stack.template_dict, stack.resource_map)
    _execute_change_set_as_moto(backend, change_set_name, stack_name)
    after = _meant(change.template_dict, stack.resource_map)
    _follow_conditions(stack, before, after)
    stack.template, stack.parameters = change.template, change.parameters
    stack._parse_template()
    stack.output_map = stack._create_output_map()
    for resource in after.values():
        make = _PASSED_OVER.get(resource["Type"])
        if make is not None:
            make(
                clean_json(copy.deepcopy(resource["Properties"]), stack.resource_map),
                stack.account_id,
                stack.region_name,
            )


def _meant(template: dict[str, Any], resources: Any) -> dict[str, Any]:
    """The resources that a template's conditions ask for."""
    return {
        name: each
        for name, each in template.get("Resources", {}).items()
        if "Condition" not in each or resources.lazy_condition_map[each["Condition"]]
    }


def _follow_conditions(stack: Any, before: dict[str, Any], after: dict[str, Any]) -> None:
    # moto looks at conditions only where a resource's own text has changed.
    resources = stack.resource_map
    for name in before.keys() - after.keys():
        made = resources._parsed_resources.pop(name, None)
        if made is not None and before[name]["Type"] in ("AWS::EMR::Cluster", "AWS::StepFunctions::StateMachine"):
            resources._delete_resource(made, before[name])
    for name in after.keys() - before.keys():
        _ = resources[name]


def _update_resource(name: str, resource: dict[str, Any], resources: Any, account_id: str, region_name: str) -> Any:
    # moto forgets a resource that it does not know how to update, and makes one that no condition asks for.
    if name not in _meant({"Resources": {name: resource}}, resources):
        return resources._parsed_resources.get(name)
    made = resources._parsed_resources.get(name)
    node = NODES.get(made.physical_resource_id) if resource["Type"] == "AWS::EMR::Cluster" and made else None
    if node is not None and node.properties != clean_json(copy.deepcopy(resource["Properties"]), resources):
        # Another cluster takes the place of this one, which goes when the other stands.
        del resources._parsed_resources[name]
        other = resources[name]
        resources._delete_resource(made, resource)
        return other
    return _update_resource_as_moto(name, resource, resources, account_id, region_name) or resources[name]


def _make_work_group(properties: dict[str, Any], account: str, region: str) -> None:
    configuration = properties["WorkGroupConfiguration"]
    athena_backends[account][region].create_work_group(properties["Name"], configuration, "", [])


def _make_database(properties: dict[str, Any], account: str, region: str) -> None:
    catalog, given = glue_backends[account][region], properties["DatabaseInput"]
    if given["Name"] not in catalog.databases:
        catalog.create_database(given["Name"], given)


def _finish_bucket(properties: dict[str, Any], account: str, region: str) -> None:
    buckets, name = s3_backends[account]["aws"], properties["BucketName"]
    if "VersioningConfiguration" in properties:
        buckets.put_bucket_versioning(name, properties["VersioningConfiguration"]["Status"])
    queues = properties.get("NotificationConfiguration", {}).get("QueueConfigurations", [])
    if queues and buckets.get_bucket(name).notification_configuration is None:
        told = [
            {
                "Queue": each["Queue"],
                "Event": [each["Event"]],
                "Filter": {"S3Key": {"FilterRule": each["Filter"]["S3Key"]["Rules"]}},
            }
            for each in queues
        ]
        buckets.put_bucket_notification_configuration(name, {"QueueConfiguration": told})


def _subscribe(properties: dict[str, Any], account: str, region: str) -> None:
    sns_backends[account][region].subscribe(properties["TopicArn"], properties["Endpoint"], properties["Protocol"])


def _put_alarm(properties: dict[str, Any], account: str, region: str) -> None:
    alarms, name = cloudwatch_backends[account][region], properties["AlarmName"]
    if name not in alarms.alarms and "MetricName" in properties:
        alarms.put_metric_alarm(
            name,
            *(properties[each] for each in ("Namespace", "MetricName", "ComparisonOperator")),
            *(int(properties[each]) for each in ("EvaluationPeriods", "Period")),
            float(properties["Threshold"]),
            *(properties[each] for each in ("Statistic", "AlarmDescription")),
            properties.get("Dimensions", []),
            properties["AlarmActions"],
        )


# What a template may hold and moto does not make, or not wholly.
_PASSED_OVER = {
    "AWS::Athena::WorkGroup": _make_work_group,
    "AWS::CloudWatch::Alarm": _put_alarm,
    "AWS::Glue::Database": _make_database,
    "AWS::S3::Bucket": _finish_bucket,
    "AWS::SNS::Subscription": _subscribe,
}


def _put_policy(role: Role, name: str, document: Any) -> None:
    # moto keeps a template's policies as they are, and then reads them as text.
    _put_policy_as_moto(role, name, document if isinstance(document, str) else json.dumps(document, default=str))


def _check_principal(statement: IAMPolicyStatement, principal: str) -> bool:
    # moto takes an account for one of its users; it stands for all of them.
    expected = (statement._statement.get("Principal") or {}).get("AWS")
    account = principal.split(":")[4]
    return expected == f"arn:aws:iam::{account}:root" or _check_principal_as_moto(statement, principal)


def _check_action(request: IAMRequestBase, resource: str) -> None:
    # moto takes the name that requests are signed for, and the request's own, where policies have others.
    request._action = request._action.replace("monitoring:", "cloudwatch:")
    if request._action.startswith("sqs:"):
        request._action = request._action.removesuffix("Batch")
    resources = [resource]
    if request._action == "s3:DeleteObject" and "/" not in resource:
        # moto asks for the bucket what AWS asks for each of the objects.
        named = ElementTree.fromstring(request._body).iter()
        resources = [f"{resource}/{each.text}" for each in named if each.tag.rpartition("}")[2] == "Key"]
    for each in resources:
        _check_action_as_moto(request, each)


def _matches(statement: IAMPolicyStatement, element: str, value: str) -> bool:
    # "*" is what moto says where it does not know the resource.
    if element == "Resource" and value == "*" and statement._statement["Effect"] == "Allow":
        return True
    return _matches_as_moto(statement, element, value)


def _create_key(backend: KmsBackend, *arguments: Any, **options: Any) -> Any:
    # moto gives a template's tags and policy to KMS in the form that other services have.
    for tag in options.get("tags") or []:
        if "Key" in tag:
            tag["TagKey"], tag["TagValue"] = tag.pop("Key"), tag.pop("Value")
    if isinstance(options.get("policy"), dict):
        options["policy"] = json.dumps(options["policy"], default=str)
    return _create_key_as_moto(backend, *arguments, **options)


_update_resource_as_moto = parsing.parse_and_update_resource
_matches_as_moto = IAMPolicyStatement._check_element_matches
_check_action_as_moto = IAMRequestBase.check_action_permitted
_check_principal_as_moto = IAMPolicyStatement._check_principal
_put_policy_as_moto = Role.put_policy
_create_key_as_moto = KmsBackend.create_key
_delete_stack = CloudFormationResponse.delete_stack
_execute_change_set_as_moto = CloudFormationBackend.execute_change_set
_PATCHES: dict[tuple[Any, str], Any] = {
    (state_task_service_aws_sdk, "boto_client_for"): _client_of_machine,
    (parsing, "parse_and_update_resource"): _update_resource,
    (ElasticMapReduceResponse, "cancel_steps"): _cancel_steps,
    # moto finds EMR's region in a host name of AWS's only.
    (ElasticMapReduceResponse, "get_region_from_url"): BaseResponse.get_region_from_url,
    (CloudFormationResponse, "update_termination_protection"): _protect,
    (CloudFormationResponse, "delete_stack"): _delete_unless_protected,
    (CloudFormationBackend, "execute_change_set"): _execute_change_set,
    (KmsBackend, "create_key"): _create_key,
    (Role, "put_policy"): _put_policy,
    (IAMRequestBase, "check_action_permitted"): _check_action,
    (IAMPolicyStatement, "_check_element_matches"): _matches,
    (IAMPolicyStatement, "_check_principal"): _check_principal,
}


def _main(port: int, folder: Path) -> None:
    use_java()
    # AWS asks for the permission to list.
    ACTION_MAP["BUCKET"]["HEAD"]["DEFAULT"] = "ListBucket"
    for (owner, name), patch in (PATCHES | _PATCHES).items():
        setattr(owner, name, patch)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    threading.Thread(target=_run_clusters, args=(folder, f"http://127.0.0.1:{port}"), daemon=True).start()
    try:
        aws = werkzeug_app.DomainDispatcherApplication(werkzeug_app.create_backend_app)
        serve(
            port,
            answering_for_the_account(
                lambda environment, start: (_lose_the_stream if environment["PATH_INFO"] == LOSE_THE_STREAM else aws)(
                    environment, start
                )
            ),
        )
    finally:
        for node in NODES.values():
            node.kill()


if __name__ == "__main__":
    _main(int(sys.argv[1]), Path(sys.argv[2]))
