"""The template of everything an AWS account needs: what it allows, what it keeps, and what moto makes of it."""

import ast
import json
import re
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from bootstrap.aws.steps import Job, job_step
from bootstrap.aws.template import FILES, read_template
from tests.support import servers

REGION = "eu-west-3"
# Its stack is made once.
pytestmark = pytest.mark.xdist_group("stack")

EUROPE = ["eu-central-1", "eu-west-1", "eu-west-3", "eu-north-1", "eu-south-1", "eu-south-2"]
BUILD = "0123456789abcdef" * 4
# CloudFormation takes no larger template with a request; a larger one has to lie in a bucket.
MOST_BYTES_IN_A_REQUEST = 51_200
# What AWS knows no resource for.
KNOW_NO_RESOURCE = {
    "cloudwatch:GetMetricData",
    "cloudwatch:GetMetricStatistics",
    "cloudwatch:ListMetrics",
    "cloudwatch:PutMetricData",
    "elasticmapreduce:ListClusters",
}


def test_cfn_lint_of_make_lint_looks_at_all_regions_and_is_told_to_pass_over_nothing() -> None:
    makefile = (Path(__file__).parents[3] / "Makefile").read_text()
    assert f"cfn-lint --regions {' '.join(EUROPE)} -- build/template.json" in makefile
    assert not [file for file in FILES if "cfn-lint" in file.read_text()]


def test_what_is_there_without_a_build_fits_into_one_request() -> None:
    # The first stack is made before there is a bucket to put a template into.
    assert len(read_template().foundation().text.encode()) <= MOST_BYTES_IN_A_REQUEST


def test_all_that_names_the_regions_names_the_same_six() -> None:
    template = _template()
    assert template["Mappings"]["Europe"]["Regions"]["Codes"] == EUROPE
    assert list(template["Mappings"]["City"]) == EUROPE


def test_no_statement_allows_more_than_it_says() -> None:
    for name, statement in _allowed():
        assert "*" not in "".join(_listed(statement["Action"])), name
        assert "NotAction" not in statement, name
        assert "NotResource" not in statement, name


def test_every_permission_is_for_certain_resources() -> None:
    for name, statement in _permissions():
        if "*" in _listed(statement["Resource"]):
            assert set(_listed(statement["Action"])) <= KNOW_NO_RESOURCE, name


def test_every_permission_holds_in_the_european_union_only() -> None:
    here = {"Fn::FindInMap": ["Europe", "Regions", "Codes"]}
    roles = set()
    for name, statement in _permissions():
        roles.add(name)
        if _listed(statement["Action"]) != ["iam:PassRole"]:
            assert statement["Condition"]["StringEquals"]["aws:RequestedRegion"] == here, name
    assert roles >= {name for name, _ in _of_type("AWS::IAM::Role")}


def test_a_managed_policy_is_confined_to_the_european_union_too() -> None:
    for name, role in _of_type("AWS::IAM::Role"):
        denied = [
            statement
            for policy in role["Policies"]
            for statement in policy["PolicyDocument"]["Statement"]
            if statement["Effect"] == "Deny" and "aws:RequestedRegion" in statement["Condition"]["StringNotEquals"]
        ]
        assert bool(denied) == ("ManagedPolicyArns" in role), name


def test_whoever_takes_on_a_role_for_aws_does_so_for_this_account() -> None:
    for name, role in _of_type("AWS::IAM::Role"):
        for statement in role["AssumeRolePolicyDocument"]["Statement"]:
            # An instance gets its role from this account's instance profile.
            if statement["Principal"].get("Service") not in (None, "ec2.amazonaws.com"):
                assert statement["Condition"]["StringEquals"]["aws:SourceAccount"] == {"Ref": "AWS::AccountId"}, name


def test_it_names_no_partition_account_or_region() -> None:
    template = {name: part for name, part in _template().items() if name in ("Resources", "Outputs")}
    text = json.dumps(template)
    assert "arn:aws" not in text
    assert not re.search(r"(?<!\d)\d{12}(?!\d)", text)
    assert not any(region in text for region in EUROPE)


def test_no_instance_can_be_reached_from_outside_or_reach_out() -> None:
    types = {resource["Type"] for resource in _template()["Resources"].values()}
    assert not types & {"AWS::EC2::InternetGateway", "AWS::EC2::NatGateway", "AWS::EC2::EIP"}
    ingress = [
        rule for _, group in _of_type("AWS::EC2::SecurityGroup") for rule in group.get("SecurityGroupIngress", [])
    ]
    ingress += [rule for _, rule in _of_type("AWS::EC2::SecurityGroupIngress")]
    assert ingress
    for rule in ingress:
        sources = rule.keys() & {"CidrIp", "CidrIpv6", "SourceSecurityGroupId", "SourcePrefixListId"}
        assert sources == {"SourceSecurityGroupId"} or rule["CidrIp"] == {"Fn::GetAtt": ["Vpc", "CidrBlock"]}


def test_emr_may_use_what_its_managed_policy_asks_a_tag_for() -> None:
    resources = _template()["Resources"]
    tag = {"Key": "for-use-with-amazon-emr-managed-policies", "Value": "true"}
    for name in ("Vpc", "SubnetA", "SubnetB", "NodeGroup", "EndpointGroup", "EmrEndpoint", "Cluster"):
        assert tag in resources[name]["Properties"]["Tags"], name


def test_the_endpoint_of_emr_stands_where_a_cluster_may_stand() -> None:
    resources = _template()["Resources"]
    subnets = resources["Cluster"]["Properties"]["Instances"]["Ec2SubnetIds"]
    assert resources["EmrEndpoint"]["Properties"]["SubnetIds"] == subnets


def test_a_node_can_use_the_key_of_its_disks_without_s3() -> None:
    resources = _template()["Resources"]
    encryption = resources["Security"]["Properties"]["SecurityConfiguration"]["EncryptionConfiguration"]
    disks = encryption["AtRestEncryptionConfiguration"]["LocalDiskEncryptionConfiguration"]
    key = {"Fn::GetAtt": ["Key", "Arn"]}
    assert (disks["AwsKmsKey"], disks["EnableEbsEncryption"]) == (key, True)
    (of_the_role,) = (
        statement for name, statement in _permissions() if name == "NodeRole" and statement["Resource"] == key
    )
    assert "kms:ViaService" not in of_the_role["Condition"]["StringEquals"]
    (of_the_endpoint,) = resources["KmsEndpoint"]["Properties"]["PolicyDocument"]["Statement"]
    assert of_the_endpoint["Resource"] == key
    assert of_the_endpoint["Action"] == of_the_role["Action"]
    assert "KmsEndpoint" in resources["Cluster"]["DependsOn"]


def test_spot_instances_with_encrypted_disks_may_start() -> None:
    allowed = [
        statement
        for statement in _template()["Resources"]["Key"]["Properties"]["KeyPolicy"]["Statement"]
        if str(statement["Principal"].get("AWS")).endswith("spot.amazonaws.com/AWSServiceRoleForEC2Spot'}")
    ]
    actions = {action for statement in allowed for action in _listed(statement["Action"])}
    # What EC2's User Guide lists for the grant (service-linked-roles-spot-instance-requests).
    operations = "CreateGrant Decrypt DescribeKey Encrypt GenerateDataKey GenerateDataKeyWithoutPlaintext"
    assert actions == {f"kms:{operation}" for operation in (*operations.split(), "ReEncryptFrom", "ReEncryptTo")}
    (grants,) = (statement for statement in allowed if statement["Action"] == "kms:CreateGrant")
    assert grants["Condition"] == {"Bool": {"kms:GrantIsForAWSResource": "true"}}


def test_deleting_the_stack_loses_no_photo() -> None:
    for name in ("Key", "DataBucket", "OpsBucket"):
        resource = _template()["Resources"][name]
        assert resource["DeletionPolicy"] == "RetainExceptOnCreate", name
        assert resource["UpdateReplacePolicy"] == "Retain", name


def test_uploads_without_the_header_that_forbids_replacing_are_refused() -> None:
    policy = _template()["Resources"]["DataBucketPolicy"]["Properties"]["PolicyDocument"]
    (refusal,) = (statement for statement in policy["Statement"] if statement["Sid"] == "UploadsNeverReplace")
    assert refusal["Effect"] == "Deny"
    assert refusal["Action"] == "s3:PutObject"
    assert refusal["Condition"] == {
        "ArnEquals": {"aws:PrincipalArn": {"Fn::GetAtt": ["UploaderRole", "Arn"]}},
        "Null": {"s3:if-none-match": "true"},
        "Bool": {"s3:ObjectCreationOperation": "true"},
    }


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Aws"]:
    """A moto server of this file's own: some tests here change how it works."""
    with servers.s3_server(tmp_path_factory.mktemp("moto")) as url:
        yield Aws(url)


class Aws:
    """Clients of one moto server."""

    def __init__(self, url: str) -> None:
        self.url = url

    @cache  # noqa: B019 - lives as long as the module's tests
    def client(self, service: str, region: str = REGION, role_arn: str | None = None) -> Any:
        """A client with all rights, or with those of a role."""
        key: dict[str, str] = {}
        if role_arn is not None:
            given = self.client("sts").assume_role(RoleArn=role_arn, RoleSessionName="test")["Credentials"]
            key = {
                "aws_access_key_id": given["AccessKeyId"],
                "aws_secret_access_key": given["SecretAccessKey"],
                "aws_session_token": given["SessionToken"],
            }
        return boto3.client(service, endpoint_url=self.url, region_name=region, **key)  # type: ignore[call-overload]

    @cache  # noqa: B019 - lives as long as the module's tests
    def emr_of_stacks(self) -> Any:
        """EMR as stacks see it: moto tells its region from the host's name alone, and this server's tells none."""

        def name_the_host(request: Any, **_: Any) -> None:
            request.headers["Host"] = f"{REGION}.elasticmapreduce.amazonaws.com"

        client = boto3.client("emr", endpoint_url=self.url, region_name=REGION)
        client.meta.events.register("before-sign.emr", name_the_host)
        return client

    def configure(self, **config: Any) -> None:
        self._post("/moto-api/config", json.dumps(config).encode())

    @contextmanager
    def permissions_checked(self) -> Iterator[None]:
        """For as long as the block lasts, requests need permissions."""
        self._post("/moto-api/reset-auth", b"0")
        try:
            yield
        finally:
            self._post("/moto-api/reset-auth", b"inf")

    def _post(self, path: str, body: bytes) -> None:
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"}, method="POST")
        with urllib.request.urlopen(request) as answer:
            assert answer.status in (200, 201)


class Stack:
    """The stack of one stage, "dev".

    moto looks at conditions when it makes a resource and not later, so it is given the foundation where there is no
    build; and it deletes no route table of a stack, so that it cannot delete their VPC.
    """

    def __init__(self, aws: Aws) -> None:
        self._cloudformation = aws.client("cloudformation")
        self._ec2 = aws.client("ec2")
        self.foundation: dict[str, str] = {}

    def create(self) -> None:
        self._cloudformation.create_stack(**self._request(""))

    def update(self, artifacts: str) -> None:
        if not artifacts:
            self._delete_route_tables()
        self._cloudformation.update_stack(**self._request(artifacts))

    @property
    def outputs(self) -> dict[str, str]:
        (stack,) = self._cloudformation.describe_stacks(StackName="fruits-dev")["Stacks"]
        return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}

    def _delete_route_tables(self) -> None:
        named = [{"Name": "tag:Name", "Values": ["fruits-dev"]}]
        networks = [network["VpcId"] for network in self._ec2.describe_vpcs(Filters=named)["Vpcs"]]
        within = [{"Name": "vpc-id", "Values": networks}]
        for table in self._ec2.describe_route_tables(Filters=within)["RouteTables"]:
            if not any(association["Main"] for association in table["Associations"]):
                for association in table["Associations"]:
                    self._ec2.disassociate_route_table(AssociationId=association["RouteTableAssociationId"])
                self._ec2.delete_route_table(RouteTableId=table["RouteTableId"])

    def _request(self, artifacts: str) -> dict[str, Any]:
        parameters = {"Stage": "dev", "Artifacts": artifacts}
        return {
            "StackName": "fruits-dev",
            "TemplateBody": (read_template() if artifacts else read_template().foundation()).text,
            "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            "Capabilities": ["CAPABILITY_IAM"],
        }


@pytest.fixture(scope="module")
def stack(aws: Aws) -> Stack:
    """A stack with a cluster; `stack.foundation` is what it had before."""
    stack = Stack(aws)
    stack.create()
    stack.foundation = stack.outputs
    stack.update(BUILD)
    # moto checks a policy that is JSON, as requests bring it; a stack leaves a policy that is Python.
    iam = aws.client("iam")
    for role in iam.list_roles()["Roles"]:
        for name in iam.list_role_policies(RoleName=role["RoleName"])["PolicyNames"]:
            document = iam.get_role_policy(RoleName=role["RoleName"], PolicyName=name)["PolicyDocument"]
            iam.put_role_policy(
                RoleName=role["RoleName"], PolicyName=name, PolicyDocument=json.dumps(ast.literal_eval(document))
            )
    return stack


def test_everything_at_rest_is_encrypted_with_the_key(aws: Aws, stack: Stack) -> None:
    outputs = stack.outputs
    for bucket in (outputs["DataBucket"], outputs["OpsBucket"]):
        (rule,) = aws.client("s3").get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
        assert rule["ApplyServerSideEncryptionByDefault"]["KMSMasterKeyID"] == outputs["KeyArn"]
    topic = aws.client("sns").get_topic_attributes(TopicArn=outputs["AlarmTopicArn"])["Attributes"]
    assert topic["KmsMasterKeyId"] == outputs["KeyArn"]


@pytest.mark.parametrize(
    ("role", "request_", "bucket", "key", "allowed"),
    [
        ("Cluster", "get_object", "Data", "landing/kiwi/1.jpg", True),
        ("Cluster", "put_object", "Data", "archive/kiwi/1.jpg", True),
        ("Cluster", "put_object", "Data", "features/ingest_date=2026-11-22/1.parquet", True),
        ("Cluster", "put_object", "Data", "models/pca/v000007/model.npz", True),
        ("Cluster", "put_object", "Data", "state/batches/000000000007.plan.json", True),
        ("Cluster", "put_object", "Ops", "logs/j-1/stderr.gz", True),
        ("Cluster", "get_object", "Ops", "artifacts/1/wheelhouse.tar", True),
        ("Cluster", "get_object", "Data", "models/featurizer/1/network.tflite", True),
        ("Cluster", "delete_object", "Data", "landing/kiwi/1.jpg", True),
        ("Cluster", "delete_object", "Data", "models/pca/moments/1/2026-11.npz", True),
        ("Cluster", "put_object", "Data", "labels/1.parquet", True),
        ("Cluster", "delete_object", "Data", "labels/1.parquet", True),
        ("Cluster", "put_object", "Data", "copies/1.parquet", True),
        ("Cluster", "delete_object", "Data", "copies/1.parquet", True),
        ("Cluster", "put_object", "Data", "landing/kiwi/1.jpg", False),
        ("Cluster", "put_object", "Data", "models/featurizer/1/network.tflite", False),
        ("Cluster", "put_object", "Ops", "artifacts/1/install.sh", False),
        ("Cluster", "delete_object", "Data", "archive/kiwi/1.jpg", True),
        ("Cluster", "delete_object", "Data", "models/featurizer/1/network.tflite", False),
        ("Cluster", "delete_object", "Data", "models/pca/v000007/model.npz", False),
        ("Uploader", "put_object", "Data", "landing/kiwi/1.jpg", True),
        ("Uploader", "get_object", "Data", "landing/kiwi/1.jpg", False),
        ("Uploader", "delete_object", "Data", "landing/kiwi/1.jpg", False),
        ("Uploader", "get_object", "Data", "answers/kiwi/1.jpg.json", True),
        ("Uploader", "put_object", "Data", "answers/kiwi/1.jpg.json", False),
        ("Uploader", "put_object", "Data", "features/1.parquet", False),
        ("Uploader", "put_object", "Data", "labels/1.parquet", False),
        ("Analyst", "get_object", "Data", "features/_delta_log/00000000000000000000.json", True),
        ("Analyst", "get_object", "Data", "models/pca/current/CURRENT.json", True),
        ("Analyst", "put_object", "Ops", "athena-results/1.csv", True),
        ("Analyst", "get_object", "Data", "landing/kiwi/1.jpg", False),
        ("Analyst", "get_object", "Data", "archive/kiwi/1.jpg", False),
        ("Analyst", "get_object", "Data", "labels/1.parquet", True),
        ("Analyst", "get_object", "Data", "copies/_delta_log/00000000000000000000.json", True),
        ("Analyst", "get_object", "Data", "copies/1.parquet", False),
        ("Analyst", "put_object", "Data", "features/1.parquet", False),
        ("Analyst", "put_object", "Data", "labels/1.parquet", False),
        ("Analyst", "get_object", "Data", "state/labellers.json", False),
        ("Analyst", "get_object", "Ops", "logs/j-1/stderr.gz", False),
        ("Operator", "put_object", "Data", "state/requests/stop.json", True),
        ("Operator", "get_object", "Data", "rejects/1.parquet", True),
        ("Operator", "get_object", "Data", "copies/1.parquet", True),
        ("Operator", "delete_object", "Data", "copies/1.parquet", False),
        ("Operator", "get_object", "Ops", "logs/j-1/stderr.gz", True),
        ("Operator", "put_object", "Data", "labels/1.parquet", True),
        ("Operator", "put_object", "Data", "state/labellers.json", True),
        ("Operator", "delete_object", "Data", "labels/1.parquet", False),
        ("Operator", "put_object", "Data", "state/lease.json", False),
        ("Operator", "delete_object", "Data", "features/1.parquet", False),
        ("Operator", "put_object", "Data", "reports/1.html", True),
        ("Operator", "delete_object", "Data", "archive/kiwi/1.jpg", False),
        ("Eraser", "list_object_versions", "Data", None, True),
        ("Eraser", "get_object", "Data", "archive/kiwi/1.jpg", True),
        ("Eraser", "put_object", "Data", "features/1.parquet", True),
        ("Eraser", "delete_object", "Data", "archive/kiwi/1.jpg", True),
        ("Eraser", "delete_object", "Data", "labels/1.parquet", True),
        ("Eraser", "put_object", "Data", "copies/1.parquet", True),
        ("Eraser", "delete_object", "Data", "copies/1.parquet", True),
        ("Eraser", "get_object", "Data", "models/pca/v000007/model.npz", True),
        ("Eraser", "put_object", "Data", "models/pca/v000007/meta.json", True),
        ("Eraser", "put_object", "Data", "models/pca/current/CURRENT.json", False),
        ("Eraser", "delete_object", "Data", "models/pca/v000007/model.npz", False),
        ("Eraser", "put_object", "Data", "landing/kiwi/1.jpg", False),
        ("Eraser", "get_object", "Ops", "logs/j-1/stderr.gz", False),
        ("Cluster", "list_object_versions", "Data", None, False),
    ],
)
def test_a_role_may_do_what_its_work_needs_and_no_more(
    aws: Aws, stack: Stack, role: str, request_: str, bucket: str, key: str | None, allowed: bool
) -> None:
    outputs = stack.outputs
    place = {"Bucket": outputs[f"{bucket}Bucket"]}
    if key is not None:
        place["Key"] = key
        aws.client("s3").put_object(**place, Body=b"before")
    s3 = aws.client("s3", role_arn=outputs[f"{role}RoleArn"])

    with aws.permissions_checked():
        try:
            getattr(s3, request_)(**place)
            done = True
        except ClientError as error:
            assert error.response["Error"]["Code"] == "AccessDenied"
            done = False

    assert done == allowed


def test_a_message_that_is_never_settled_goes_to_the_dead_letters(aws: Aws, stack: Stack) -> None:
    sqs, outputs = aws.client("sqs"), stack.outputs
    sqs.send_message(QueueUrl=outputs["QueueUrl"], MessageBody="never settled")

    for _ in range(5):
        (received,) = sqs.receive_message(QueueUrl=outputs["QueueUrl"], VisibilityTimeout=0)["Messages"]
        assert received["Body"] == "never settled"

    assert "Messages" not in sqs.receive_message(QueueUrl=outputs["QueueUrl"], WaitTimeSeconds=0)
    (dead,) = sqs.receive_message(QueueUrl=outputs["DeadLetterQueueUrl"])["Messages"]
    assert dead["Body"] == "never settled"


@pytest.mark.parametrize("job", ["Refit", "Maintain"])
def test_what_a_schedule_sends_is_a_job_emr_takes(aws: Aws, stack: Stack, job: str) -> None:
    outputs = stack.outputs
    target = _template()["Resources"][f"{job}Schedule"]["Properties"]["Target"]
    assert target["Arn"]["Fn::Sub"].endswith(":scheduler:::aws-sdk:emr:addJobFlowSteps")
    substituted = target["Input"]["Fn::Sub"]
    text, keep_copies = (substituted, "") if job == "Refit" else (substituted[0], _keep_copies(substituted[1], "395"))
    request = json.loads(
        text.replace("${Cluster}", outputs["ClusterId"])
        .replace("${DataBucket}", outputs["DataBucket"])
        .replace("${KeepCopies}", keep_copies)
    )

    (step_id,) = aws.emr_of_stacks().add_job_flow_steps(**request)["StepIds"]

    step = aws.emr_of_stacks().describe_step(ClusterId=outputs["ClusterId"], StepId=step_id)["Step"]
    assert step["Name"] == f"fruits-{job.lower()}"
    options = {"Refit": ["--reproject", "--if-enough"], "Maintain": ["--keep-copies", "395d"]}[job]
    by_hand: tuple[Job, list[str]] = ("refit" if job == "Refit" else "maintain", options)
    assert tuple(step["Config"]["Args"]) == job_step(*by_hand, outputs["Home"]).arguments


def test_copies_are_kept_for_ever_unless_a_stage_says_how_long() -> None:
    template = _template()
    assert template["Parameters"]["CopyDays"]["Default"] == 0
    assert template["Conditions"]["ExpiresCopies"] == {"Fn::Not": [{"Fn::Equals": [{"Ref": "CopyDays"}, 0]}]}
    text, words = template["Resources"]["MaintainSchedule"]["Properties"]["Target"]["Input"]["Fn::Sub"]
    condition, _, otherwise = words["KeepCopies"]["Fn::If"]
    assert (condition, otherwise) == ("ExpiresCopies", "")
    arguments = json.loads(text.replace("${KeepCopies}", otherwise))["Steps"][0]["HadoopJarStep"]["Args"]
    assert tuple(arguments) == job_step("maintain", [], "s3://${DataBucket}").arguments


def _keep_copies(words: dict[str, Any], days: str) -> str:
    return str(words["KeepCopies"]["Fn::If"][1]["Fn::Sub"]).replace("${CopyDays}", days)


def test_a_stream_that_failed_is_submitted_again_with_the_same_arguments(aws: Aws, stack: Stack) -> None:
    emr, cluster_id = aws.client("emr"), _cluster(aws)
    # moto knows no step that failed, so this one has another name than a stream that runs.
    failed = _step("fruits-failed", "stream", "--home", stack.outputs["Home"], "--clean-after", "1h")
    (failed_id,) = emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=[failed])["StepIds"]

    assert _resubmit(aws, stack, {"clusterId": cluster_id, "stepId": failed_id}) == "SUCCEEDED"

    again, first = emr.list_steps(ClusterId=cluster_id)["Steps"]
    assert (first["Id"], first["Name"]) == (failed_id, "fruits-failed")
    assert (again["Name"], again["ActionOnFailure"]) == ("fruits-failed", "CONTINUE")
    assert again["Config"]["Jar"] == "command-runner.jar"
    assert again["Config"]["Args"] == failed["HadoopJarStep"]["Args"]


def test_a_stream_is_not_submitted_again_beside_another_one(aws: Aws, stack: Stack) -> None:
    emr, cluster_id = aws.client("emr"), _cluster(aws)
    steps = [_step("fruits-stream", "stream"), _step("fruits-failed", "stream")]
    ids = emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=steps)["StepIds"]

    assert _resubmit(aws, stack, {"clusterId": cluster_id, "stepId": ids[1]}) == "SUCCEEDED"

    assert {step["Id"] for step in emr.list_steps(ClusterId=cluster_id)["Steps"]} == set(ids)


STEP, CLUSTER = "EMR Step Status Change", "EMR Cluster State Change"


@pytest.mark.parametrize(
    ("rule", "kind", "state", "name", "other_cluster", "seen"),
    [
        ("stream-failed", STEP, "FAILED", "fruits-stream", False, True),
        ("stream-failed", STEP, "COMPLETED", "fruits-stream", False, False),
        ("stream-failed", STEP, "CANCELLED", "fruits-stream", False, False),
        ("stream-failed", STEP, "FAILED", "fruits-refit", False, False),
        ("stream-failed", STEP, "FAILED", "fruits-stream", True, False),
        ("refit-failed", STEP, "FAILED", "fruits-refit", False, True),
        ("refit-failed", STEP, "COMPLETED", "fruits-refit", False, False),
        ("refit-failed", STEP, "FAILED", "fruits-maintain", False, False),
        ("maintain-failed", STEP, "FAILED", "fruits-maintain", False, True),
        ("cluster-lost", CLUSTER, "TERMINATED_WITH_ERRORS", "fruits-dev", False, True),
        ("cluster-lost", CLUSTER, "TERMINATED_WITH_ERRORS", "fruits-dev", True, False),
        ("cluster-lost", CLUSTER, "TERMINATED", "fruits-dev", False, False),
    ],
)
def test_a_rule_sees_what_it_is_for_and_nothing_else(
    aws: Aws, stack: Stack, rule: str, kind: str, state: str, name: str, other_cluster: bool, seen: bool
) -> None:
    events, logs = aws.client("events"), aws.client("logs")
    # The rule's pattern on a bus of its own, leading to a log to look into: moto brings no event to its real target.
    bus = f"seen-{uuid.uuid4().hex}"
    events.create_event_bus(Name=bus)
    logs.create_log_group(logGroupName=bus)
    (group,) = logs.describe_log_groups(logGroupNamePrefix=bus)["logGroups"]
    pattern = _rules(aws)[f"fruits-dev-{rule}"]["EventPattern"]
    events.put_rule(Name="seen", EventBusName=bus, EventPattern=pattern)
    target = {"Id": "log", "Arn": group["arn"].removesuffix(":*")}
    events.put_targets(Rule="seen", EventBusName=bus, Targets=[target])
    cluster_id = "j-OTHER" if other_cluster else stack.outputs["ClusterId"]
    detail = {"clusterId": cluster_id, "stepId": "s-1", "name": name, "state": state, "message": "Gone."}
    event = {"Source": "aws.emr", "DetailType": kind, "Detail": json.dumps(detail)}

    answer = events.put_events(Entries=[event | {"EventBusName": bus}])

    assert answer["FailedEntryCount"] == 0
    found = [json.loads(entry["message"])["detail"] for entry in logs.filter_log_events(logGroupName=bus)["events"]]
    assert found == ([detail] if seen else [])


@pytest.mark.parametrize("rule", ["RefitFailed", "MaintainFailed", "ClusterLost"])
def test_a_message_of_a_rule_says_what_to_do_and_reaches_the_topic(rule: str) -> None:
    resources = _template()["Resources"]
    (target,) = resources[rule]["Properties"]["Targets"]
    assert target["Arn"] == {"Ref": "AlarmTopic"}
    transformer = target["InputTransformer"]
    text = transformer["InputTemplate"]["Fn::Sub"].replace("${Stage}", "dev").replace("${AWS::Region}", REGION)
    # A template of EventBridge that is one JSON string, so that SNS sends its words and no JSON.
    assert json.loads(text).startswith(
        f"fruits-dev-{resources[rule]['Properties']['Name']['Fn::Sub'][16:]}, in {REGION}: "
    )
    assert set(re.findall(r"<(\w+)>", text)) == set(transformer["InputPathsMap"])
    commands = [command.split() for command in re.findall(r"`fruits ([^`]+)`", text)]
    assert commands
    assert all("--stage" in command for command in commands)
    topic = resources["AlarmTopicPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    (may,) = (each for each in topic if each["Principal"] == {"Service": "events.amazonaws.com"})
    # EventBridge fulfils no condition of a topic's policy.
    assert "Condition" not in may
    key = resources["Key"]["Properties"]["KeyPolicy"]["Statement"]
    (use,) = (each for each in key if each["Principal"] == {"Service": "events.amazonaws.com"})
    name = resources["AlarmTopic"]["Properties"]["TopicName"]["Fn::Sub"]
    assert use["Condition"]["StringEquals"]["kms:EncryptionContext:aws:sns:topicArn"]["Fn::Sub"].endswith(f":{name}")


def test_what_a_rule_cannot_deliver_goes_to_a_queue_that_stays_without_a_cluster() -> None:
    resources = _template()["Resources"]
    queue, policy = resources["JobDeadLetterQueue"], resources["JobDeadLetterQueuePolicy"]
    # Made anew within 60 seconds, its name would be refused.
    assert "Condition" not in queue
    (allowed,) = (each for each in policy["Properties"]["PolicyDocument"]["Statement"] if each["Effect"] == "Allow")
    named = {arn["Fn::Sub"].rpartition(":rule/")[2] for arn in allowed["Condition"]["ArnEquals"]["aws:SourceArn"]}
    rules = dict(_of_type("AWS::Events::Rule"))
    assert named == {rule["Name"]["Fn::Sub"] for rule in rules.values()}
    for rule in rules.values():
        (target,) = rule["Targets"]
        assert target["DeadLetterConfig"]["Arn"] == {"Fn::GetAtt": ["JobDeadLetterQueue", "Arn"]}


@pytest.mark.parametrize("region", EUROPE)
def test_every_region_has_the_instances_that_the_release_runs_on(aws: Aws, region: str) -> None:
    wanted = set(_instance_types(_template()["Resources"]["Cluster"]))
    assert len(wanted) > 5
    offered = aws.client("ec2", region).get_paginator("describe_instance_type_offerings").paginate()
    assert wanted <= {offer["InstanceType"] for page in offered for offer in page["InstanceTypeOfferings"]}
    release = _template()["Parameters"]["ReleaseLabel"]["Default"]
    supported = aws.client("emr", region).list_supported_instance_types(ReleaseLabel=release)
    assert wanted <= {instance["Type"] for instance in supported["SupportedInstanceTypes"]}


def test_a_stack_gets_a_cluster_and_loses_it_again_and_keeps_the_photos(aws: Aws, stack: Stack) -> None:
    # The last test: from here on there is no cluster.
    s3, emr = aws.client("s3"), aws.emr_of_stacks()
    without, outputs = stack.foundation, stack.outputs
    assert without.keys() == {
        *("DataBucket", "OpsBucket", "Home", "Clean", "CleanAfter", "QueueUrl", "DeadLetterQueueUrl"),
        *("KeyArn", "GlueDatabase", "AthenaWorkGroup", "UploaderRoleArn", "AnalystRoleArn", "OperatorRoleArn"),
        *("EraserRoleArn", "ClusterRoleArn", "AlarmTopicArn", "Namespace"),
    }
    assert without["DataBucket"] == f"fruits-dev-123456789012-{REGION}"
    assert without["OpsBucket"] == f"fruits-dev-123456789012-{REGION}-ops"
    assert without["Home"] == f"s3://{without['DataBucket']}"
    assert (without["GlueDatabase"], without["AthenaWorkGroup"]) == ("fruits_dev", "fruits-dev")
    assert without["Namespace"] == "Fruits/dev"
    assert outputs.items() > without.items()
    cluster = emr.describe_cluster(ClusterId=outputs["ClusterId"])["Cluster"]
    assert cluster["Name"] == "fruits-dev"
    assert cluster["ReleaseLabel"] == "emr-spark-8.1.0"
    assert cluster["LogUri"] == f"s3://{outputs['OpsBucket']}/logs/"
    assert {"Key": "fruits-stage", "Value": "dev"} in cluster["Tags"]
    assert {"Key": "for-use-with-amazon-emr-managed-policies", "Value": "true"} in cluster["Tags"]
    assert "fruits-dev-resubmit" in _state_machines(aws)
    assert "fruits-dev-stream-failed" in _rules(aws)
    s3.put_object(Bucket=without["DataBucket"], Key="landing/kiwi/1.jpg", Body=b"photo")

    stack.update("")

    assert stack.outputs == without
    assert emr.describe_cluster(ClusterId=outputs["ClusterId"])["Cluster"]["Status"]["State"] == "TERMINATED"
    assert "fruits-dev-resubmit" not in _state_machines(aws)
    assert "fruits-dev-stream-failed" not in _rules(aws)
    assert s3.get_object(Bucket=without["DataBucket"], Key="landing/kiwi/1.jpg")["Body"].read() == b"photo"


@cache
def _template() -> dict[str, Any]:
    return read_template().sections


def _of_type(kind: str) -> list[tuple[str, dict[str, Any]]]:
    resources = _template()["Resources"].items()
    return [(name, resource["Properties"]) for name, resource in resources if resource["Type"] == kind]


def _allowed() -> list[tuple[str, dict[str, Any]]]:
    def statements(value: Any) -> Iterator[dict[str, Any]]:
        if isinstance(value, dict):
            if value.get("Effect") == "Allow":
                yield value
            for inner in value.values():
                yield from statements(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from statements(inner)

    return [(name, found) for name, resource in _template()["Resources"].items() for found in statements(resource)]


def _permissions() -> list[tuple[str, dict[str, Any]]]:
    """The statements that allow a role something."""
    roles = {name for name, _ in _of_type("AWS::IAM::Role")}
    return [(name, statement) for name, statement in _allowed() if name in roles and "Principal" not in statement]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _instance_types(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "InstanceType" in value:
            yield from value["InstanceType"]["Fn::If"][1:]
        for inner in value.values():
            yield from _instance_types(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _instance_types(inner)


def _state_machines(aws: Aws) -> dict[str, str]:
    machines = aws.client("stepfunctions").list_state_machines()["stateMachines"]
    return {machine["name"]: machine["stateMachineArn"] for machine in machines}


def _rules(aws: Aws) -> dict[str, dict[str, Any]]:
    return {rule["Name"]: rule for rule in aws.client("events").list_rules()["Rules"]}


def _cluster(aws: Aws) -> str:
    instances = {"KeepJobFlowAliveWhenNoSteps": True}
    return str(aws.client("emr").run_job_flow(Name="steps", Instances=instances)["JobFlowId"])


def _step(name: str, *arguments: str) -> dict[str, Any]:
    script = "/opt/fruits/lib/python3.11/site-packages/ops/__main__.py"
    args = ["spark-submit", "--deploy-mode", "cluster", "--name", name, "--queue", "stream", script, *arguments]
    return {
        "Name": name,
        "ActionOnFailure": "CANCEL_AND_WAIT",
        "HadoopJarStep": {"Jar": "command-runner.jar", "Args": args},
    }


def _resubmit(aws: Aws, stack: Stack, detail: dict[str, str]) -> str:
    """Run the stack's state machine, less its pause, and say how it ended."""
    arn = stack.outputs["ResubmitArn"]
    machine = aws.client("stepfunctions").describe_state_machine(stateMachineArn=arn)
    definition = json.loads(machine["definition"])
    assert definition["States"][definition["StartAt"]]["Type"] == "Wait"
    definition["States"][definition["StartAt"]]["Seconds"] = 0
    # moto keeps the machines that it runs apart from those that a stack made.
    aws.configure(stepfunctions={"execute_state_machine": True})
    try:
        running = aws.client("stepfunctions")
        made = running.create_state_machine(
            name=f"again-{detail['stepId']}", definition=json.dumps(definition), roleArn=machine["roleArn"]
        )
        execution = running.start_execution(stateMachineArn=made["stateMachineArn"], input=json.dumps(detail))
        while True:
            status = running.describe_execution(executionArn=execution["executionArn"])["status"]
            if status != "RUNNING":
                return str(status)
    finally:
        aws.configure(stepfunctions={"execute_state_machine": False})
