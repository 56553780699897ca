"""The examples of the contributor's guide work, in a copy of the repository."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCK = re.compile(
    r"^`([^`\n]+)`, (at its end|before|after|instead of)(?: `([^`\n]+)`)?:\n\n```python\n(.*?)```", re.M | re.S
)
NAMES = ("cosine_k_decay", "qhm", "scale_by_qhm", "soft_clip_by_global_norm")


def apply(folder, path, where, line, code):
    """Adds a block to a file: at its end, or at the one line that begins as it is said."""
    file = folder / path
    text = file.read_text(encoding="utf-8")
    if where == "at its end":
        file.write_text(f"{text}\n\n{code}", encoding="utf-8")
        return
    lines = text.splitlines(keepends=True)
    (at,) = [i for i, found in enumerate(lines) if re.match(re.escape(line) + r"\b|" + re.escape(line) + "$", found)]
    first, last = {"before": (at, at), "after": (at + 1, at + 1), "instead of": (at, at + 1)}[where]
    file.write_text("".join([*lines[:first], code, *lines[last:]]), encoding="utf-8")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("contribution")
    for name in ("lrjax", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder / name)
    blocks = BLOCK.findall(GUIDE)
    assert len(blocks) == GUIDE.count("```python")
    for block in blocks:
        apply(folder, *block)
    return folder


def run(folder, *command):
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("command", re.findall(r"^python -m pytest (.+ -k .+)$", GUIDE, re.M))
def test_the_tests_that_are_named_run_and_pass(copy, command):
    done = run(copy, "-m", "pytest", "-p", "no:cacheprovider", *shlex.split(command))
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 10


def test_style_and_the_rest_come_from_the_public_names(copy):
    for check in (["check"], ["format", "--check"]):
        done = run(
            copy, "-m", "ruff", *check, "--no-cache", "lrjax", "tests/schedules/cases.py", "tests/transforms/cases.py"
        )
        assert done.returncode == 0, done.stdout + done.stderr
    program = f"""
import lrjax
from lrjax.catalogue import example
from lrjax.search.techniques import techniques
for name in {NAMES}:
    example(getattr(lrjax, name))
print("cosine k decay" in [technique.name for technique in techniques(400)])
"""
    done = run(copy, "-c", program)
    assert done.stdout == "True\n", done.stderr
