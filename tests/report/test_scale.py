"""Numbers for people, and the limits of an axis."""

import numpy as np
import pytest

from lrjax.report.scale import labels, limits, log_ticks, number, step_count, ticks

NAN, INF = float("nan"), float("inf")


def test_ticks_are_round_and_inside():
    assert ticks(0, 400) == [0, 100, 200, 300, 400]
    assert ticks(0, 0.105) == [0, 0.05, 0.1]
    assert log_ticks(0.004, 7.0) == [0.01, 0.1, 1.0]
    assert log_ticks(0.3, 6.0) == [0.5, 1.0, 2.0, 5.0]
    assert log_ticks(1e-9, 1.0) == [1e-9, 1e-7, 1e-5, 1e-3, 1e-1]
    assert [number(x) for x in (0.05, 0, 3e-4, 20000, 1.67e-4)] == ["0.05", "0", "3e-4", "2e4", "1.67e-4"]
    assert [number(x, 2) for x in (150.4, 9999, 12.3, 1.26)] == ["150", "9999", "12", "1.3"]
    assert [step_count(x) for x in (0, 1500, 2e6)] == ["0", "1,500", "2e6"]


@pytest.mark.parametrize("low", [1.23e6, 1e-10, 0.1, -5.0, 1e30])
@pytest.mark.parametrize("width", [1e-4, 1e-3, 0.1, 3.0, 100.0])
def test_the_labels_of_an_axis_differ_and_are_their_numbers(low, width):
    marks = ticks(low, low + abs(low) * width, 5)
    texts = labels(marks)
    assert len(set(texts)) == len(texts) >= 2
    np.testing.assert_allclose(list(map(float, texts)), marks, atol=0.011 * (marks[1] - marks[0]))


@pytest.mark.parametrize("low", [2.1, 0.5, 1.75e-10])
@pytest.mark.parametrize("factor", [1.2, 3.0, 30.0, 1e6])
def test_a_logarithmic_axis_has_labels(low, factor):
    marks = log_ticks(low, factor * low)
    assert 2 <= len(marks) <= 7 and all(0.999 * low <= x <= 1.001 * factor * low for x in marks)


def test_an_axis_is_logarithmic_where_the_numbers_are_far_apart():
    assert limits([0.01, 2.0, INF, NAN], [2.0]).log
    assert not limits([0.0, 2.0]).log and not limits([-1.0, 100.0]).log and not limits([0.5, 2.0]).log
    assert not limits([0.01, 0.99], [0.01], "max").log  # shares, of which the highest matter


def test_an_axis_ends_a_little_above_what_is_untrained():
    assert 2 < limits([1.0, 1e9], [2.0]).high < 2.5
    assert limits([1e-3, 1e9], [2.0]).high == 6.0
    assert limits([0.1, 0.98, -50.0], [0.1], "max").low < 0.1 and limits([0.1, 0.98, -50.0], [0.1], "max").low > -0.2


@pytest.mark.parametrize("values", [[INF, INF], [], [NAN]])
def test_an_axis_where_everything_diverged_is_wide(values):
    axis = limits(values, [2.3, 2.3000001])
    assert axis.low < 2.2 and axis.high > 2.4
    assert limits(values).high > limits(values).low
    assert limits(values, [0.0]) == limits(values)


def test_an_axis_holds_one_number():
    for x in (3.0, -3.0, 1e-12, 1e30, 0.0):
        axis = limits([x, x])
        assert axis.low <= x <= axis.high and axis.high - axis.low >= 0.1 * abs(x)
