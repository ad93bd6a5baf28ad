"""The runbook has an entry for every alarm, every error and finding the program can print, and every reject reason.

Sentences are read from the source. Of each, the first part between placeholders that has 12 characters or more, else
the longest one, has to stand in a code span of the runbook: its beginning is enough, and placeholders may differ.
"""

import ast
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import typer
import yaml

from features.rejects import Reason
from ops.cli.main import app
from ops.query.named_queries import named_query

ROOT = Path(__file__).parents[2]
RUNBOOK = ROOT / "docs" / "operations.md"
ROOMS = ("features", "store", "streaming", "batch", "bootstrap", "ops")
ROOT_ERROR = "FruitsError"
SHORTEST_PART = 12
BEGINNING = 40
# Of no use where a sentence is cut.
_AT_AN_EDGE = " .:;,(`'"

# Functions that make a sentence of an argument: the argument's index, and what the sentence has before it.
MADE_OF_AN_ARGUMENT = {
    "storage_error": (0, "Cannot "),
    "retry_storage": (0, "Cannot "),
    "_refuse_unless": (1, ""),
    "_fail": (1, ""),
}
# Functions all of whose sentences end in an error, by module.
SPEAKERS = {
    "bootstrap/aws/preflight/checks.py": (
        *("_plan", "_region", "_template", "_release", "_instance_types", "_endpoints", "_roles"),
    ),
    "bootstrap/aws/preflight/quotas.py": ("on_demand_finding", "spot_finding", "network_finding"),
    "bootstrap/aws/wheelhouse.py": ("_why_not_downloaded",),
}
# Modules whose ValueErrors are shown as they are, after the name of the setting.
VALUE_ERRORS_ARE_SHOWN = ("store/settings.py", "ops/query/named_queries.py")
# Errors and the like whose sentence is made elsewhere, and where.
MADE_ELSEWHERE = {
    ("bootstrap/aws/cost.py", "sentence"): "the callers of _refuse_unless",
    ("bootstrap/aws/preflight/findings.py", "' '.join(fatal)"): "SPEAKERS",
    ("bootstrap/aws/wheelhouse.py", "_why_not_downloaded(architecture, done.stderr)"): "SPEAKERS",
    ("store/objects/faults.py", "operation"): "the callers of retry_storage",
    ("store/settings.py", "'; '.join(lines)"): "VALUE_ERRORS_ARE_SHOWN and pydantic",
    ("store/tables/files.py", "what"): "its own line before, as `write ...`",
    ("ops/cli/main.py", "str(error)"): "every error",
    ("ops/query/query.py", "str(error).strip()"): "DuckDB",
}


@dataclass(frozen=True)
class Sentence:
    """Something the program can print, and what the runbook must have of it."""

    where: str
    text: str
    beginning: str


def test_every_alarm_and_budget_and_every_rule_that_sends_a_message_has_an_entry() -> None:
    names = [_stack_name(resource) for resource in _resources() if resource["Type"] in _NAME_OF and _tells(resource)]
    assert names
    missing = [name for name in names if f"\n### {name}\n" not in RUNBOOK.read_text()]
    assert not missing, f"docs/operations.md has no heading ### for {', '.join(missing)}"


def test_every_kind_of_error_has_an_entry() -> None:
    missing = sorted(_error_classes() - {ROOT_ERROR} - _code_spans())
    assert not missing, f"docs/operations.md has no `{'`, `'.join(missing)}`"


def test_every_reject_reason_has_an_entry() -> None:
    missing = [reason.value for reason in Reason if f"\n| `{reason}` |" not in RUNBOOK.read_text()]
    assert not missing, f"docs/operations.md has no row for the reasons {', '.join(missing)}"


def test_every_sentence_has_an_entry() -> None:
    sentences = [*_errors(), *_broken_promises(), *_findings_of_status(), *_of_the_nodes_installation()]
    spans = "\n".join(_code_spans())
    missing = [sentence for sentence in sentences if sentence.beginning not in spans]
    assert not missing, "docs/operations.md lacks an entry, a code span that has the quoted words, for:\n" + "\n".join(
        f"  {sentence.where}: “{sentence.beginning}” of: {sentence.text}" for sentence in missing
    )


def test_every_command_it_names_exists() -> None:
    commands = [span for span in sorted(_code_spans() | _code_lines()) if re.match(r"fruits [a-z]+(?!\S)", span)]
    assert commands
    wrong = [complaint for command in commands if (complaint := _complaint(command))]
    assert not wrong, "docs/operations.md names commands that do not exist:\n" + "\n".join(wrong)


_NAME_OF = {"AWS::CloudWatch::Alarm": "AlarmName", "AWS::Budgets::Budget": "BudgetName", "AWS::Events::Rule": "Name"}


class _Template(yaml.SafeLoader):
    """Reads CloudFormation's short forms as the text they stand before."""


_Template.add_multi_constructor("!", lambda loader, _, node: node.value if isinstance(node.value, str) else None)


def _resources() -> list[Any]:
    files = sorted((ROOT / "bootstrap" / "aws" / "templates").glob("*.yaml"))
    templates = (yaml.load(file.read_text(), Loader=_Template) for file in files)
    return [resource for template in templates for resource in template["Resources"].values()]


def _tells(resource: Any) -> bool:
    """Whether somebody gets a message of it: a rule may also lead elsewhere."""
    targets = resource["Properties"].get("Targets")
    return targets is None or any(target["Arn"] == "AlarmTopic" for target in targets)


def _stack_name(resource: Any) -> str:
    """The name as a message shows it, with STAGE and REGION where the template has a parameter."""
    properties = resource["Properties"]
    name = str(properties.get("Budget", properties)[_NAME_OF[resource["Type"]]])
    return name.replace("${Stage}", "STAGE").replace("${AWS::Region}", "REGION")


@cache
def _modules() -> dict[str, ast.Module]:
    files = (file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py")))
    return {file.relative_to(ROOT).as_posix(): ast.parse(file.read_text()) for file in files}


@cache
def _error_classes() -> frozenset[str]:
    """The names of FruitsError and all that derive from it, wherever they stand."""
    bases = {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for module in _modules().values()
        for node in ast.walk(module)
        if isinstance(node, ast.ClassDef)
    }
    found = {ROOT_ERROR}
    while more := {name for name, of in bases.items() if of & found} - found:
        found |= more
    return frozenset(found)


def _errors() -> Iterator[Sentence]:
    for path, module in _modules().items():
        errors = _error_classes() | ({"ValueError"} if path in VALUE_ERRORS_ARE_SHOWN else frozenset())
        makers = MADE_OF_AN_ARGUMENT | dict.fromkeys(errors, (0, ""))
        for call in (node for node in ast.walk(module) if isinstance(node, ast.Call)):
            index, before = makers.get(_called(call), (len(call.args), ""))
            if index < len(call.args):
                yield from _made_of(path, call.args[index], before)
        for speaker in (node for node in ast.walk(module) if isinstance(node, ast.FunctionDef)):
            if speaker.name in SPEAKERS.get(path, ()):
                yield from _spoken(path, speaker)


def _made_of(path: str, argument: ast.expr, before: str) -> Iterator[Sentence]:
    for one in (argument.body, argument.orelse) if isinstance(argument, ast.IfExp) else (argument,):
        if isinstance(one, ast.Constant | ast.JoinedStr):
            yield _sentence(f"{path}:{one.lineno}", _parts(one), before)
        else:
            expression = ast.unparse(one)
            assert (path, expression) in MADE_ELSEWHERE, (
                f"{path}:{one.lineno} makes an error of `{expression}`, which this test cannot read: give it a "
                "sentence, or add it to MADE_ELSEWHERE"
            )


def _broken_promises() -> Iterator[Sentence]:
    path = "ops/status/verification.py"
    yield from _spoken(path, _modules()[path])


def _findings_of_status() -> Iterator[Sentence]:
    """Their names, as `--json` has them."""
    for path, module in _modules().items():
        for call in (node for node in ast.walk(module) if isinstance(node, ast.Call) and path.startswith("ops/")):
            name = call.args[0] if call.args else None
            if _called(call) in ("wrong", "advice", "Finding") and isinstance(name, ast.Constant):
                yield Sentence(f"{path}:{call.lineno}", f"the finding {name.value!r}", str(name.value))


def _spoken(path: str, tree: ast.AST) -> Iterator[Sentence]:
    """The sentences among the strings of a piece of code: what has words and a full stop, and is no docstring."""
    nodes = list(ast.walk(tree))
    passed_over = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    passed_over |= {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in nodes:
        if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in passed_over:
            parts = _parts(node)
            if re.search(r"[a-z] [a-z].*[.:]( |$)", "…".join(parts)) and "SELECT " not in parts[0]:
                yield _sentence(f"{path}:{node.lineno}", parts)


def _of_the_nodes_installation() -> Iterator[Sentence]:
    script = (ROOT / "bootstrap" / "aws" / "install.sh").read_text()
    for reason in re.findall(r'\b(?:fail|attempt) "([^"]+)"', script):
        if not reason.startswith("$reason"):
            yield _sentence("bootstrap/aws/install.sh", re.split(r"\$\{[^}]*\}|\$\([^)]*\)|\$\w+|\$#", reason))


def _called(call: ast.Call) -> str:
    """The name of what is called, without what it belongs to."""
    return getattr(call.func, "id", getattr(call.func, "attr", ""))


def _parts(node: ast.Constant | ast.JoinedStr) -> list[str]:
    """What stands between the placeholders of a string, those of `str.format` included."""
    if isinstance(node, ast.Constant):
        return re.split(r"\{\w*\}", str(node.value))
    text = "".join(str(value.value) if isinstance(value, ast.Constant) else "{}" for value in node.values)
    return text.split("{}")


def _sentence(where: str, parts: Sequence[str], before: str = "") -> Sentence:
    normal = [" ".join(part.split()) for part in (before + parts[0], *parts[1:])]
    part = next((part for part in normal if len(part) >= SHORTEST_PART), max(normal, key=len))
    if len(part) > BEGINNING:
        part = part[:BEGINNING].rpartition(" ")[0]
    return Sentence(where, " {} ".join(normal).strip(), part.strip(_AT_AN_EDGE))


@cache
def _code_spans() -> frozenset[str]:
    spans = re.findall(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.sub(r"^```.*?^```$", "", _text(), flags=re.M | re.S))
    return frozenset(" ".join(span.split()) for _, span in spans)


@cache
def _code_lines() -> frozenset[str]:
    blocks = re.findall(r"^```\n(.*?)^```$", _text(), flags=re.M | re.S)
    return frozenset(line.partition("  #")[0].strip() for block in blocks for line in block.splitlines())


def _text() -> str:
    return RUNBOOK.read_text()


def _complaint(line: str) -> str | None:
    """What is wrong with a command line, or None: its command and its flags have to be there."""
    words = shlex.split(line)[1:]
    command = fruits = _fruits()
    flags: set[str] = set()
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
        flags |= _flags(command)
    if not flags:
        return f"  {line}: there is no such command"
    if command.name == "submit" and words and words[0] in fruits.commands:
        # What follows the job's name is the job's.
        flags |= _flags(fruits.commands[words[0]])
    if command.name == "query" and words and words[0].islower():
        flags |= {parameter.flag for parameter in named_query(words[0]).parameters}
    unknown = [word for word in words if word.startswith("--") and word not in flags]
    return f"  {line}: there is no {', '.join(unknown)}" if unknown else None


@cache
def _fruits() -> Any:
    return typer.main.get_command(app)


def _flags(command: Any) -> set[str]:
    return {"--help", *(flag for parameter in command.params for flag in parameter.opts)}
