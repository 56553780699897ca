"""Values as users make and use them: hashes, derivatives, annotations as strings, names and subclasses."""

from __future__ import annotations

import dataclasses
import textwrap
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrjax as L

if TYPE_CHECKING:
    from lrjax.domains import Rate, Steps

PARAMS = jnp.array([1.0, -2.0])


# Hash and equality


@pytest.mark.parametrize(
    "make",
    [
        lambda: L.sgd(np.array([0.1, 0.2], np.float32)),
        lambda: L.sgd(jnp.array([0.1, 0.2])),
        lambda: L.tabulated_schedule(np.array([0.1, 0.2])),
        lambda: L.chain(L.clip(1.0), L.adam(L.linear_schedule(np.array([0.1, 0.2]), 0.0, 10))),
        lambda: L.sgd({"w": np.array([0.1, 0.2]), "b": 0.1}),
        lambda: L.linear_schedule(0.1, 0.0, 2**31 - 1),
        lambda: L.inject_hyperparams(L.sgd)(jnp.array([0.1, 0.2])),
    ],
)
def test_values_with_arrays_hash_by_what_is_in_them(make):
    assert make() == make() and hash(make()) == hash(make())
    assert len({make(), make()}) == 1
    other = jax.tree.map(lambda x: x * 2, make())
    assert other != make() and len({make(), other}) == 2


def test_one_array_for_another_of_its_numbers_is_equal():
    ours, theirs = L.sgd(np.array([0.5, 0.25])), L.sgd(jnp.array([0.5, 0.25]))
    assert ours == theirs and hash(ours) == hash(theirs)


def test_a_value_goes_as_a_static_argument_with_arrays():
    traces = []

    def run(tx, params):
        traces.append(1)
        return tx.init(params)

    static = jax.jit(run, static_argnums=0)
    for _ in range(2):
        static(L.sgd({"w": 0.1}, momentum=0.9), {"w": PARAMS})
    assert len(traces) == 1


# Derivatives


def three_steps(tx):
    params, total = jnp.asarray([1.0, -2.0]), 0.0
    state = tx.init(params)
    for g in (jnp.array([0.5, 1.0]), jnp.array([-1.0, 0.25]), jnp.array([0.3, -0.7])):
        updates, state = tx.update(g, state, params)
        params = L.apply_updates(params, updates)
        total = total + jnp.sum(jnp.sin(updates))
    return total


@pytest.mark.slow
@pytest.mark.sampled(8)
@pytest.mark.parametrize("name", "adam nadam adamw adabelief yogi adan adamax radam amsgrad lamb".split())
@pytest.mark.parametrize("zero", ["b1", "b2"])
def test_the_derivative_at_no_averaging(name, zero, x64):
    if (name, zero) == ("adabelief", "b1"):
        return  # there μ = g, and the update is g over the root of `eps_root` alone
    make = getattr(L, name)
    run = lambda x: three_steps(make(0.1, **{zero: x}, eps=1e-3))
    slope = jax.grad(run)(0.0)
    h = 1e-6
    forward = (-3 * run(0.0) + 4 * run(h) - run(2 * h)) / (2 * h)  # to the order of h²
    np.testing.assert_allclose(slope, forward, rtol=1e-4, atol=1e-6)


@pytest.mark.promotes
def test_negative_momentum_is_optaxs():
    for name, numbers in [("adam", {"b1": -0.5}), ("sgd", {"momentum": -0.3}), ("sgd", {"momentum": 1.0})]:
        ours, theirs = (three_steps(getattr(m, name)(0.1, **numbers)) for m in (L, optax))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("steps", [100, 2**24 + 1, 2**25, 2**31 - 1])
def test_derivatives_of_schedules_of_any_length(steps):
    schedule = L.warmup_cosine_decay_schedule(0.0, 1.0, steps // 10, steps)
    slope = jax.grad(lambda s: s(steps // 10))(schedule)
    assert slope.peak_value == 1.0
    linear = jax.grad(lambda s: s(steps // 2))(L.linear_schedule(1.0, 0.0, steps))
    parts = jax.tree.leaves(linear.transition_steps)
    np.testing.assert_allclose(parts, (steps // 2) / steps**2, rtol=1e-4)
    again = jax.tree.map(lambda x: x, schedule)
    assert again == schedule and again.decay_steps == steps and type(again.decay_steps) is int


def test_long_schedules_stay_exact_as_arguments():
    schedule = L.join_schedules([L.constant_schedule(1.0), L.constant_schedule(0.5)], [2**24 + 1])
    steps = jnp.array([2**24, 2**24 + 1])
    assert jax.jit(lambda s: s(steps))(schedule).tolist() == [1.0, 0.5]
    piecewise = L.piecewise_constant_schedule(1.0, {2**30 + 1: 0.5})
    steps = jnp.array([2**30, 2**30 + 1])
    assert jax.jit(lambda s: s(steps))(piecewise).tolist() == [1.0, 0.5]
    lookahead = L.apply_every(2**24 + 1)
    assert jax.tree.map(lambda x: x, lookahead) == lookahead


# Annotations


def test_annotations_that_are_strings():
    @L.schedule
    def ramp(step, init_value: Rate, steps: Steps):
        return init_value * jnp.minimum(step / steps, 1.0)

    assert ramp(0.5, steps=10)([0, 5, 10]).tolist() == [0.0, 0.25, 0.5]
    with pytest.raises(ValueError, match="ramp: `steps` must be a whole number of steps >= 1, got 0"):
        ramp(0.5, 0)


def test_annotations_of_local_names():
    from lrjax.domains import Duration as Length

    @L.schedule
    def ramp(step, length: Length):
        return jnp.minimum(step / length, 1.0)

    assert ramp(10)(5) == 0.5 and jax.tree.map(lambda x: x, ramp(10)) == ramp(10)

    @L.optimizer
    def my_sgd(learning_rate: L.ScalarOrSchedule, length: Length | None = None):
        return L.chain(L.sgd(learning_rate))

    assert my_sgd(0.1).update(PARAMS, my_sgd(0.1).init(PARAMS))[0].tolist() == (-0.1 * PARAMS).tolist()


def test_an_unknown_annotation_is_named():
    with pytest.raises(TypeError, match=r"nothing: the annotation 'Nowhere' must be of names that exist"):

        @L.schedule
        def nothing(step, x: Nowhere):  # noqa: F821
            return x


# Names and subclasses


def test_a_hyperparameter_named_like_a_method_is_an_error():
    with pytest.raises(ValueError, match="fading: .* must not have the name of a method of Schedule, got 'warmup'"):

        @L.schedule
        def fading(step, warmup):
            return step / warmup

    with pytest.raises(ValueError, match="mine: .* of GradientTransformation, got 'update'"):

        @L.optimizer
        def mine(update: float):
            return L.sgd(update)


def test_a_subclass_says_how_it_is_done():
    class Mine(L.Schedule):
        def __call__(self, step):
            return 0.1

    with pytest.raises(TypeError, match="Mine: a schedule is made of its formula, .* `@lrjax.schedule`"):
        Mine()

    class Optimizer(L.GradientTransformation):
        pass

    with pytest.raises(TypeError, match="Optimizer: a transformation is made of its functions, .* `@lrjax.optimizer`"):
        Optimizer()


def test_a_subclass_of_a_value_is_a_value():
    class Slow(L.sgd):
        def half(self):
            return dataclasses.replace(self, learning_rate=self.learning_rate / 2)

    tx = Slow(0.1).half()
    assert tx == Slow(0.05) and tx != L.sgd(0.05)
    assert jax.jit(lambda tx: tx.update(PARAMS, tx.init(PARAMS))[0])(tx).tolist() == (-0.05 * PARAMS).tolist()


# What passes the door


@pytest.mark.promotes
def test_updates_are_compared_with_parameters_only_where_they_meet():
    params, per_example = {"w": jnp.ones(3)}, {"w": jnp.ones((4, 3))}
    private = L.chain(optax.contrib.differentially_private_aggregate(1.0, 0.1, 0), L.sgd(0.1))
    updates, _ = private.update(per_example, private.init(params), params)
    assert updates["w"].shape == (3,)
    mean = L.chain(L.stateless(lambda g, p: jax.tree.map(lambda x: x.mean(0), g)), L.adamw(0.1))
    updates, _ = mean.update(per_example, mean.init(params), params)
    assert updates["w"].shape == (3,)
    slow = L.chain(L.clip(1.0), L.lookahead(L.sgd(0.1), 2, 0.5))
    both = L.LookaheadParams.init_synced(params)
    updates, _ = slow.update(params, slow.init(both), both)
    assert L.apply_updates(both, updates).fast["w"].shape == (3,)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb", "adam", "sm3", "adafactor", "madgrad", "novograd"])
def test_updates_unlike_the_parameters_are_named(name):
    params, tx = {"w": jnp.ones(3), "b": jnp.ones(2)}, getattr(L, name)(0.1)
    for bad in ({"w": jnp.ones(3)}, {"w": jnp.ones(1), "b": jnp.ones(2)}):
        with pytest.raises(ValueError, match="`updates` must have the structure and shapes of `"):
            tx.update(bad, tx.init(params), params)


def test_the_readme_of_the_decorator_runs_in_a_module(tmp_path):
    program = """
        from __future__ import annotations
        import lrjax
        from lrjax.domains import Rate
        def make():
            @lrjax.schedule
            def halved(step, value: Rate):
                return value / 2
            return halved
        assert make()(1.0)(0) == 0.5
    """
    exec(compile(textwrap.dedent(program), "module", "exec"), {"__name__": "a_module"})


def test_a_function_of_no_module_is_a_foreign_function():
    names = {}
    exec("def rate(step): return 0.25", {"__builtins__": __builtins__}, names)
    names["rate"].__module__ = None  # as in a bare `exec` of some versions
    tx = L.sgd(names["rate"])
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    np.testing.assert_array_equal(updates, -0.25 * PARAMS)
