"""Every transform with moments or a factor against its formula, in NumPy's float64, over 100 steps."""

import jax
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import lrjax as L
from tests.problems import gradients, nested_params

f = lambda x: float(np.float32(x))  # hyperparameters enter as float32 numbers


def averages(*decays):
    """Moving averages of g, and of g², with their debiased values: yields (μ, ν, μ̂, ν̂) for each g that is sent."""
    b1, b2 = map(f, decays)
    mu = nu = t = 0

    def step(g):
        nonlocal mu, nu, t
        mu, nu, t = b1 * mu + (1 - b1) * g, b2 * nu + (1 - b2) * g**2, t + 1
        return mu, nu, mu / (1 - b1**t), nu / (1 - b2**t)

    return step


def trace(decay, nesterov=False):
    m = 0

    def step(g, p):
        nonlocal m
        m = g + f(decay) * m
        return g + f(decay) * m if nesterov else m

    return step


def ema(debias):
    step = averages(0.8, 0.8)
    return lambda g, p: step(g)[2 if debias else 0]


def rss(start, eps):
    s = f(start)

    def step(g, p):
        nonlocal s
        s = s + g**2
        return g / np.sqrt(s + f(eps))

    return step


def rms(decay, eps, start=0.0, in_sqrt=True, debias=False, centered=False):
    d, mu, nu, t = f(decay), 0, f(start), 0

    def step(g, p):
        nonlocal mu, nu, t
        mu, nu, t = d * mu + (1 - d) * g, d * nu + (1 - d) * g**2, t + 1
        c = 1 - d**t if debias else 1
        size = nu / c - ((mu / c) ** 2 if centered else 0)
        return g / (np.sqrt(size + f(eps)) if in_sqrt else np.sqrt(size) + f(eps))

    return step


def adam(b1, b2, eps, eps_root, nesterov=False):
    step, t = averages(b1, b2), 0

    def direction(g, p):
        nonlocal t
        t += 1
        mu, _, mu_hat, nu_hat = step(g)
        if nesterov:
            mu_hat = f(b1) * mu / (1 - f(b1) ** (t + 1)) + (1 - f(b1)) * g / (1 - f(b1) ** t)
        return mu_hat / (np.sqrt(nu_hat + f(eps_root)) + f(eps))

    return direction


def amsgrad(b1, b2, eps, debias_mu, debias_nu):
    step, largest = averages(b1, b2), 0

    def direction(g, p):
        nonlocal largest
        mu, nu, mu_hat, nu_hat = step(g)
        largest = np.maximum(largest, nu_hat if debias_nu else nu)
        return (mu_hat if debias_mu else mu) / (np.sqrt(largest) + f(eps))

    return direction


def schedule():
    t = -1

    def step(g, p):
        nonlocal t
        t += 1
        return -0.5 * (1 - min(t / 80, 1)) * g

    return step


# ours, its arguments, the formula of the tree as one vector (g, p) -> u
CASES = [
    (L.scale, (-0.3,), {}, lambda: lambda g, p: f(-0.3) * g),
    (L.scale_by_learning_rate, (0.3,), {}, lambda: lambda g, p: -f(0.3) * g),
    (L.scale_by_learning_rate, (0.3,), {"flip_sign": False}, lambda: lambda g, p: f(0.3) * g),
    (L.scale_by_learning_rate, (L.linear_schedule(0.5, 0.0, 80),), {}, schedule),
    (L.trace, (0.9,), {}, lambda: trace(0.9)),
    (L.trace, (0.9,), {"nesterov": True}, lambda: trace(0.9, nesterov=True)),
    (L.ema, (0.8,), {}, lambda: ema(True)),
    (L.ema, (0.8,), {"debias": False}, lambda: ema(False)),
    (L.scale_by_rss, (), {"initial_accumulator_value": 0.3, "eps": 1e-3}, lambda: rss(0.3, 1e-3)),
    (L.scale_by_rms, (0.9, 1e-8), {}, lambda: rms(0.9, 1e-8)),
    (L.scale_by_rms, (0.9, 1e-2), {"initial_scale": 0.5}, lambda: rms(0.9, 1e-2, start=0.5)),
    (L.scale_by_rms, (0.9, 1e-2), {"eps_in_sqrt": False}, lambda: rms(0.9, 1e-2, in_sqrt=False)),
    (L.scale_by_rms, (0.9, 1e-2), {"bias_correction": True}, lambda: rms(0.9, 1e-2, debias=True)),
    (L.scale_by_stddev, (0.9, 1e-2), {}, lambda: rms(0.9, 1e-2, centered=True)),
    (L.scale_by_stddev, (0.9, 1e-2), {"eps_in_sqrt": False}, lambda: rms(0.9, 1e-2, in_sqrt=False, centered=True)),
    (L.scale_by_stddev, (0.9, 1e-2), {"initial_scale": 0.5}, lambda: rms(0.9, 1e-2, start=0.5, centered=True)),
    (L.scale_by_adam, (), {}, lambda: adam(0.9, 0.999, 1e-8, 0.0)),
    (L.scale_by_adam, (0.8, 0.9, 1e-3, 1e-3), {}, lambda: adam(0.8, 0.9, 1e-3, 1e-3)),
    (L.scale_by_adam, (), {"nesterov": True}, lambda: adam(0.9, 0.999, 1e-8, 0.0, nesterov=True)),
    (L.scale_by_amsgrad, (0.9, 0.99), {}, lambda: amsgrad(0.9, 0.99, 1e-8, True, True)),
    (L.scale_by_amsgrad, (0.9, 0.9), {"bias_correction_mu": False}, lambda: amsgrad(0.9, 0.9, 1e-8, False, True)),
    (L.scale_by_amsgrad, (0.9, 0.9), {"bias_correction_nu": False}, lambda: amsgrad(0.9, 0.9, 1e-8, True, False)),
    (L.add_decayed_weights, (0.3,), {}, lambda: lambda g, p: g + f(0.3) * p),
    (L.clip, (0.3,), {}, lambda: lambda g, p: np.clip(g, -f(0.3), f(0.3))),
    (L.clip_by_global_norm, (0.3,), {}, lambda: lambda g, p: g * min(1, f(0.3) / np.linalg.norm(g))),
    (L.clip_by_global_norm, (4.5,), {}, lambda: lambda g, p: g * min(1, 4.5 / np.linalg.norm(g))),
]
each = pytest.mark.parametrize(
    ("make", "args", "kwargs", "formula"), CASES, ids=[f"{c[0].__name__}-{'-'.join(c[2])}" for c in CASES]
)
PARAMS = nested_params()
GRADIENTS = gradients(PARAMS)
STACKED = jax.tree.map(lambda *g: np.stack(g), *GRADIENTS)


def trajectory(tx):
    """All updates, one row each."""

    def step(state, g):
        updates, state = tx.update(g, state, PARAMS)
        return state, ravel_pytree(updates)[0]

    return jax.lax.scan(step, tx.init(PARAMS), STACKED)[1]


def wide(tree):
    return np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)])


@pytest.mark.sampled(8)
@each
def test_agrees_with_the_formula_in_float64(make, args, kwargs, formula):
    evaluate, p = formula(), wide(PARAMS)
    expected = np.stack([evaluate(wide(g), p) for g in GRADIENTS])
    assert np.abs(trajectory(make(*args, **kwargs)) - expected).max() <= 1e-6 * np.abs(expected).max()


@pytest.mark.sampled(12)
@pytest.mark.promotes
@each
def test_agrees_with_optax(make, args, kwargs, formula):
    expected = np.asarray(trajectory(getattr(optax, make.__name__)(*args, **kwargs)))
    assert np.abs(trajectory(make(*args, **kwargs)) - expected).max() <= 1e-5 * np.abs(expected).max()
