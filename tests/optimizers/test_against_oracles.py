"""Every optimizer over 100 steps: against Optax, and against its formula in NumPy's float64."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrjax as L
from tests.problems import gradients, nested_params

CASES = [
    ("sgd", (0.1,), {}),
    ("sgd", (0.1,), {"momentum": 0.9}),
    ("sgd", (0.1,), {"momentum": 0.9, "nesterov": True}),
    ("adagrad", (0.1,), {}),
    ("adagrad", (0.1,), {"initial_accumulator_value": 0.0, "eps": 1e-3}),
    ("rmsprop", (0.01,), {}),
    ("rmsprop", (0.01,), {"momentum": 0.9}),
    ("rmsprop", (0.01,), {"momentum": 0.9, "nesterov": True, "centered": True}),
    ("rmsprop", (0.01,), {"centered": True, "eps": 1e-3, "initial_scale": 1.0}),
    ("rmsprop", (0.01,), {"eps_in_sqrt": False, "bias_correction": True}),
    ("adam", (0.01,), {}),
    ("adam", (0.01,), {"b1": 0.0}),
    ("adam", (0.01,), {"nesterov": True, "eps_root": 1e-4}),
    ("adamw", (0.01,), {"weight_decay": 0.1}),
    ("amsgrad", (0.01,), {}),
    ("amsgrad", (0.01,), {"b2": 0.9, "bias_correction_mu": False, "bias_correction_nu": False}),
]
IDS = [f"{name}-{'-'.join(map(str, kwargs))}" for name, _, kwargs in CASES]
each = pytest.mark.parametrize(("name", "args", "kwargs"), CASES, ids=IDS)


class Reference:
    """One array's optimizer in float64 (complex128), written from the formulas.

    Hyperparameters enter as numbers of the `precision`.
    """

    def __init__(self, name, rate, kwargs, p, precision):
        self.name, self.rate, self.k, self.p, self.t = name, rate, kwargs, p, 0
        self.number = lambda x: float(precision(x))
        start = kwargs.get("initial_accumulator_value", 0.1) if name == "adagrad" else kwargs.get("initial_scale", 0.0)
        self.m = self.trace = np.zeros_like(p)
        self.v = np.full(p.shape, self.number(start))
        self.v_max = np.zeros(p.shape)

    def get(self, key, default):
        value = self.k.get(key, default)
        return self.number(value) if isinstance(value, float) else value

    def momentum(self, u):
        if self.k.get("momentum") is None:
            return u
        mu = self.get("momentum", 0.0)
        self.trace = u + mu * self.trace
        return u + mu * self.trace if self.k.get("nesterov") else self.trace

    def step(self, g):
        self.t += 1
        rate = self.rate(self.t - 1) if callable(self.rate) else self.number(self.rate)
        self.p = self.p - getattr(self, f"_{self.name}")(g, rate)

    def _sgd(self, g, rate):
        return rate * self.momentum(g)

    def _adagrad(self, g, rate):
        self.v = self.v + np.abs(g) ** 2
        return rate * g / np.sqrt(self.v + self.get("eps", 1e-7))

    def _rmsprop(self, g, rate):
        d, eps = self.get("decay", 0.9), self.get("eps", 1e-8)
        self.m, self.v = d * self.m + (1 - d) * g, d * self.v + (1 - d) * np.abs(g) ** 2
        c = 1 - d**self.t if self.k.get("bias_correction") else 1.0
        v = self.v / c - (np.abs(self.m / c) ** 2 if self.k.get("centered") else 0.0)
        root = np.sqrt(v + eps) if self.k.get("eps_in_sqrt", True) else np.sqrt(v) + eps
        return self.momentum(rate * g / root)

    def _adam(self, g, rate):
        b1, b2, eps = self.get("b1", 0.9), self.get("b2", 0.999), self.get("eps", 1e-8)
        self.m, self.v = b1 * self.m + (1 - b1) * g, b2 * self.v + (1 - b2) * np.abs(g) ** 2
        m = self.m / (1 - b1**self.t)
        if self.k.get("nesterov"):
            m = b1 * self.m / (1 - b1 ** (self.t + 1)) + (1 - b1) * g / (1 - b1**self.t)
        return rate * m / (np.sqrt(self.v / (1 - b2**self.t) + self.get("eps_root", 0.0)) + eps)

    def _adamw(self, g, rate):
        p = self.p
        return self._adam(g, rate) + rate * self.get("weight_decay", 1e-4) * p

    def _amsgrad(self, g, rate):
        b1, b2, eps = self.get("b1", 0.9), self.get("b2", 0.999), self.get("eps", 1e-8)
        self.m, self.v = b1 * self.m + (1 - b1) * g, b2 * self.v + (1 - b2) * np.abs(g) ** 2
        c1 = 1 - b1**self.t if self.k.get("bias_correction_mu", True) else 1.0
        c2 = 1 - b2**self.t if self.k.get("bias_correction_nu", True) else 1.0
        self.v_max = np.maximum(self.v_max, self.v / c2)
        return rate * self.m / c1 / (np.sqrt(self.v_max) + eps)


def run(tx, params, grads):
    """Parameters after all gradients, in one scan: the state is a carry."""
    stacked = jax.tree.map(lambda *g: np.stack(g), *grads)

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        return (L.apply_updates(params, updates), state), updates

    return jax.lax.scan(step, (params, tx.init(params)), stacked)


def reference(name, rate, kwargs, params, grads, precision=np.float32):
    def final(p, *gs):
        wide = np.complex128 if np.iscomplexobj(p) else np.float64
        r = Reference(name, rate, kwargs, np.asarray(p, wide), precision)
        for g in gs:
            r.step(np.asarray(g, wide))
        return r.p

    return jax.tree.map(final, params, *grads)


def assert_near(got, expected, start, rtol):
    """Relative to the size of the parameters and how far they moved."""
    for a, b, p in zip(*map(jax.tree.leaves, (got, expected, start)), strict=True):
        b = np.asarray(b)
        size = np.max(np.abs(b)) + np.max(np.abs(b - np.asarray(p)))
        assert np.max(np.abs(np.asarray(a, b.dtype) - b)) <= rtol * size


@functools.cache
def ours_over_100_steps(case):
    name, args, kwargs = CASES[case]
    params = nested_params()
    (final, _), _ = run(getattr(L, name)(*args, **kwargs), params, gradients(params))
    return final


@pytest.mark.sampled(8)
@pytest.mark.parametrize("case", range(len(CASES)), ids=IDS)
def test_agrees_with_the_formula_in_float64(case):
    name, args, kwargs = CASES[case]
    params = nested_params()
    expected = reference(name, args[0], kwargs, params, gradients(params))
    assert_near(ours_over_100_steps(case), expected, params, 1e-6)


@pytest.mark.sampled(8)
@pytest.mark.promotes
@pytest.mark.parametrize("case", range(len(CASES)), ids=IDS)
def test_agrees_with_optax(case):
    name, args, kwargs = CASES[case]
    params = nested_params()
    (expected, _), _ = run(getattr(optax, name)(*args, **kwargs), params, gradients(params))
    assert_near(ours_over_100_steps(case), expected, params, 1e-5)


@pytest.mark.sampled(8)
@each
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_floats_stay_near_float64(name, args, kwargs, dtype):
    params = nested_params(dtype)
    grads = gradients(params, 10)
    tx = getattr(L, name)(*args, **kwargs)
    if name == "amsgrad" and dtype == "float16" and kwargs:
        pytest.skip("second moments without bias correction are below float16's range")
    (got, state), updates = run(tx, params, grads)
    assert {p.dtype for p in jax.tree.leaves(got)} == {jnp.dtype(dtype)}
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    wide = lambda tree: jax.tree.map(lambda x: np.asarray(x, np.float64), tree)
    expected = reference(name, args[0], kwargs, wide(params), [wide(g) for g in grads])
    assert_near(wide(got), expected, wide(params), 0.05 if dtype == "bfloat16" else 0.01)


@pytest.mark.sampled(8)
@each
def test_float64_under_x64(name, args, kwargs, x64):
    params = nested_params("float64")
    grads = gradients(params, 20)
    (got, _), _ = run(getattr(L, name)(*args, **kwargs), params, grads)
    assert_near(got, reference(name, args[0], kwargs, params, grads, np.float64), params, 1e-12)


@pytest.mark.sampled(8)
@pytest.mark.promotes  # a real rate times a complex gradient
@pytest.mark.parametrize(("name", "args", "kwargs"), [c for c in CASES if not c[2].get("centered")])
def test_complex_parameters(name, args, kwargs):
    params = nested_params("complex64")
    grads = gradients(params, 30)
    (got, state), _ = run(getattr(L, name)(*args, **kwargs), params, grads)
    assert_near(got, reference(name, args[0], kwargs, params, grads), params, 2e-6)
    second = [s for s in jax.tree.leaves(state) if s.dtype == jnp.complex64]
    assert name == "sgd" or len(second) < len(jax.tree.leaves(state))  # second moments are real


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", ["sgd", "adagrad", "rmsprop", "adam", "adamw", "amsgrad"])
def test_a_schedule_is_applied_step_by_step(name):
    schedule = L.warmup_cosine_decay_schedule(0.0, 0.1, 5, 50)
    params = nested_params()
    grads = gradients(params, 60)
    (got, state), _ = run(getattr(L, name)(schedule), params, grads)
    curve = np.asarray(schedule(np.arange(60)), np.float64)
    assert_near(got, reference(name, lambda t: curve[t], {}, params, grads), params, 1e-6)
    assert L.get_learning_rate(state) == schedule(59)


@pytest.mark.parametrize("t", [1, 2, 3, 10, 1000, 10**6, 2**31 - 1])
@pytest.mark.parametrize("b", [0.0, 0.5, 0.9, 0.999, 0.99999])
def test_bias_correction_keeps_its_digits(t, b):
    from lrjax.numerics import bias_correction

    expected = 1.0 if b == 0 else -math.expm1(t * math.log(np.float32(b)))
    np.testing.assert_allclose(jax.jit(bias_correction)(b, jnp.float32(t)), expected, rtol=1e-6)


def test_adams_first_steps_under_a_constant_gradient_are_its_rate():
    tx, g = L.scale_by_adam(b2=0.999, eps=0.0), jnp.array([3.0, -1e-4, 1e6])
    state = tx.init(g)
    for _ in range(10):
        updates, state = tx.update(g, state)
        np.testing.assert_allclose(updates, [1, -1, 1], rtol=1e-6)
