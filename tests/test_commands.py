"""`lrjax find`, `sweep`, `tune` and `train`, and task files, as a user meets them."""

import csv
import io
import json
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

import lrjax
from lrjax.__main__ import main
from lrjax.commands.shared import described, use_devices
from lrjax.tasks.file import BUILT_IN
from tests.pages import assert_needs_nothing, charts_of
from tests.test_main import HERE, fails, run

TASK = """
import jax.numpy as jnp
import lrjax

def loss_fn(w, batch):
    return jnp.mean((batch @ w - 3.0) ** 2)

init = jnp.zeros(2)
data = jnp.ones((60, 4, 2))
task = lrjax.Task(loss_fn, init, data, stacked=True)
"""
METRIC = """
import jax.numpy as jnp
import lrjax

def size(w, batch):
    return jnp.sum((w[None] - batch) ** 2)

loss_fn = lambda w, batch: jnp.mean((batch @ w - 3.0) ** 2)
task = lrjax.Task(loss_fn, jnp.zeros(2), jnp.ones((60, 4, 2)), stacked=True, metrics={"size": (size, "min")},
                  validation=jnp.zeros((1, 2)), name="a task with a name", description="Ones.")
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An own directory, an own path of modules, a terminal of 80 columns; the other tests keep their one device."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


@pytest.fixture
def task(place):
    (place / "task.py").write_text(TASK)
    return "task.py"


def clean(text):
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_find_prints_every_rule_and_warns(task, capsys, place):
    assert main(["find", task, "--steps", "50", "--seeds", "2", "--optimizer", "sgd"]) == 0
    out, err = capsys.readouterr()
    assert all(rule in out for rule in ("valley", "slide", "steep", "minimum"))
    assert "Don't trust this alone" in out and "lrjax tune task.py --optimizer sgd" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 80
    assert err == "wrote lrjax-find.html\nwrote lrjax-find.json\n"
    assert clean((place / "lrjax-find.json").read_text())["seeds"] == 2
    assert_needs_nothing((place / "lrjax-find.html").read_text())


def test_sweep_prints_the_losses_and_a_verdict(task, capsys, place):
    rates = ["--learning-rates", "1e-3:10:5", "--optimizer", "sgd", "--seeds", "2"]
    assert main(["sweep", task, *rates, "--out", "page.html", "--json", "numbers.json", "--save", "best.pkl"]) == 0
    out, err = capsys.readouterr()
    assert "Found: 0.1" in out and "largest stable rate: 0.1" in out and "What decides: training loss" in out
    assert "depend on the seed, so one run was made" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 80
    assert err == "wrote page.html\nwrote numbers.json\nwrote best.pkl\n"
    numbers = clean((place / "numbers.json").read_text())
    assert numbers["best_learning_rate"] == pytest.approx(0.1) and numbers["steps"] == 60 and numbers["seeds"] == 1
    assert numbers["rows"][-1]["loss"] is None and numbers["rows"][-1]["diverged"] == 1
    text = (place / "page.html").read_text()
    assert_needs_nothing(text)
    assert "lrjax sweep task.py --learning-rates 1e-3:10:5" in text
    best = lrjax.Run.load("best.pkl")
    np.testing.assert_allclose(best.params, 1.5, rtol=1e-3)


def test_a_sweep_where_everything_diverges_says_so(task, capsys, place):
    assert main(["sweep", task, "--learning-rates", "100,1000", "--optimizer", "sgd", "--save", "best.pkl"]) == 1
    out, err = capsys.readouterr()
    assert "Everything diverged: try rates below 1e+02." in out or "try rates below 100" in out
    assert "did not write best.pkl: no run is worth keeping" in err and not (place / "best.pkl").exists()
    assert clean((place / "lrjax-sweep.json").read_text())["best_learning_rate"] is None


def test_what_counts_as_diverged_can_be_set(task, capsys, place):
    arguments = ["sweep", task, "--learning-rates", "0.01,0.501", "--optimizer", "sgd", "--format", "json"]
    assert main(arguments) == 0
    assert [row["diverged"] for row in clean(capsys.readouterr().out)["rows"]] == [0, 0]
    assert main([*arguments, "--diverged-above", "0.01"]) == 0
    assert [row["diverged"] for row in clean(capsys.readouterr().out)["rows"]] == [0, 1]
    assert "above 0.01 times the size" in (place / "lrjax-sweep.html").read_text()


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
    (place / "task.py").write_text(TASK + "optimizer = lrjax.sgd\n")
    arguments = ["--low", "1e-4", "--high", "100", "--seeds", "2", "--budget", "0.5", "--save", "best.pkl"]
    assert main(["tune", task, *arguments]) == 0
    out = capsys.readouterr().out
    assert "given up" in out and "to the end" in out and "diverged" in out and "What decides" in out
    assert max(map(len, out.splitlines())) <= 80
    numbers = clean((place / "lrjax-tune.json").read_text())
    assert numbers["verdict"] in out.replace("\n", " ") and 0.01 < numbers["learning_rate"] < 1
    assert numbers["steps_spent"] <= 0.5 * numbers["grid_steps"] and numbers["optimizer"] == "sgd"
    np.testing.assert_allclose(lrjax.Run.load("best.pkl").params, 1.5, rtol=0.1)


def test_the_first_metric_of_the_task_decides_and_its_curve_is_shown(place, capsys):
    (place / "task.py").write_text(METRIC)
    arguments = ["sweep", "task.py", "--learning-rates", "1e-3,0.1", "--optimizer", "sgd", "--format", "json"]
    assert main([*arguments, "--eval-every", "20"]) == 0
    numbers = clean(capsys.readouterr().out)
    assert numbers["decided_by"].startswith("size after the last step, lower") and numbers["task"].startswith("a task")
    assert set(numbers["rows"][0]) >= {"size", "size_spread"}
    assert len(charts_of((place / "lrjax-sweep.html").read_text())) == 3
    assert main(arguments) == 0 and len(charts_of((place / "lrjax-sweep.html").read_text())) == 2


def test_train_shows_its_curves_and_saves_the_model(task, capsys, place):
    (place / "task.py").write_text(METRIC)
    arguments = ["train", "task.py", "--optimizer", "sgd(linear_schedule(0.4, 0, 60))", "--seed", "5"]
    assert main([*arguments, "--save", "run.pkl"]) == 0
    out, err = capsys.readouterr()
    assert "After 60 steps: loss" in out and "size" in out and max(map(len, out.splitlines())) <= 80
    assert err == "wrote lrjax-train.html\nwrote lrjax-train.json\nwrote run.pkl\n"
    numbers = clean((place / "lrjax-train.json").read_text())
    assert len(numbers["rows"]) == 60 and numbers["rows"][0]["learning_rate"] == pytest.approx(0.4)
    assert numbers["diverged"] is False and set(numbers["metrics"]) == {"size"}
    text = (place / "lrjax-train.html").read_text()
    assert_needs_nothing(text)
    assert len(charts_of(text)) == 3 and "linear_schedule" in text and "seed 5" in text
    kept = lrjax.Run.load("run.pkl")
    assert kept.seed == 5 and len(kept.evaluated_at) == 60
    assert main([*arguments, "--eval-every", "30", "--learning-rate", "0.2", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert float(rows[0]["learning_rate"]) == pytest.approx(0.2)  # its shape stays
    assert float(rows[30]["learning_rate"]) == pytest.approx(0.1, rel=1e-3)
    assert [i for i, row in enumerate(rows) if row["size"]] == [29, 59]


def test_train_takes_the_optimizer_of_the_file(task, capsys, place):
    (place / "task.py").write_text(TASK + "optimizer = lrjax.sgd(0.05)\n")
    assert main(["train", task, "--steps", "5"]) == 0
    assert "0.05" in capsys.readouterr().out
    (place / "task.py").write_text(TASK + "import optax\noptimizer = lambda rate: optax.sgd(rate)\n")
    assert "is a function of a rate: give --learning-rate" in fails(capsys, "train", task, "--steps", "5")
    assert main(["train", task, "--steps", "5", "--learning-rate", "0.05"]) == 0


@pytest.mark.slow
@pytest.mark.promotes
@pytest.mark.parametrize("command", ["sweep", "train", "tune", "compare"])
def test_a_command_goes_on_from_its_checkpoint(task, capsys, place, command):
    more = {
        "sweep": ["--learning-rates", "0.1,0.2", "--seeds", "1"],
        "train": [],
        "tune": ["--seeds", "1"],
        "compare": ["--seeds", "1", "--optimizer", "sgd(0.1)", "--optimizer", "adam(0.1)"],
    }[command]
    arguments = [command, task, *more, "--format", "json", "--checkpoint", "folder"]
    first = (main(arguments), capsys.readouterr().out)
    assert (place / "folder").is_dir() and (main(arguments), capsys.readouterr().out) == first
    assert "`steps` is" in fails(capsys, *arguments, "--steps", "7")
    (place / "folder" / ".DS_Store").write_text("")
    assert main(arguments) == 0 and capsys.readouterr()
    assert "folder" in fails(capsys, *arguments[:-1], "task.py")
    (place / "mine").mkdir()
    (place / "mine" / "thesis.tex").write_text("")
    assert "must be a new folder" in fails(capsys, *arguments[:-1], "mine")


def test_the_arguments_reach_the_search(task, monkeypatch, place):
    (place / "task.py").write_text(TASK.replace("data, stacked=True", "data.reshape(240, 2), batch_size=8, steps=30"))
    seen = []

    def caught(task, optimizer, **options):
        seen.append((task, options))
        return lrjax.sweep(task, optimizer, **options)

    monkeypatch.setattr("lrjax.commands.sweep.sweep", caught)
    base = ["sweep", task, "--learning-rates", "0.1", "--seeds", "1"]
    assert main(base) == 0 and main([*base, "--batch-size", "16", "--steps", "5"]) == 0
    assert [(t.batch_size, options["steps"]) for t, options in seen] == [(8, 30), (16, 5)]
    assert seen[0][0].name == "task.py"


def test_a_task_imports_its_neighbours(task, place, capsys):
    (place / "neighbour_of_a_task.py").write_text("WIDTH = 2\n")
    (place / "task.py").write_text(TASK.replace("zeros(2)", "zeros(WIDTH)").replace(
        "import jax.numpy", "from neighbour_of_a_task import WIDTH\nimport jax.numpy"
    ))  # fmt: skip
    assert main(["train", task, "--steps", "3"]) == 0
    sys.modules.pop("neighbour_of_a_task")
    assert str(place) not in sys.path and str(place.resolve()) not in sys.path


def test_a_built_in_task_needs_no_file(capsys, place):
    rates = ["--learning-rates", "0.001:0.1:2", "--steps", "10", "--seeds", "1", "--format", "json"]
    assert main(["sweep", "diabetes", *rates]) == 0
    numbers = clean(capsys.readouterr().out)
    assert numbers["task"] == "diabetes" and "R² after the last step, higher" in numbers["decided_by"]
    assert list(BUILT_IN) == ["digits", "diabetes", "text"]


OLD = """
import jax.numpy as jnp
loss_fn = lambda w, batch: jnp.mean(batch @ w)
init = jnp.zeros(2)
batches = jnp.ones((60, 4, 2))
"""
CHANGED = {
    "no task": ((TASK, "job = 1\n"), "task.py: `task` is missing, which must be `task = lrjax.Task(loss_fn, init"),
    "a part of a task": (("task =", "job ="), "`task` is missing: it defines `loss_fn`, which must be parts of"),
    "the old names": ((TASK, OLD), "`task` is missing: it defines `loss_fn`, `batches`, which must be parts of one"),
    "a task of another kind": ((TASK, "task = {'loss_fn': abs}\n"), "`task` must be a lrjax.Task, got dict"),
    "task is a function": (("task = lrjax", "task = lambda: lrjax"), "`task` must be a lrjax.Task, got function"),
    "a bad part": (("stacked=True", "stacked=1"), "line 10: ValueError: Task: `stacked` must be True or False, got 1."),
    "loss is no function": (("Task(loss_fn", "Task(3"), "line 10: ValueError: Task: `loss_fn` must be a function"),
    "no parameters": (("jnp.zeros(2)", "{}"), "`init` must be a function from a key"),
    "no optimizer": (("task =", "optimizer = 0.1\ntask ="), "`optimizer` must be an lrjax optimizer"),
    "a forgotten batch size": (("stacked=True", ""), "`batch_size` must be given, since the data are arrays"),
    "a batch of half": (("stacked=True", "batch_size=1.5"), "`batch_size` must be a whole number >= 1, got 1.5"),
    "raises": (("init =", "init = 1 / 0\ninit ="), "task.py, line 8: ZeroDivisionError: division by zero."),
    "a missing file": (("init =", "open('/no/such')\ninit ="), "task.py, line 8: FileNotFoundError"),
    "exits": (("init =", "raise SystemExit(0)\ninit ="), "task.py, line 8: SystemExit"),
    "no Python": (("init =", "init = = "), "task.py is not Python: line 8: invalid syntax."),
    "a missing neighbour": (("init =", "import not_there\ninit ="), "line 8: ModuleNotFoundError: No module named"),
    "a loss that fails": (("@ w", "@ w.missing"), "task.py, line 6: AttributeError"),
    "a loss that is no number": (("jnp.mean((batch @ w - 3.0) ** 2)", "batch @ w"), "scalar"),
    "too few batches": (("ones((60", "ones((6"), "`steps` must be at most the 6 batches of the task, got 10."),
    "no steps": (("data, stacked=True", "lambda i: jnp.ones((4, 2))"), "`steps` is missing"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGED)
def test_a_task_that_cannot_be_used_is_one_line(task, place, capsys, name):
    (old, new), words = CHANGED[name]
    (place / "task.py").write_text(TASK.replace(old, new))
    steps = [] if name == "no steps" else ["--steps", "10"]
    for command in ("sweep", "train"):
        assert words in fails(capsys, command, task, *steps)
        assert not (place / f"lrjax-{command}.html").exists()


def test_other_names_of_a_task_file_are_its_own(task, place, capsys):
    (place / "task.py").write_text(TASK + "batches, eval_fn, lerning_rate, steps = 3, 4, 5, 'many'\n")
    assert main(["train", task, "--steps", "3"]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sweep", "missing.py"], "missing.py: no such file."),
        (["sweep", "digit"], "Built-in tasks are: digits, diabetes, text."),
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
        (["sweep", "task.py", "--learning-rates", "0.1,1e300"], "'0.1,1e300'"),
        (["sweep", "task.py", "--learning-rates", ""], "''"),
        (["sweep", "task.py", "--diverged-above", "inf"], "must be a number > 0"),
        (["sweep", "task.py", "--seeds", "0"], "'0'"),
        (["sweep", "task.py", "--eval-every", "0"], "'0'"),
        (["sweep", "task.py", "--batch-size", "500", "--steps", "5"], "`batch_size` must be"),
        (["sweep", "task.py", "--out", "/no/such/place/page.html"], "/no/such/place"),
        (["sweep", "task.py", "--json", "/no/such/place/page.json"], "`--json` must be in a directory"),
        (["sweep", "task.py", "--out", "page.json"], "two files"),
        (["sweep", "task.py", "--checkpoint", "task.py/folder"], "`checkpoint` must be"),
        (["find", "task.py", "--low", "1", "--high", "0.1"], "`low` must be"),
        (["find", "task.py", "--low", "0"], "must be a number > 0"),
        (["find", "task.py", "--high", "1e300"], "must be a number > 0 that float32 can hold"),
        (["tune", "task.py", "--high", "1e300"], "must be a number > 0 that float32 can hold"),
        (["tune", "task.py", "--low", "1e-300"], "must be a number > 0 that float32 can hold"),
        (["tune", "task.py", "--budget", "2"], "lrjax tune: `budget` must be"),
        (["tune", "task.py", "--budget", "all"], "'all'"),
        (["train", "task.py", "--learning-rate", "1e300"], "must be a number > 0 that float32 can hold"),
        (["train", "task.py", "--seed", "-1"], "'-1'"),
        (["train", "task.py", "--seed", "4294967296"], "'4294967296'"),
        (["train", "task.py", "--optimizer", "sgd(-1.0)"], "`learning_rate` must be"),
        (["train", "task.py", "--save", "."], "got the directory"),
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
        without.setitem(sys.modules, "sklearn", None)
        assert "lrjax[demo]" in fails(capsys, "sweep", "digits")
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    assert "lrjax[checkpoint]" in fails(capsys, "train", task, "--checkpoint", "folder")


def test_nothing_is_needed_for_a_table(task, capsys, monkeypatch):
    for name in ("rich", "rich.console", "rich.progress", "matplotlib"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["sweep", task, "--learning-rates", "0.1"]) == 0
    assert "nothing to compare it with" in capsys.readouterr().out


def test_the_optimizer_in_few_words():
    assert described(lrjax.adam(0.1)) == "adam" and described(lrjax.adam) == "adam"
    assert described(lrjax.adam(lrjax.rex_schedule(1.0, 9))).startswith("adam(learning_rate=rex_schedule(")
    assert "chain" in described(lrjax.chain(lrjax.scale_by_adam(), lrjax.scale_by_learning_rate(0.1)))


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
@pytest.mark.parametrize("command", ["find", "sweep", "tune", "train"])
def test_a_command_runs_as_a_process(task, place, command):
    many = [] if command == "train" else ["--devices", "2", "--seeds", "2"]
    done = run(command, task, *many, cwd=place, env={"XLA_FLAGS": ""})
    assert done.returncode == 0 and done.stderr == f"wrote lrjax-{command}.html\nwrote lrjax-{command}.json\n"
    assert_needs_nothing((place / f"lrjax-{command}.html").read_text())
    assert clean((place / f"lrjax-{command}.json").read_text())["rows"]


@pytest.mark.slow
def test_the_devices_of_a_cpu_share_the_runs(task, place, monkeypatch):
    program = """
        import sys, lrjax.__main__, jax
        sys.argv = ["lrjax", "sweep", "task.py", "--devices", "3", "--seeds", "1"]
        lrjax.__main__.main()
        assert jax.config.jax_platforms or jax.default_backend() != "cpu" or jax.device_count() == 3
    """
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("PYTHONPATH", HERE)
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, cwd=place)
    assert done.returncode == 0, done.stderr
