"""Every notebook runs from a clean kernel, stays short, and is committed with its outputs."""

import ast
import json
import re
from pathlib import Path

import nbformat
import pytest

from tests.notebook import NOTEBOOKS, executed

MAX_CODE_CELLS, MAX_FUNCTION_LINES, MAX_BYTES = 12, 10, 150_000

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def _code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _output_kinds(notebook):
    return [[sorted(o.get("data", [o.output_type])) for o in cell.outputs] for cell in _code_cells(notebook)]


def test_the_notebooks_are_there():
    names = ["01_learning_rates", "02_composing_transforms", "03_finding_the_rate", "04_keeping_a_run_alive"]
    assert [path.stem for path in NOTEBOOKS] == [*names, "05_a_real_model"]


@pytest.mark.slow
@each_notebook
def test_runs_from_a_clean_kernel_and_gives_the_committed_kinds_of_output(path):
    assert _output_kinds(executed(path)) == _output_kinds(nbformat.read(path, as_version=4))


@each_notebook
def test_is_short(path):
    cells = _code_cells(nbformat.read(path, as_version=4))
    nodes = [node for cell in cells for node in ast.walk(ast.parse(cell.source))]
    lengths = {f.name: f.end_lineno - f.lineno + 1 for f in nodes if isinstance(f, ast.FunctionDef)}
    assert len(cells) <= MAX_CODE_CELLS
    assert {name: n for name, n in lengths.items() if n > MAX_FUNCTION_LINES} == {}
    assert path.stat().st_size <= MAX_BYTES


@each_notebook
def test_is_committed_with_outputs_and_without_errors(path):
    cells = _code_cells(nbformat.read(path, as_version=4))
    kinds = [output.output_type for cell in cells for output in cell.outputs]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert "display_data" in kinds and "error" not in kinds
    assert [o.text for cell in cells for o in cell.outputs if o.output_type == "stream" and o.name == "stderr"] == []


@each_notebook
def test_says_nothing_of_the_machine_it_ran_on(path):
    text = path.read_text()
    notebook = json.loads(text)
    places = re.findall(r"(?:/(?:home|root|tmp|work|usr|opt|Users|var)/|[A-Z]:\\\\)[\w./-]+", text)
    assert places == [] and str(Path.home()) not in text
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert set(notebook["metadata"]["language_info"]) == {"name"}
    assert [cell["metadata"] for cell in notebook["cells"] if cell["metadata"]] == []
