"""`lrjax new`, and the task file that it writes."""

import pytest

from lrjax.__main__ import main
from tests.test_commands import clean, place  # noqa: F401

# ruff: noqa: F811  (a fixture that is imported has the name of the argument)


@pytest.mark.slow
def test_new_writes_a_task_that_runs(place, capsys):
    assert main(["new", "mine.py"]) == 0
    assert capsys.readouterr().err == "wrote mine.py\ntry: lrjax tune mine.py\n"
    text = (place / "mine.py").read_text()
    assert "lrjax tune mine.py" in text and len(text.splitlines()) < 70
    assert main(["sweep", "mine.py", "--learning-rates", "0.01", "--steps", "60", "--seeds", "1"]) == 0
    assert "accuracy" in capsys.readouterr().out
    # what it only mentions is true too
    (commented,) = [line for line in text.splitlines() if line.startswith("# optimizer")]
    (place / "mine.py").write_text(text + commented.removeprefix("# "))
    assert main(["train", "mine.py", "--steps", "60"]) == 0
    assert "adamw(learning_rate=cosine_decay_schedule" in (place / "lrjax-train.html").read_text()


@pytest.mark.slow
@pytest.mark.promotes
@pytest.mark.parametrize("framework", ["flax", "nnx", "equinox"])
def test_new_writes_a_model_of_a_framework_that_runs(place, framework, capsys):
    assert main(["new", "mine.py", "--for", framework]) == 0
    assert main(["train", "mine.py", "--optimizer", "adam(0.01)", "--steps", "120"]) == 0
    metrics = clean((place / "lrjax-train.json").read_text())["metrics"]
    assert metrics["accuracy"] > 0.8
    assert len((place / "mine.py").read_text().splitlines()) < 90


def test_a_template_does_not_name_a_strange_file(place):
    assert main(["new", "a b$(c).py"]) == 0
    assert "lrjax tune FILE" in (place / "a b$(c).py").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["find", "tune", "compare"])
def test_the_template_runs_with_every_command(place, command):
    assert main(["new", "mine.py"]) == 0
    named = ["--optimizer", "adam(0.01)"] if command == "compare" else []
    assert main([command, "mine.py", "--steps", "40", "--seeds", "1", *named]) == 0
    numbers = clean((place / f"lrjax-{command}.json").read_text())
    assert numbers["task"] == "mine.py" and numbers["rows"]
