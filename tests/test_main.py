"""The command line as a user meets it."""

import csv
import io
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

import lrjax
from lrjax.__main__ import main
from lrjax.compare import compare


def run(*arguments, **options):
    return subprocess.run([sys.executable, "-m", "lrjax", *arguments], capture_output=True, text=True, **options)


def fails(capsys, *arguments):
    """The one line on stderr of a command that ends with status 2."""
    try:
        status = main(list(arguments))
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    assert status == 2 and captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1 and captured.err.startswith("lrjax")
    return captured.err


def test_help_and_version(capsys):
    assert main([]) == 0
    assert "compare" in capsys.readouterr().out
    for arguments, words in ((["--version"], lrjax.__version__), (["compare", "--help"], "--seeds")):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0 and words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "mnist"], "'mnist'"),
        (["--out", "/no/such/place/page.html"], "/no/such/place"),
        (["--steps", "0"], "'0'"),
        (["--steps", "many"], "'many'"),
        (["--steps", "1" * 5000], "100,000"),
        (["--steps", "²"], "'²'"),
        (["--seeds", "101"], "from 1 to 100,"),
        (["--out", "a" * 300], "name of a file"),
        (["--out", ""], "directory"),
        (["--seeds", "-1"], "'-1'"),
        (["--format", "xml"], "'xml'"),
        (["--speed", "9"], "--speed"),
    ],
)
def test_a_bad_argument_of_compare_is_one_line_before_any_work(capsys, monkeypatch, arguments, words):
    monkeypatch.setattr("lrjax.__main__.compare", None)  # calling it would fail
    assert words in fails(capsys, "compare", *arguments)


def test_an_output_that_is_a_directory_is_refused(capsys, tmp_path):
    assert "directory" in fails(capsys, "compare", "--out", str(tmp_path))


def test_a_file_that_cannot_be_written_is_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    assert "writable" in fails(capsys, "compare", "--out", str(tmp_path / "page.html"))


def test_a_missing_extra_is_named(capsys, monkeypatch, tmp_path):
    for module in ("sklearn", "rich.console"):
        with monkeypatch.context() as without:
            without.setitem(sys.modules, module, None)
            assert "lrjax[demo]" in fails(capsys, "compare", "--out", str(tmp_path / "page.html"))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "lrjax[plot]" in fails(capsys, "plot", "linear_schedule(0, 1, 9)", "--out", str(tmp_path / "curve.png"))


@pytest.mark.slow
def test_compare_writes_a_page_and_clean_json(tmp_path):
    out = tmp_path / "page.html"
    done = run("compare", "--steps", "40", "--seeds", "2", "--task", "diabetes", "--format", "json", "--out", str(out))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert result["task"] == "diabetes" and len(result["rows"]) == 17
    assert out.read_text().startswith("<!doctype html>")
    assert done.stderr == f"wrote {out}\n"  # no bar where nobody looks, and no warnings


@pytest.mark.slow
def test_compare_prints_a_table_and_csv(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    trained = []  # once for both formats
    monkeypatch.setattr(
        "lrjax.__main__.compare", lambda *a: trained[0] if trained else trained.append(compare(*a)) or trained[0]
    )
    arguments = ["compare", "--steps", "4", "--seeds", "1", "--task", "diabetes", "--out", str(tmp_path / "page.html")]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and any("cosine with warmup" in line for line in lines)
    assert main([*arguments, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 17 and float(rows[0]["peak_rate"]) > 0


def test_plot_draws_in_the_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["plot", "warmup_cosine_decay_schedule(0, 1e-3, 100, 1000)"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60
    labelled = {line.split()[0] for line in lines if "┤" in line}
    assert {"0", "5e-4", "0.001"} <= labelled and lines[-1].split() == ["step", "0", "500", "1,000"]
    assert any(0x2800 < ord(character) <= 0x28FF for line in lines for character in line)


@pytest.mark.parametrize("columns", ["10", "40", "200"])
def test_a_drawn_curve_is_as_wide_as_the_terminal(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["plot", "constant_schedule(1)", "--steps", "2147483647"]) == 0
    width = max(map(len, capsys.readouterr().out.splitlines()))
    assert max(int(columns), 24) - 2 <= width <= max(int(columns), 24)


def test_plot_says_so_where_a_character_cannot_be_written():
    done = run("plot", "linear_schedule(0, 1, 5)", env={**os.environ, "PYTHONIOENCODING": "latin1"})
    assert done.returncode == 0 and done.stderr == ""


def test_a_reader_that_leaves_early_is_no_error():
    command = f"{sys.executable} -m lrjax plot 'linear_schedule(0, 1, 5)' | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""


def test_plot_writes_svg_and_png(tmp_path, capsys):
    svg, png = tmp_path / "curve.svg", tmp_path / "curve.png"
    assert main(["plot", "linear_schedule(0, 1, 100)", "--out", str(svg)]) == 0
    assert main(["plot", "linear_schedule(0, 1, 100)", "--steps", "50", "--out", str(png)]) == 0
    assert ET.parse(svg).getroot().tag.endswith("svg")
    assert png.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cosin_decay(3)"], "Did you mean"),
        (["linear_schedule(0, 1, -5)"], "`transition_steps`"),
        (["linear_schedule(0, 1, 5)", "--out", "curve.gif"], ".svg or .png"),
        (["linear_schedule(0, 1, 5)", "--steps", "-3"], "'-3'"),
    ],
)
def test_a_bad_plot_is_one_line(capsys, arguments, words):
    assert words in fails(capsys, "plot", *arguments)
