"""The documentation's site: it builds without a warning, has every public name, and loads nothing from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lrjax.report.reference import families, with_methods
from tests.everything import PUBLIC

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs_jupyter", reason="extra: docs")
    pytest.importorskip("material", reason="extra: docs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "-f", ".mkdocs.yml", "--strict", "--site-dir", str(folder)]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {path.relative_to(site).as_posix(): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}


def test_every_public_name_has_its_place(pages):
    entries = {entry.name: entry for entry in with_methods(families(PUBLIC))}
    assert set(PUBLIC) <= set(entries)
    assert {"Schedule.clip", "Task.from_nnx", "Run.final", "SweepResult.best", "TuneResult.plot"} <= set(entries)
    reference = "".join(text for path, text in pages.items() if path.startswith("reference/"))
    for name in entries:
        assert reference.count(f'id="lrjax.{name}"') == 1, name


def test_the_gallery_has_every_schedule(pages):
    gallery = pages["gallery.html"]
    schedules = [entry.name for entry in with_methods(families(PUBLIC)) if entry.is_schedule]
    assert len(schedules) > 30 and gallery.count('<span class="schedule"><svg') == len(schedules)
    for name in schedules:
        assert f"#lrjax.{name}" in gallery


def test_the_reference_shows_formula_ranges_source_and_example(pages):
    decay = pages["reference/schedules/decay.html"]
    entry = decay.split('id="lrjax.cosine_decay_schedule"')[1].split('id="lrjax.inverse_time_decay"')[0]
    assert "η(t) = init·(α + (1−α)" in entry and "decay_steps</code>: a number of steps &gt;= 1." in entry
    assert 'href="https://arxiv.org/abs/1608.03983"' in entry and "<svg" in entry
    assert "cosine_weight" in entry  # its code


def test_pages_load_nothing_from_elsewhere(pages):
    loads = re.compile(r'<(?:script|img|iframe|source|video|link)\b[^>]*?\b(?:src|href)="?(?:https?:)?//[^>]*>')
    for path, text in pages.items():
        found = [tag for tag in loads.findall(text) if 'rel="canonical"' not in tag]
        assert found == [], path
