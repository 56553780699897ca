"""The README says nothing that doesn't run."""

import doctest
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import lrjax

README = Path(__file__).parents[1] / "README.md"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_sessions_print_what_they_say():
    (session,) = [block for block in _blocks("python") if ">>>" in block]
    test = doctest.DocTestParser().get_doctest(session, {}, "README", str(README), 0)
    result = doctest.DocTestRunner().run(test)
    assert result.attempted >= 5 and result.failed == 0


@pytest.mark.promotes  # as everybody runs them
def test_blocks_run_one_after_the_other_and_train(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # one of them writes a file
    names: dict = {"__name__": "readme"}
    blocks = [block for block in _blocks("python") if ">>>" not in block]
    assert len(blocks) >= 3
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert float(jnp.abs(names["params"]["w"]).max()) < 0.1
    assert names["halving_schedule"](0.1, 1000)(1000) == np.float32(0.05)
    assert names["final"].shape == (32, 3) and float(jnp.abs(names["final"]).min()) < 0.1
    assert names["result"].losses.shape == (16, 3, 200) and 1e-3 < names["result"].best_learning_rate < 1
    assert names["found"].verdict.startswith("Found") and 1e-3 < names["found"].learning_rate < 1
    assert names["run"].final < 0.2 and names["table"].losses.shape == (3, 5, 200)
    assert "Array" in capsys.readouterr().out


def test_every_public_schedule_and_optimizer_is_named():
    text = README.read_text()
    names = [
        name
        for name, thing in vars(lrjax).items()
        if isinstance(thing, type) and issubclass(thing, (lrjax.Schedule, lrjax.GradientTransformation))
    ]
    hidden = {"Schedule", "GradientTransformation", "GradientTransformationExtraArgs", "from_callable", "identity"}
    hidden |= {"injected", "measured", "multi_transform"}  # made by others, or another name
    hidden |= {name for name in names if name.startswith("scale_by_")}  # the directions of the optimizers
    composed = {
        name for name in names if re.fullmatch(r"(product|sum|clip|delay|stretch|repeat|warmup)_schedule", name)
    }
    assert [name for name in names if name not in hidden | composed and name not in text] == []


def test_the_test_command_is_the_one_that_ci_runs():
    ci = (README.parent / ".ci" / "run").read_text()
    (line,) = [line for line in README.read_text().splitlines() if "'.[test]' && python -m pytest" in line]
    assert line == "python -m pip install -e '.[test]' && python -m pytest"
    assert "grep -m 1 -F \"'.[test]' && python -m pytest\" README.md" in ci
