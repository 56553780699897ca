"""What `help`, an editor and `inspect` show of a value: the formula, and its signature as it is written."""

import dataclasses
import inspect
import pydoc
import subprocess
import sys

import pytest

import lrjax as L
from lrjax.value import Value

CLASSES = {name: x for name, x in vars(L).items() if isinstance(x, type) and issubclass(x, Value)}
MADE = {name: x for name, x in CLASSES.items() if x not in (Value, L.Schedule, L.GradientTransformation)}


def test_there_are_as_many_as_are_public():
    assert len(MADE) > 120


@pytest.mark.parametrize("name", MADE)
def test_the_source_is_the_formula(name):
    source = inspect.getsource(MADE[name])
    assert source.startswith(("@", "def ")) and "def " in source and "return " in source


@pytest.mark.parametrize("name", MADE)
def test_the_signature_is_short(name):
    signature = inspect.signature(MADE[name])
    text = str(signature)
    assert "Annotated" not in text and "Union" not in text and len(text) < 1000
    assert text.endswith((" -> Schedule", " -> GradientTransformation", " -> PathRule"))
    assert list(signature.parameters) == [field.name for field in dataclasses.fields(MADE[name])]


@pytest.mark.parametrize("name", MADE)
def test_help_begins_with_the_signature_and_the_docstring(name):
    cls = MADE[name]
    text = pydoc.plain(pydoc.render_doc(cls))
    assert f"class {cls.__name__}(" in text and inspect.getdoc(cls).splitlines()[0] in text
    assert "Annotated" not in text.split("__wrapped__")[0]


def test_help_reads_as_it_is_written():
    expected = "adam(learning_rate: ScalarOrSchedule, b1: Momentum = 0.9, b2: Decay = 0.999, eps: NonNegative = 1e-08,"
    without_space = lambda text: "".join(text.replace("|", " ").split())  # it may be broken into lines
    assert without_space(expected) in without_space(pydoc.plain(pydoc.render_doc(L.adam)))
    assert "Annotated" not in pydoc.plain(pydoc.render_doc(L.step_decay)).split("__wrapped__")[0]


def test_without_a_source_it_says_what_it_knows():
    program = "import inspect, lrjax\n@lrjax.schedule\ndef mine(step, a: float = 1.0):\n    return a\n"
    program += "print(inspect.signature(mine), mine(2.0)(3))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "(a: float = 1.0) -> Schedule 2.0\n"
