"""Reads and uploads the CloudFormation template, whole or only its foundation."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bootstrap.aws.cloud import Cloud
from store.aws import aws_call

# One template in files that one can read; each has some of its sections.
FILES = sorted(Path(__file__).parent.glob("templates/*.yaml"))
# Resources and outputs of this condition exist only while the nodes have something to install.
COMPUTE = "HasArtifacts"


@dataclass(frozen=True)
class Template:
    """A template's sections; `text` is compact JSON, which CloudFormation reads like YAML."""

    sections: dict[str, Any]

    @cached_property
    def text(self) -> str:
        return json.dumps(self.sections, separators=(",", ":"))

    @property
    def parameters(self) -> set[str]:
        return set(self.sections["Parameters"])

    def foundation(self) -> "Template":
        """The template without its compute: small enough to create a stack before it has a bucket for the rest."""
        kept = {
            section: {name: each for name, each in self.sections[section].items() if each.get("Condition") != COMPUTE}
            for section in ("Resources", "Outputs")
        }
        return Template(self.sections | kept)


def read_template() -> Template:
    """This version's template, put together from its files. Raises ValueError if two of them name one thing."""
    import yaml

    class Loader(yaml.CSafeLoader):
        """YAML with CloudFormation's short forms of functions."""

    def function(loader: Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
        value: Any
        if isinstance(node, yaml.MappingNode):
            value = loader.construct_mapping(node, deep=True)
        elif isinstance(node, yaml.SequenceNode):
            value = loader.construct_sequence(node, deep=True)
        else:
            assert isinstance(node, yaml.ScalarNode)
            value = loader.construct_scalar(node)
        if suffix in ("Ref", "Condition"):
            return {suffix: value}
        return {f"Fn::{suffix}": value.split(".", 1) if suffix == "GetAtt" and isinstance(value, str) else value}

    Loader.add_multi_constructor("!", function)
    sections: dict[str, Any] = {}
    for file in FILES:
        for name, section in yaml.load(file.read_text(), Loader).items():
            if not isinstance(section, dict):
                sections[name] = section
                continue
            known = sections.setdefault(name, {})
            if twice := known.keys() & section.keys():
                raise ValueError(f"{file.name} says again what {', '.join(sorted(twice))} is.")
            known |= section
    return Template(sections)


def upload_template(cloud: Cloud, template: Template) -> str:
    """Put the template into the operations bucket under its hash, and return its URL.

    Replay uploads nothing. Raises CloudRefused, CloudUnavailable.
    """
    body = template.text.encode()
    key = f"artifacts/templates/{hashlib.sha256(body).hexdigest()}.json"
    with aws_call(f"store the template in {cloud.ops_bucket}"):
        if not cloud.s3.list_objects_v2(Bucket=cloud.ops_bucket, Prefix=key)["KeyCount"]:
            cloud.s3.put_object(Bucket=cloud.ops_bucket, Key=key, Body=body)
    return f"https://{cloud.ops_bucket}.s3.{cloud.region}.amazonaws.com/{key}"


if __name__ == "__main__":
    # For cfn-lint.
    print(read_template().text)
