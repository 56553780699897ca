"""Stall beside dlib's code in NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrjax as L
from lrjax.transforms.plateau import _quantile_index, count_steps_without_decrease, running_slopes
from tests.transforms.test_plateau import INF, ONE, last, run


class RunningGradient:
    """dlib's class of that name, in float64: recursive least squares."""

    def __init__(self):
        self.n, self.R, self.w, self.ssr = 0, np.eye(2) * 1e6, np.zeros(2), 0.0

    def add(self, y):
        x = np.array([self.n, 1.0])
        r = self.R @ x
        weight = 1 + x @ r
        self.R = self.R - np.outer(r, r) / weight
        self.R = (self.R + self.R.T) / 2
        self.w = self.w + self.R @ x * (y - x @ self.w)
        self.ssr += (y - x @ self.w) ** 2 * weight
        self.n += 1

    @property
    def error(self):
        return math.sqrt(self.ssr / (self.n - 2) * 12 / (self.n**3 - self.n))

    @property
    def falls_backwards(self):
        """The probability that the slope is above 0."""
        return 0.5 * math.erfc(-self.w[0] / self.error / math.sqrt(2)) if self.error else 0.5


class LeastSquares:
    """The same of the line of least squares, from all values again each time."""

    def __init__(self):
        self.y = []

    n = property(lambda self: len(self.y))

    def add(self, y):
        self.y.append(y)

    @property
    def falls_backwards(self):
        x, y = np.arange(self.n) - (self.n - 1) / 2, np.subtract(self.y, np.mean(self.y))
        slope = (x @ y) / (x @ x)
        error = math.sqrt(np.sum((y - slope * x) ** 2) / (self.n - 2) / (x @ x))
        return 0.5 * math.erfc(-slope / error / math.sqrt(2)) if error else 0.5


def dlibs_count(losses, robust, p=0.51, q=0.1, line=RunningGradient):
    losses = np.asarray(losses, np.float64)
    largest = np.sort(losses)[math.floor((len(losses) - 1) * (1 - q) + 0.5)] if robust else INF
    line, count = line(), 0
    for j, y in enumerate(losses[::-1], 1):
        if y <= largest:
            line.add(y)
        if line.n > 2 and line.falls_backwards < p:
            count = j
    return count


@jax.jit
def counts(losses, p=0.51, q=0.1):
    return count_steps_without_decrease(losses[::-1], jnp.int32(losses.shape[0]), jnp.float32(p), jnp.float32(q))


def u(i):
    return ((7919 * i + 13) % 997) / 997 - 0.5


I = np.arange(100)  # noqa: E741
FALLING = 1 / (1 + 0.05 * I) + 0.02 * u(I)
THEN_FLAT = np.concatenate([FALLING, 0.2 + 0.02 * u(I)])
SPIKED = np.where(np.arange(200) == 150, 50.0, THEN_FLAT)
DLIBS = {"falling": (FALLING, 0, 0), "then flat": (THEN_FLAT, 133, 133), "with a spike": (SPIKED, 200, 133)}


@pytest.mark.parametrize("name", DLIBS)
@pytest.mark.parametrize("unit", [1.0, 1e-30, 1e30])
def test_steps_without_decrease_are_dlibs(name, unit):
    losses, plain, robust = DLIBS[name]
    assert counts(jnp.asarray(losses * unit, jnp.float32)).tolist() == [plain, robust]
    assert [dlibs_count(losses, robust=False), dlibs_count(losses, robust=True)] == [plain, robust]


def test_the_line_is_the_least_squares_line():
    y = np.array([3.0, 1, 4, 1, 5, 9, 2, 6])
    n, slope, error = (np.asarray(x) for x in running_slopes(jnp.asarray(y, jnp.float32), jnp.ones(8, bool)))
    np.testing.assert_allclose((slope[-1], error[-1]), (0.5357143, 0.4024796), rtol=3e-7)
    np.testing.assert_allclose(jax.scipy.stats.norm.cdf(slope[-1] / error[-1]), 0.9084113, rtol=3e-7)
    for j in range(3, 9):
        x = np.arange(j) - (j - 1) / 2
        line = (x @ y[:j]) / (x @ x)
        residual = y[:j] - y[:j].mean() - line * x
        expected = line, math.sqrt(residual @ residual / (j - 2) / (x @ x))
        np.testing.assert_allclose((n[j - 1], slope[j - 1], error[j - 1]), (j, *expected), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("length", [7, 500, 2000])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_slopes_in_float32_are_those_in_float64(length, offset):
    """z = slope/se to 1e-4 for every number of losses, also where their noise is a thousandth of them: at Φ(z) = 0.51
    that is 4e-5 in the probability."""
    y = (offset + 0.1 * np.random.default_rng(length).normal(size=length)).astype(np.float32)
    _, slope, error = jax.jit(running_slopes)(jnp.asarray(y - y[length // 2]), jnp.ones(length, bool))
    n, x = np.arange(1.0, length + 1), np.arange(length)
    y = y.astype(np.float64) - y.astype(np.float64).mean()
    sx, sy, sxx, sxy, syy = (np.cumsum(v) for v in (x, y, x * x, x * y, y * y))
    sxx, sxy, syy = sxx - sx**2 / n, sxy - sx * sy / n, syy - sy**2 / n
    n, sxx, sxy, syy = (v[5:] for v in (n, sxx, sxy, syy))
    exact = sxy / np.sqrt((syy - sxy**2 / sxx) / (n - 2) * sxx)
    np.testing.assert_allclose(slope[5:] / error[5:], exact, rtol=1e-4, atol=1e-4)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("seed", range(12))
def test_counts_on_random_losses(seed):
    """Are dlib's; where the losses are a thousand times their noise, those of exact least squares, which dlib's aren't
    always: its recursion starts from a prior of (0, 0)."""
    rng = np.random.default_rng(seed)
    length, line = (400, RunningGradient) if seed < 6 else (250, LeastSquares)
    level = rng.choice([0.1, 1.0, 10.0]) if seed < 6 else 300.0
    drift = rng.choice([0.0, 1e-3, -1e-3, 1e-2])
    losses = np.float32(level + drift * np.arange(length) + 0.3 * rng.standard_t(3, length))
    p, q = rng.choice([0.51, 0.8, 0.99]), rng.choice([0.1, 0.25, 0.0])
    for part in (losses, losses[: length // 3]):
        expected = [dlibs_count(part, robust, p, q, line) for robust in (False, True)]
        assert counts(jnp.asarray(part), p, q).tolist() == expected


def test_the_quantile_is_that_of_float64():
    sizes = np.arange(1, 5001)
    expected = np.floor((sizes - 1) * (1 - 0.1) + 0.5)
    np.testing.assert_array_equal(jax.jit(_quantile_index)(jnp.asarray(sizes, jnp.int32), jnp.float32(0.1)), expected)


def test_equal_losses_have_stalled_and_exact_lines_have_not():
    assert counts(jnp.full(50, 0.3)).tolist() == [50, 50]
    assert counts(jnp.zeros(50)).tolist() == [50, 50]
    assert counts(-jnp.arange(50.0)).tolist() == [0, 0]
    assert counts(jnp.arange(50.0)).tolist() == [50, 50]


def dlibs_trainer(losses, patience, factor):
    """`dnn_trainer`'s rate after each loss, its test on every step on which it has the budget."""
    budget, kept, rate, rates = 0, [], 1.0, []
    for loss in losses:
        budget, kept = budget + 200, [*kept, loss][-patience:]
        if budget > patience:
            budget = 0
            if all(dlibs_count(kept, robust) >= patience for robust in (False, True)):
                rate, kept = rate * factor, kept[400 + patience // 10 :]
        rates.append(rate)
    return rates


@pytest.mark.slow
@pytest.mark.parametrize("patience", [40, 450])
def test_stall_reduces_when_dlibs_trainer_does(patience):
    rng, steps = np.random.default_rng(patience), 5 * patience
    level = np.where(np.arange(steps) < patience, 3 - 2 * np.arange(steps) / patience, 1.0)
    losses = np.float32(level + 0.1 * rng.normal(size=steps))
    losses[rng.integers(0, steps, 5)] = 20.0  # bad batches
    tx = L.reduce_on_stall(0.5, patience)
    state, scales = last(tx, jnp.asarray(losses), every=True)
    expected = dlibs_trainer(losses, patience, 0.5)
    np.testing.assert_array_equal(scales, expected)
    assert expected[patience] == 1 and 0 < expected[-1] < 1 and int(state.reductions) == -math.log2(expected[-1])


def test_stall_of_what_ought_to_rise():
    tx = L.reduce_on_stall(0.5, 20, mode="max")
    assert run(tx, np.linspace(0, 1, 40))[0][-1] == 1
    assert run(tx, np.linspace(1, 0, 40))[0][-1] < 1


def test_a_test_is_made_as_often_as_dlib_makes_it():
    tx = L.reduce_on_stall(patience=1000)  # of every 6th step
    update = jax.jit(lambda s: tx.update(ONE, s, ONE, value=1.0)[1])
    states = [tx.init(ONE)]
    for _ in range(12):
        states.append(update(states[-1]))
    assert [int(s.steps_without_progress) for s in states] == [0] * 6 + [6] * 6 + [12]
    assert states[0].losses.shape == (1000,)
    jaxpr = str(jax.make_jaxpr(lambda s: tx.update(ONE, s, ONE, value=1.0))(states[0]))
    assert "cond[" in jaxpr and jaxpr.index("cond[") < jaxpr.index("sort[")  # computed only when due
