"""The files that say how the package is checked and published say the same as each other."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import lrjax

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED = {r.name: str(r.specifier) for r in map(Requirement, PROJECT["dependencies"])}
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
CHECKS = WORKFLOW["jobs"]["checks"]


def _commands(script):
    lines = [line.split("#")[0].strip() for line in (ROOT / ".ci" / script).read_text().splitlines()]
    return [line for line in lines if line]


def test_the_hooks_of_pre_commit_are_the_checks_of_ci_that_take_seconds():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (local,) = config["repos"]
    assert local["repo"] == "local"
    assert all(hook["language"] == "system" and not hook["pass_filenames"] for hook in local["hooks"])
    checks = [line for line in _commands("run") if re.match("(ruff|pyright|mypy)( |$)", line)]
    assert len(checks) >= 4 and [hook["entry"] for hook in local["hooks"]] == checks


def test_the_workflow_runs_ci_on_every_declared_python_with_the_oldest_and_the_newest_jax():
    (run,) = [step for step in CHECKS["steps"] if "run" in step]
    assert run["run"] == ".ci/run" and run["env"] == {"CONSTRAINT": "${{ matrix.constraint }}"}
    assert ".ci/package" in _commands("run") and "${CONSTRAINT:-}" in (ROOT / ".ci" / "run").read_text()
    classifiers = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d", c)]
    assert CHECKS["strategy"]["matrix"]["python"] == classifiers
    assert PROJECT["requires-python"] == f">={classifiers[0]}"
    oldest, newest = CHECKS["strategy"]["matrix"]["constraint"]
    assert newest == "" and oldest.replace("==", ">=") == f"jax{DECLARED['jax']}"
    assert DECLARED["jax"] == DECLARED["jaxlib"]


@pytest.mark.parametrize("script", ["run", "package"])
def test_the_scripts_are_executable_bash(script):
    path = ROOT / ".ci" / script
    assert path.stat().st_mode & 0o100
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_the_newest_entry_of_the_changelog_is_this_version():
    text = (ROOT / "notebooks" / "changelog.md").read_text()
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d{2}-\d{2}$", text, flags=re.MULTILINE)
    assert versions[0] == lrjax.__version__
    assert versions == sorted(versions, key=lambda v: tuple(map(int, v.split("."))), reverse=True)


def test_the_command_line_says_the_version():
    done = subprocess.run([sys.executable, "-m", "lrjax", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == f"lrjax {lrjax.__version__}\n"
