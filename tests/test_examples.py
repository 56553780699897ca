"""Every public value has an example in its docstring, of which its picture, page and rows are made."""

import numpy as np
import pytest

import lrjax
from lrjax.catalogue import example, example_call, public_values

VALUES = public_values(vars(lrjax))
SCHEDULES = [name for name, cls in VALUES.items() if issubclass(cls, lrjax.Schedule)]


@pytest.mark.parametrize("name", VALUES)
def test_the_first_call_of_a_docstring_makes_the_value(name):
    assert type(example(VALUES[name])) is VALUES[name]
    assert example_call(VALUES[name]).startswith(f"lrjax.{name}(")


@pytest.mark.sampled(10)
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_example_of_a_schedule_is_a_picture_of_a_hundred_steps(name):
    curve = np.asarray(example(VALUES[name])(np.arange(101)))
    assert np.isfinite(curve).all() and (curve >= 0).all() and curve.max() > 0
    assert name == "constant_schedule" or len(np.unique(curve)) > 1


def test_aliases_and_classes_that_are_no_values_are_left_out():
    assert "partition" in VALUES and "multi_transform" not in VALUES
    assert not {"Schedule", "GradientTransformation", "Value", "Task"} & set(VALUES)


def test_a_docstring_without_a_call_says_so():
    @lrjax.schedule
    def silent(step, rate: float):
        """No example."""
        return rate

    with pytest.raises(ValueError, match="the docstring of silent must show a call of it"):
        example_call(silent)
