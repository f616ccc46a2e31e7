"""What is said of the package in several places is said alike; `.ci/release` tries the built package itself."""

from __future__ import annotations

import ast
import re
import tomllib
import warnings
from importlib.metadata import metadata
from pathlib import Path

import pytest
import yaml

import pefttools

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_version_stands_in_one_place_that_is_packaged() -> None:
    assert "version" in PROJECT["dynamic"] and "version" not in PROJECT
    assert metadata("pefttools")["Version"] == pefttools.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == pefttools.__version__
    assert citation["license"] == PROJECT["license"]
    numbered = re.findall(r"^## \[(\d.*?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert not numbered or numbered[0] == pefttools.__version__


def test_what_is_pinned_is_pinned_once_in_order() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert lines == sorted(lines, key=str.lower)
    names = [re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in lines]
    assert len(set(names)) == len(names)
    wanted = [*PROJECT["dependencies"], *(one for extra in PROJECT["optional-dependencies"].values() for one in extra)]
    asked = {re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", one)[0]).lower() for one in wanted}  # type: ignore[index]
    assert asked - {"pefttools"} - set(names) <= {"ray"}, "an extra's package is not pinned"


def test_workflows_run_what_is_there() -> None:
    folder = ROOT / ".github" / "workflows"
    said = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in folder.glob("*.yml")}
    steps = {
        name: [step.get("run", "") for job in one["jobs"].values() for step in job["steps"]]
        for name, one in said.items()
    }
    assert ".ci/run" in steps["ci"] and any(step.startswith(".ci/release") for step in steps["package"])
    # those that are tested by nobody must stop nobody
    assert all(job["continue-on-error"] for job in said["experimental"]["jobs"].values())
    for name in (".ci/run", ".ci/release"):
        assert (ROOT / name).stat().st_mode & 0o111, f"{name} can't be run"


@pytest.mark.parametrize(
    "module", ["pefttools.bases.loading", "pefttools.adapters.lora", "pefttools.eval.spec", "tests.x"]
)
def test_a_warning_of_our_own_is_an_error_in_the_tests(module: str) -> None:
    for category in (UserWarning, DeprecationWarning):
        with pytest.raises(category, match="of ours"):
            warnings.warn_explicit("of ours", category, "file.py", 1, module)
    warnings.warn_explicit("of theirs", DeprecationWarning, "file.py", 1, "torch.nn")


def test_what_is_not_an_error_is_said_by_our_code() -> None:
    """A message that is worded anew must not leave an exception behind that nothing needs."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    messages = [one.partition(":")[2] for one in settings["filterwarnings"] if one.count(":") == 1]
    said = set()
    for folder in ("pefttools", "adapters", "eval"):
        for path in (ROOT / folder).rglob("*.py"):
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            said |= {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    everything = "\n".join(said)
    assert len(messages) == 5
    for message in messages:
        assert all(part in everything for part in message.split(".*")), message
