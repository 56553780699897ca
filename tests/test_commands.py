"""`lrjax find`, `sweep`, `tune` and `new` as a user meets them."""

import csv
import io
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import pytest

import lrjax
from lrjax.__main__ import main
from lrjax.commands import described, use_devices
from tests.pages import assert_needs_nothing
from tests.test_main import fails, run

TASK = """
import jax.numpy as jnp

def loss_fn(w, batch):
    return jnp.mean((batch @ w - 3.0) ** 2)

init = jnp.zeros(2)
batches = jnp.ones((60, 4, 2))
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An own directory, an own path of modules, a terminal of 80 columns; the other tests keep their one device."""
    monkeypatch.setattr("lrjax.commands.use_devices", lambda count: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


@pytest.fixture
def task(place):
    (place / "task.py").write_text(TASK)
    return "task.py"


@pytest.fixture
def environment():
    """For a process that is started elsewhere: the package that is tested."""
    return {**os.environ, "PYTHONPATH": str(Path(lrjax.__file__).parent.parent)}


def clean(text):
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_find_prints_every_rule_and_warns(task, capsys, place):
    assert main(["find", task, "--steps", "50", "--seeds", "2", "--optimizer", "sgd"]) == 0
    out, err = capsys.readouterr()
    assert all(rule in out for rule in ("valley", "slide", "steep", "minimum"))
    assert "Don't trust this alone" in out and "lrjax tune task.py --optimizer sgd" in out
    assert max(map(len, out.splitlines())) <= 80
    assert err == "wrote lrjax-find.html\nwrote lrjax-find.json\n"
    assert clean((place / "lrjax-find.json").read_text())["seeds"] == 2
    assert_needs_nothing((place / "lrjax-find.html").read_text())


def test_sweep_prints_the_losses_and_a_verdict(task, capsys, place):
    rates = ["--learning-rates", "1e-3:10:5", "--optimizer", "sgd", "--seeds", "2"]
    assert main(["sweep", task, *rates, "--out", "page.html", "--json", "numbers.json"]) == 0
    out, err = capsys.readouterr()
    assert "The best rate is 0.1;" in out and "largest stable rate" in out and "What decides: training loss" in out
    assert max(map(len, out.splitlines())) <= 80 and err == "wrote page.html\nwrote numbers.json\n"
    numbers = clean((place / "numbers.json").read_text())
    assert numbers["best_learning_rate"] == pytest.approx(0.1) and numbers["steps"] == 60
    assert numbers["rows"][-1]["loss"] is None and numbers["rows"][-1]["diverged"] == 2
    text = (place / "page.html").read_text()
    assert_needs_nothing(text)
    assert "lrjax sweep task.py --learning-rates 1e-3:10:5" in text


def test_a_sweep_where_everything_diverges_says_so(task, capsys, place):
    assert main(["sweep", task, "--learning-rates", "100,1000", "--optimizer", "sgd", "--seeds", "1"]) == 0
    assert "Everything diverged: try rates below 100." in capsys.readouterr().out
    assert clean((place / "lrjax-sweep.json").read_text())["best_learning_rate"] is None


@pytest.mark.parametrize("form", ["json", "csv"])
def test_other_formats_are_for_programs(task, capsys, place, form):
    assert main(["sweep", task, "--learning-rates", "0.01,0.1", "--seeds", "1", "--format", form]) == 0
    out = capsys.readouterr().out
    if form == "json":
        assert out == (place / "lrjax-sweep.json").read_text()
        assert clean(out)["optimizer"] == "adam"  # where nobody names one
    else:
        assert [float(row["learning_rate"]) for row in csv.DictReader(io.StringIO(out))] == [0.01, 0.1]


def test_tune_prints_how_far_each_rate_went(task, capsys, place):
    (place / "task.py").write_text(TASK + "import lrjax\noptimizer = lrjax.sgd\nsteps = 60\n")
    assert main(["tune", task, "--low", "1e-4", "--high", "100", "--seeds", "2", "--budget", "0.5"]) == 0
    out = capsys.readouterr().out
    assert "given up" in out and "to the end" in out and "diverged" in out and "What decides" in out
    assert max(map(len, out.splitlines())) <= 80
    numbers = clean((place / "lrjax-tune.json").read_text())
    assert numbers["verdict"] in out.replace("\n", " ") and 0.01 < numbers["learning_rate"] < 1
    assert numbers["steps_spent"] <= 0.5 * numbers["grid_steps"] and numbers["optimizer"] == "sgd"


def test_an_eval_fn_of_the_task_decides(task, capsys, place):
    more = "eval_fn = lambda w, x: jnp.sum((w - x) ** 2)\neval_batch = jnp.zeros(2)\n"
    (place / "task.py").write_text(TASK + more)
    assert main(["sweep", task, "--learning-rates", "1e-3,0.1", "--seeds", "1", "--format", "json"]) == 0
    numbers = clean(capsys.readouterr().out)
    assert numbers["decided_by"].startswith("`eval_fn`") and numbers["best_learning_rate"] == 1e-3


@pytest.mark.promotes
def test_a_sweep_goes_on_from_its_checkpoint(task, capsys, place):
    arguments = ["sweep", task, "--learning-rates", "0.1,0.2", "--seeds", "1", "--format", "json"]
    arguments += ["--checkpoint", "folder"]
    first = (main(arguments), capsys.readouterr().out)
    assert (place / "folder").is_dir() and (main(arguments), capsys.readouterr().out) == first
    assert "`steps` is" in fails(capsys, *arguments, "--steps", "7")


def test_the_parts_of_a_task_reach_the_search(task, monkeypatch, place):
    more = "batches = batches.reshape(240, 2)\nbatch_size = 8\nsteps = 30\nhas_aux = False\n"
    (place / "task.py").write_text(TASK + more)
    seen = []

    def caught(*arguments, **options):
        seen.append(options)
        return lrjax.sweep(*arguments, **options)

    monkeypatch.setattr("lrjax.commands.sweep", caught)
    base = ["sweep", task, "--learning-rates", "0.1", "--seeds", "1"]
    assert main(base) == 0 and main([*base, "--batch-size", "16", "--steps", "5"]) == 0
    assert [(options["batch_size"], options["steps"]) for options in seen] == [(8, 30), (16, 5)]


def test_a_task_imports_its_neighbours(task, place, capsys):
    (place / "neighbour_of_a_task.py").write_text("WIDTH = 2\n")
    (place / "task.py").write_text(TASK.replace("zeros(2)", "zeros(WIDTH)").replace(
        "import jax.numpy", "from neighbour_of_a_task import WIDTH\nimport jax.numpy"
    ))  # fmt: skip
    assert main(["sweep", task, "--learning-rates", "0.1", "--seeds", "1"]) == 0
    sys.modules.pop("neighbour_of_a_task")


def test_a_built_in_task_needs_no_file(capsys, place):
    rates = ["--learning-rates", "0.001:0.1:2", "--steps", "10", "--seeds", "1", "--format", "json"]
    assert main(["sweep", "diabetes", *rates]) == 0
    numbers = clean(capsys.readouterr().out)
    assert numbers["task"] == "diabetes" and "training loss" in numbers["decided_by"]


CHANGED = {
    "no loss_fn": (("def loss_fn", "def loss"), "task.py: `loss_fn` is missing, which must be a function (params"),
    "no init": (("init =", "start ="), "`init` is missing, which must be a function from a key"),
    "no batches": (("batches =", "data ="), "`batches` is missing, which must be arrays of examples"),
    "loss is no function": (("init =", "loss_fn ="), "`loss_fn` must be a function (params, batch) -> loss, got"),
    "no parameters": (("jnp.zeros(2)", "{}"), "`init` must be a function from a key"),
    "no optimizer": (("init =", "optimizer = 0.1\ninit ="), "`optimizer` must be an lrjax optimizer"),
    "eval without a function": (("init =", "eval_batch = 1\ninit ="), "`eval_fn` is missing"),
    "eval is no function": (("init =", "eval_fn = 1\ninit ="), "`eval_fn` must be a function"),
    "a batch of half": (("init =", "batch_size = 1.5\ninit ="), "`batch_size` must be a whole number >= 1, got float"),
    "true steps": (("init =", "steps = True\ninit ="), "`steps` must be a whole number"),
    "aux of 1": (("init =", "has_aux = 1\ninit ="), "`has_aux` must be True or False, got int"),
    "raises": (("init =", "init = 1 / 0\ninit ="), "task.py, line 7: ZeroDivisionError: division by zero."),
    "a missing file": (("init =", "open('/no/such')\ninit ="), "task.py, line 7: FileNotFoundError"),
    "exits": (("init =", "raise SystemExit(0)\ninit ="), "task.py, line 7: SystemExit"),
    "no Python": (("init =", "init = = "), "task.py is not Python: line 7: invalid syntax."),
    "a missing neighbour": (("init =", "import not_there\ninit ="), "line 7: ModuleNotFoundError: No module named"),
    "a loss that fails": (("@ w", "@ w.missing"), "task.py, line 5: AttributeError"),
    "a loss that is no number": (("jnp.mean((batch @ w - 3.0) ** 2)", "batch @ w"), "scalar"),
    "too few batches": (("ones((60", "ones((6"), "`batches` must be at least `steps`=10 of them"),
    "no steps": (("batches = jnp.ones((60, 4, 2))", "batches = lambda i: jnp.ones((4, 2))"), None),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_task_that_cannot_be_used_is_one_line(task, place, capsys, name):
    (old, new), words = CHANGED[name]
    (place / "task.py").write_text(TASK.replace(old, new))
    if words is None:
        assert "`steps` is missing" in fails(capsys, "sweep", task)
        assert "`steps` is missing" in fails(capsys, "tune", task)
    else:
        assert words in fails(capsys, "sweep", task, "--seeds", "1", "--steps", "10")
    assert not (place / "lrjax-sweep.html").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sweep", "missing.py"], "missing.py: no such file."),
        (["sweep", "digit"], "Built-in tasks are: digits, diabetes."),
        (["sweep", "."], "a directory, not a file"),
        (["sweep", "task.py", "--optimizer", "adan_w"], "Did you mean adan"),
        (["sweep", "task.py", "--optimizer", "adam(b2=2)"], "`b2` must be"),
        (["sweep", "task.py", "--optimizer", "__import__('os')"], "no optimizer is called '__import__'"),
        (["sweep", "task.py", "--optimizer", "sgd(constant_schedule(0.0))"], "schedule above 0"),
        (["sweep", "task.py", "--learning-rates", "1:0.1:5"], "LOW < HIGH"),
        (["sweep", "task.py", "--learning-rates", "0.1:1"], "LOW:HIGH:COUNT"),
        (["sweep", "task.py", "--learning-rates", "0.1:1:²"], "LOW:HIGH:COUNT"),
        (["sweep", "task.py", "--learning-rates", "0.1,-1"], "'0.1,-1'"),
        (["sweep", "task.py", "--learning-rates", "nan"], "'nan'"),
        (["sweep", "task.py", "--learning-rates", ""], "''"),
        (["sweep", "task.py", "--seeds", "0"], "'0'"),
        (["sweep", "task.py", "--batch-size", "500", "--steps", "5"], "`batch_size` must be"),
        (["sweep", "task.py", "--out", "/no/such/place/page.html"], "/no/such/place"),
        (["sweep", "task.py", "--json", "/no/such/place/page.json"], "`--json` must be in a directory"),
        (["sweep", "task.py", "--out", "page.json"], "two files"),
        (["find", "task.py", "--low", "1", "--high", "0.1"], "`low` must be"),
        (["find", "task.py", "--low", "0"], "must be a number > 0"),
        (["tune", "task.py", "--budget", "2"], "`budget` must be"),
        (["tune", "task.py", "--budget", "all"], "'all'"),
        (["sweep"], "TASK"),
        (["new", "task.py"], "exists already"),
        (["new", "no/such/place/task.py"], "directory that exists"),
    ],
)
def test_a_bad_argument_is_one_line(task, capsys, arguments, words):
    assert words in fails(capsys, *arguments)


def test_a_task_that_is_no_text_is_one_line(place, capsys):
    (place / "task.py").write_bytes(b"\0\xff\0")
    assert "task.py is not Python" in fails(capsys, "sweep", "task.py")


def test_a_missing_extra_is_named(task, capsys, monkeypatch):
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "rich.console", None)
        assert "lrjax[demo]" in fails(capsys, "sweep", task)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert "lrjax[demo]" in fails(capsys, "sweep", "digits")


def test_the_optimizer_in_few_words():
    assert described(lrjax.adam(0.1)) == "adam" and described(lrjax.adam) == "adam"
    assert described(lrjax.adam(lrjax.rex_schedule(1.0, 9))).startswith("adam(learning_rate=rex_schedule(")
    assert "chain" in described(lrjax.chain(lrjax.scale_by_adam(), lrjax.scale_by_learning_rate(0.1)))


def test_new_writes_a_task_that_runs(place, capsys):
    assert main(["new", "mine.py"]) == 0
    assert capsys.readouterr().err == "wrote mine.py\ntry: lrjax tune mine.py\n"
    text = (place / "mine.py").read_text()
    assert "lrjax tune mine.py" in text and len(text.splitlines()) < 60
    assert main(["sweep", "mine.py", "--learning-rates", "0.01", "--steps", "60", "--seeds", "1"]) == 0
    # what it only mentions is true too
    commented = [line for line in text.splitlines() if line.startswith(("# import", "# optimizer", "# eval_fn"))]
    assert len(commented) == 3
    (place / "mine.py").write_text(text + "\n".join(line.removeprefix("# ") for line in commented))
    assert main(["sweep", "mine.py", "--learning-rates", "0.01", "--steps", "60", "--seeds", "1"]) == 0
    assert "adamw" in (place / "lrjax-sweep.json").read_text()


def test_devices_are_asked_for_before_jax_begins(monkeypatch):
    asked = []
    monkeypatch.setattr(jax.config, "update", lambda name, count: asked.append((name, count)))
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    use_devices(3)
    use_devices(None)
    assert asked[0] == ("jax_num_cpu_devices", 3) and asked[1][1] >= 1
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    use_devices(None)  # somebody has said how many
    assert len(asked) == 2
    monkeypatch.undo()
    jax.devices()
    use_devices(3)  # too late, and no error


@pytest.mark.slow
@pytest.mark.parametrize("command", ["find", "sweep", "tune"])
def test_a_command_runs_as_a_process(task, place, environment, command):
    done = run(command, task, "--devices", "2", "--seeds", "2", cwd=place, env=environment)
    assert done.returncode == 0 and done.stderr == f"wrote lrjax-{command}.html\nwrote lrjax-{command}.json\n"
    assert_needs_nothing((place / f"lrjax-{command}.html").read_text())
    assert clean((place / f"lrjax-{command}.json").read_text())["rows"]


@pytest.mark.slow
def test_the_devices_of_a_cpu_share_the_runs(place, environment):
    program = """
        import sys, lrjax.__main__, jax
        sys.argv = ["lrjax", "sweep", "task.py", "--devices", "3", "--seeds", "1"]
        lrjax.__main__.main()
        assert jax.config.jax_platforms or jax.default_backend() != "cpu" or jax.device_count() == 3
    """
    (place / "task.py").write_text(TASK)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, cwd=place, env=environment
    )
    assert done.returncode == 0, done.stderr
