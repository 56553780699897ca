"""The command line as a user meets it: help, `compare`, `plot`, and terminals of all kinds."""

import csv
import io
import json
import os
import pty
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import lrjax
from lrjax.__main__ import main
from tests.pages import assert_needs_nothing

HERE = str(Path(lrjax.__file__).parent.parent)


def run(*arguments, **options):
    environment = {**os.environ, "PYTHONPATH": HERE, **options.pop("env", {})}
    command = [sys.executable, "-m", "lrjax", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, **options)


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


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Somebody has said how many, so that no command asks for more."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")


def test_help_and_version(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(f"\n    {command} " in out for command in COMMANDS)
    for arguments, words in ((["--version"], lrjax.__version__), (["compare", "--help"], "--seeds")):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0 and words in capsys.readouterr().out


COMMANDS = {
    "compare": ["--seeds", "--eval-every", "--target", "--save", "--out", "--json", "--format", "--optimizer"],
    "find": ["--low", "--high", "--seeds", "--optimizer", "--batch-size", "--devices"],
    "sweep": ["--learning-rates", "--checkpoint", "--save", "--diverged-above", "--eval-every", "--devices"],
    "tune": ["--low", "--high", "--budget", "--save", "--diverged-above", "--eval-every"],
    "train": ["--optimizer", "--learning-rate", "--steps", "--seed", "--eval-every", "--checkpoint", "--save"],
    "new": ["TASK.py"],
    "plot": ["--steps", "--out"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_says_what_it_takes(capsys, command):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    out = capsys.readouterr().out
    assert all(option in out for option in COMMANDS[command])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mnist"], "Built-in tasks are: digits, diabetes, text."),
        (["--out", "/no/such/place/page.html"], "/no/such/place"),
        (["--steps", "0"], "'0'"),
        (["--steps", "many"], "'many'"),
        (["--steps", "1" * 5000], "10,000,000"),
        (["--steps", "²"], "'²'"),
        (["--seeds", "1001"], "from 1 to 1,000,"),
        (["--out", "a" * 300], "name of a file"),
        (["--out", ""], "directory"),
        (["--seeds", "-1"], "'-1'"),
        (["--format", "xml"], "'xml'"),
        (["--target", "nan"], "'nan'"),
        (["--optimizer", "adamm"], "Did you mean adam"),
        (["--speed", "9"], "--speed"),
    ],
)
def test_a_bad_argument_of_compare_is_one_line_before_any_work(capsys, monkeypatch, arguments, words):
    monkeypatch.setattr("lrjax.commands.compare.compare", None)  # calling it would fail
    assert words in fails(capsys, "compare", *arguments)


@pytest.mark.parametrize("command", ["compare", "find", "sweep", "tune", "train"])
def test_an_output_that_cannot_be_written_is_refused_before_any_work(capsys, tmp_path, monkeypatch, command):
    function = {"find": "range_test"}.get(command, command)
    monkeypatch.setattr(f"lrjax.commands.{command}.{function}", None)
    assert "directory" in fails(capsys, command, "digits", "--out", str(tmp_path))
    page = str(tmp_path / "page.html")
    assert "two files" in fails(capsys, command, "digits", "--out", page, "--json", page)
    if command != "find":
        assert "`--save` must be in a directory" in fails(capsys, command, "digits", "--save", "/no/such/model")
        assert "two files" in fails(capsys, command, "digits", "--out", page, "--save", page)
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    assert "writable" in fails(capsys, command, "digits", "--out", page)


def test_a_missing_extra_is_named(capsys, monkeypatch, tmp_path):
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "sklearn", None)
        assert "lrjax[demo]" in fails(capsys, "compare", "--out", str(tmp_path / "page.html"))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "lrjax[plot]" in fails(capsys, "plot", "linear_schedule(0, 1, 9)", "--out", str(tmp_path / "curve.png"))


@pytest.mark.slow
def test_compare_writes_a_page_and_clean_json(tmp_path):
    out = tmp_path / "page.html"
    done = run("compare", "diabetes", "--steps", "40", "--seeds", "2", "--format", "json", "--out", str(out))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert result["task"] == "diabetes" and len(result["rows"]) == 29 and result["metric"] == "R²"
    assert "found for this task" in result["how"] and (result["steps"], result["seeds"]) == (40, 2)
    assert_needs_nothing(out.read_text())
    numbers = out.with_suffix(".json")
    assert json.loads(numbers.read_text()) == result
    assert done.stderr == f"wrote {out}\nwrote {numbers}\n"  # no bar where nobody looks, and no warnings


@pytest.mark.slow
def test_compare_takes_optimizers_by_name(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    named = ["--optimizer", "adam(0.01)", "--optimizer", "sgd(0.1, momentum=0.9)", "--save", "best.pkl"]
    arguments, trained = ["compare", "diabetes", "--steps", "8", "--seeds", "2", *named], []
    caught = lambda *task, **options: trained.append(lrjax.compare(*task, **options)) or trained[0]
    monkeypatch.setattr("lrjax.commands.compare.compare", caught)
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80 and any(line.startswith("sgd(0.1, momentum=0.9)") for line in lines)
    assert "the optimizers, and their rates" in out.lower() and "R² after the last step" in out
    assert err == "wrote lrjax-compare.html\nwrote lrjax-compare.json\nwrote best.pkl\n"
    best = lrjax.Run.load("best.pkl")
    assert best.params and len(best.losses) == 8 and "R²" in best.metrics
    monkeypatch.setattr("lrjax.commands.compare.compare", lambda *_, **__: trained[0])
    assert main([*arguments, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["technique"] for row in rows] == ["adam(0.01)", "sgd(0.1, momentum=0.9)"]
    assert [float(row["peak_rate"]) for row in rows] == pytest.approx([0.01, 0.1])
    assert "Optimizers compared: diabetes" in Path("lrjax-compare.html").read_text()


def test_compare_runs_on_digits_with_five_seeds_by_default(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    seen = {}

    def caught(task, named, **options):
        seen.update(options, task=task.name, named=named)
        raise ValueError("enough")

    monkeypatch.setattr("lrjax.commands.compare.compare", caught)
    with pytest.raises(SystemExit):
        main(["compare"])
    assert seen == {
        "task": "digits", "named": None, "steps": 400, "seeds": 5, "eval_every": None, "target": None,
        "checkpoint": None,
    }  # fmt: skip


# terminals

TINY = """
import jax.numpy as jnp
import lrjax
task = lrjax.Task(lambda w, x: jnp.mean((x @ w - 3.0) ** 2), jnp.zeros(2), jnp.ones((20, 4, 2)), stacked=True)
"""
SWEEP = ["sweep", "task.py", "--learning-rates", "0.0123:0.234:3", "--optimizer", "sgd"]


def rates_of(text):
    return [word for line in text.splitlines() for word in line.split()[:1] if word[:2] == "0."]


@pytest.mark.slow
@pytest.mark.parametrize("columns", ["24", "50"])
def test_a_table_in_a_narrow_pipe_in_the_locale_c(tmp_path, columns):
    (tmp_path / "task.py").write_text(TINY)
    done = run(*SWEEP, cwd=tmp_path, env={"COLUMNS": columns, "LC_ALL": "C", "TERM": "xterm"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii() and "\x1b" not in done.stdout and "..." not in done.stdout
    assert set(rates_of(done.stdout)) >= {"0.0123", "0.0536", "0.234"}
    assert all(len(line) <= int(columns) or " " not in line.strip() for line in done.stdout.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("no_color", ["", "1"])
def test_a_table_in_a_terminal(tmp_path, no_color):
    (tmp_path / "task.py").write_text(TINY)
    environment = {**os.environ, "PYTHONPATH": HERE, "COLUMNS": "60", "TERM": "xterm", "NO_COLOR": no_color}
    environment = {**environment, "LC_ALL": "C.UTF-8"}
    outside, inside = pty.openpty()
    command = [sys.executable, "-m", "lrjax", *SWEEP]
    done = subprocess.Popen(command, stdout=inside, stderr=subprocess.PIPE, cwd=tmp_path, env=environment)
    os.close(inside)
    shown = b""
    while True:
        try:
            part = os.read(outside, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(outside)
    assert done.wait() == 0, done.stderr.read()
    done.stderr.close()
    text = shown.decode()
    assert "0.0536" in text and "─" in text and ("\x1b[" in text) == (not no_color)


def test_plot_draws_in_the_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
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


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "latin1"}, {"LC_ALL": "C"}, {"LC_ALL": "POSIX"}])
def test_a_terminal_that_has_ascii_only_gets_ascii(environment):
    done = run("plot", "linear_schedule(0, 1, 5)", env={"LC_CTYPE": "", **environment})
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.isascii() and ":" in done.stdout and "?" not in done.stdout


@pytest.mark.slow
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
        (["linear_schedule(0, 1, 5)", "--out", "/no/such/place/curve.svg"], "directory that exists"),
    ],
)
def test_a_bad_plot_is_one_line(capsys, arguments, words):
    assert words in fails(capsys, "plot", *arguments)
