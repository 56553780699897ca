"""A transformation is a value: it prints, compares, hashes, pickles, and goes through jit, vmap and grad."""

import copy
import dataclasses
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrjax as L
from tests.everything import EVERYTHING
from tests.problems import nested_params
from tests.transforms.cases import CASES, OTHERWISE, Case

VALUES = {
    "schedule": L.warmup_cosine_decay_schedule(0.0, 1e-3, 10, 100),
    "sgd": L.sgd(0.1, momentum=0.9, nesterov=True),
    "adagrad": L.adagrad(0.1),
    "rmsprop": L.rmsprop(L.step_decay(0.1, 10, 0.5), centered=True, momentum=0.5),
    "adam": L.adam(L.cosine_decay_schedule(1e-3, 100), mu_dtype="bfloat16"),
    "adamw": L.adamw(1e-3, mask={"w": True, "b": [False, True]}),
    "amsgrad": L.amsgrad(1e-3),
    "chain": L.chain(L.clip_by_global_norm(1.0), L.add_decayed_weights(0.1), L.adam(1e-3)),
    "empty chain": L.chain(),
    "named chain": L.named_chain(("clip", L.clip(1.0)), ("inner", L.chain(L.ema(0.5), L.scale(-0.1)))),
    "transforms": L.chain(L.trace(0.9), L.scale_by_schedule(L.rex_schedule(0.1, 10)), L.identity()),
}
each = pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)


def test_repr_reads_like_the_call():
    assert repr(L.adam(L.cosine_decay_schedule(0.001, 100))) == (
        "adam(learning_rate=cosine_decay_schedule(init_value=0.001, decay_steps=100, alpha=0.0, exponent=1.0), "
        "b1=0.9, b2=0.999, eps=1e-08, eps_root=0.0, mu_dtype=None, nesterov=False)"
    )
    assert repr(L.chain(L.clip(1.0), L.scale(2))) == "chain(clip(max_delta=1.0), scale(step_size=2))"
    assert repr(L.named_chain(("a", L.clip(1.0)))) == "named_chain(('a', clip(max_delta=1.0)))"


@each
def test_repr_evaluates_to_an_equal_value(value):
    assert eval(repr(value), dict(vars(L))) == value


@each
def test_pickle_copy_and_trees_give_an_equal_value(value):
    for other in (
        pickle.loads(pickle.dumps(value)),
        copy.copy(value),
        copy.deepcopy(value),
        dataclasses.replace(value),
        jax.tree.map(lambda x: x, value),
    ):
        assert other == value and hash(other) == hash(value) and repr(other) == repr(value)


def test_equality_and_hash_are_by_value():
    assert L.adam(1e-3) == L.adam(1e-3) and hash(L.adam(1e-3)) == hash(L.adam(1e-3))
    assert L.adam(1e-3) != L.adam(2e-3) and L.adam(1e-3) != L.amsgrad(1e-3) and L.adam(1e-3) != "adam"
    assert L.adam(1) == L.adam(1.0) == L.adam(np.float64(1)) == L.adam(jnp.float32(1))
    assert L.adamw(0.1, mask={"w": True}) != L.adamw(0.1, mask={"w": False})
    assert len({L.adam(1e-3), L.adam(1e-3), L.sgd(1e-3)}) == 2


def test_a_value_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        L.adam(1e-3).learning_rate = 0.1


def test_leaves_are_the_numbers():
    assert jax.tree.leaves(L.adam(1e-3)) == [1e-3, 0.9, 0.999, 1e-8, 0.0]
    assert jax.tree.leaves(L.sgd(0.1)) == [0.1]
    assert jax.tree.leaves(L.chain(L.clip(1.0), L.sgd(L.linear_schedule(1.0, 0.0, 10)))) == [1.0, 1.0, 0.0, 10.0, 0.0]
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(L.chain(L.sgd(0.1)))]
    assert paths == [".transforms[0].learning_rate"]


def test_three_rates_are_one_trace_of_a_step(count_traces):
    params = nested_params()
    counted, traces = count_traces(lambda tx, g, s, p: tx.update(g, s, p))
    step, results = jax.jit(counted), []
    for rate in (1e-3, 1e-2, 0.1):
        tx = L.adam(rate)
        updates, _ = step(tx, params, tx.init(params), params)
        results.append(float(updates["scale"]))
    assert traces == [1]
    np.testing.assert_allclose(np.array(results) / results[0], [1, 10, 100], rtol=1e-5)


def test_three_schedules_are_one_trace(count_traces):
    counted, traces = count_traces(lambda schedule, t: schedule(t))
    evaluate = jax.jit(counted)
    assert [float(evaluate(L.linear_schedule(1.0, 0.0, T), 5)) for T in (10, 20, 50)] == [
        0.5,
        0.75,
        pytest.approx(0.9),
    ]
    assert traces == [1]


def test_an_equal_value_made_anew_is_the_same_static_argument(count_traces):
    counted, traces = count_traces(lambda tx, g, s: tx.update(g, s))
    step, params = jax.jit(counted, static_argnums=0), jnp.ones(3)
    for _ in range(3):
        step(L.adam(L.cosine_decay_schedule(1e-3, 10)), params, L.adam(1e-3).init(params))
    assert traces == [1]


NUMBERS = [tx for case in CASES.values() if not isinstance(case.numbers, str) for tx in case.numbers]
each_with_numbers = pytest.mark.parametrize("tx", NUMBERS, ids=lambda tx: type(tx).__name__)


@pytest.mark.parametrize("name", CASES)
def test_a_transformation_with_numbers_has_them_in_its_row(name):
    numbers = CASES[name].numbers
    if numbers == Case().numbers:
        assert jax.tree.leaves(EVERYTHING[name]) == []
    elif numbers != OTHERWISE:
        assert {type(tx) for tx in numbers} == {getattr(L, name)}


def two_steps(tx):
    params = jnp.asarray([1.0, -2.0, 0.5])
    state, total = tx.init(params), 0.0
    for g in (jnp.asarray([0.5, 1.0, -2.0]), jnp.asarray([-1.0, 0.25, 3.0])):
        updates, state = tx.update(g.astype(params.dtype), state, params)
        params = L.apply_updates(params, updates)
        total = total + jnp.sum(jnp.sin(updates))
    return total


@pytest.mark.sampled(72)
@each_with_numbers
def test_vmap_and_grad_over_every_number(tx, x64, count_traces):
    leaves, structure = jax.tree.flatten(tx)
    x, n = np.array(leaves), len(leaves)
    h = 1e-6 * np.abs(x)
    rows = np.concatenate([x + np.diag(h), x - np.diag(h)])
    mapped = jax.jit(jax.vmap(two_steps))(structure.unflatten(list(rows.T)))
    counted, traces = count_traces(two_steps)
    alone = jax.jit(counted)
    np.testing.assert_allclose(mapped, [alone(structure.unflatten(row.tolist())) for row in rows], rtol=1e-12)
    assert traces == [1]
    slopes = np.asarray(mapped[:n] - mapped[n:]) / (2 * h)
    assert np.all(slopes != 0)  # every number matters
    gradient = jax.tree.leaves(jax.jit(jax.grad(two_steps))(tx))
    np.testing.assert_allclose(gradient, slopes, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("tx", NUMBERS, ids=lambda tx: type(tx).__name__)
def test_every_number_is_checked_and_named(tx):
    for field in dataclasses.fields(tx):
        name = field.name
        if not isinstance(vars(tx)[name], float):
            continue
        bad = [float("nan"), float("inf"), -float("inf"), True, 1j, "0.1", 10**400, [0.1], np.array([0.1, np.nan])]
        words = type(tx)._domains[name].description
        bad += [None] * (field.default is not None) + [-1.0] * any(sign in words for sign in (">", "["))
        bad = bad if "tree" not in words else [x for x in bad if not isinstance(x, list)]
        for value in bad:
            with pytest.raises(ValueError, match=rf"^{type(tx).__name__}: `{name}` must be a .*number.*, got .+\.$"):
                dataclasses.replace(tx, **{name: value})


def test_the_message_says_what_it_got():
    message = "exponential_decay: `transition_steps` must be a number of steps >= 1, got -5."
    with pytest.raises(ValueError, match=re.escape(message)):
        L.exponential_decay(0.1, -5, 0.5)
    with pytest.raises(
        ValueError, match=re.escape("adam: `b2` must be a number in [0, 1), or a schedule, got 0.999999999.")
    ):
        L.adam(0.1, b2=1 - 1e-9)  # 1 in float32


def test_tracers_pass_the_checks():
    final = jax.jit(lambda rate, b1: two_steps(L.adam(rate, b1=b1)))
    np.testing.assert_allclose(final(0.1, 0.5), two_steps(L.adam(0.1, b1=0.5)), rtol=1e-6)
    with pytest.raises(ValueError, match="adam: `b1` must be"):
        jax.jit(lambda x: L.adam(0.1, b1=x))(1j)


def test_the_gradient_reaches_the_numbers_of_a_schedule():
    gradient = jax.grad(two_steps)(L.sgd(L.exponential_decay(0.5, 2, 0.5)))
    assert gradient.learning_rate.init_value != 0 and gradient.learning_rate.decay_rate != 0


def test_batched_spreads_single_numbers_over_the_batch():
    batch = L.batched(L.adam(jnp.array([0.1, 0.2, 0.4]), b1=0.5))
    assert batch.b1.shape == (3,) and batch.learning_rate.tolist() == pytest.approx([0.1, 0.2, 0.4])
    got = jax.vmap(two_steps)(batch)
    np.testing.assert_allclose(got, [two_steps(L.adam(r, b1=0.5)) for r in (0.1, 0.2, 0.4)], rtol=1e-6)
    tables = L.batched(L.sgd(L.tabulated_schedule(jnp.ones((2, 5))), momentum=0.5))
    assert tables.momentum.shape == (2,) and tables.learning_rate.values.shape == (2, 5)
    assert jax.vmap(L.adam)(jnp.array([0.1, 0.2])).b1.shape == (2,)
    with pytest.raises(ValueError, match="single numbers only"):
        L.batched(L.adam(0.1))
    with pytest.raises(ValueError, match="lengths"):
        L.batched(L.adam(jnp.ones(2), b1=jnp.array([0.5, 0.5, 0.5])))


def test_a_batch_used_as_one_says_so():
    tx = L.sgd(np.array([0.1, 0.2]))
    with pytest.raises(ValueError, match=r"sgd: `learning_rate` is a batch of shape \(2,\).*vmap"):
        tx.update(jnp.ones(()), tx.init(jnp.ones(())))


def test_replace_and_with_hyperparams():
    tx = L.chain(L.clip_by_global_norm(1.0), L.adam(L.cosine_decay_schedule(1e-3, 100)))
    assert dataclasses.replace(L.adam(1e-3), learning_rate=0.1) == L.adam(0.1)
    assert L.with_hyperparams(tx, init_value=0.5, max_norm=2.0) == L.chain(
        L.clip_by_global_norm(2.0), L.adam(L.cosine_decay_schedule(0.5, 100))
    )
    assert L.with_hyperparams(tx, learning_rate=0.5).transforms[1] == L.adam(0.5)
    named = L.named_chain(("a", L.clip(1.0)), ("b", L.sgd(0.1)))
    assert L.with_hyperparams(named, learning_rate=0.5) == L.named_chain(("a", L.clip(1.0)), ("b", L.sgd(0.5)))
    with pytest.raises(ValueError, match=r"no hyperparameter `lr` in chain; there are: .*transforms\[1\].b1"):
        L.with_hyperparams(tx, lr=0.1)
    with pytest.raises(ValueError, match=r"2 hyperparameters `learning_rate` in chain; there are: .*transforms\[0\]"):
        L.with_hyperparams(L.chain(L.sgd(0.1), L.sgd(0.2)), learning_rate=0.1)
    with pytest.raises(ValueError, match="adam: `learning_rate` must be"):
        L.with_hyperparams(tx, learning_rate=-1.0)


def test_optaxs_own_call_makes_a_value_of_two_functions():
    theirs = optax.sgd(0.5)
    for tx in (L.GradientTransformation(theirs.init, theirs.update), L.GradientTransformation(*theirs)):
        updates, _ = tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
        assert isinstance(tx, L.GradientTransformation) and updates.tolist() == [-0.5, -0.5]
    assert L.GradientTransformation(init=theirs.init, update=theirs.update) == L.GradientTransformation(*theirs)
    init, update = L.sgd(0.5)
    assert update(jnp.ones(2), init(jnp.ones(2)))[0].tolist() == [-0.5, -0.5]


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf"), True, 1j, "0.1", -0.1, [None], np.array(["a"])])
def test_a_bad_rate_is_named_at_construction(bad):
    with pytest.raises(
        ValueError, match=r"^adam: `learning_rate` must be a finite number >= 0, or a schedule, or a tree .*, got"
    ):
        L.adam(bad)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: L.adam(0.1, b2=1.0), "b2"),
        (lambda: L.adam(0.1, nesterov=1), "nesterov"),
        (lambda: L.adam(0.1, mu_dtype="int8"), "mu_dtype"),
        (lambda: L.adam(0.1, mu_dtype=np.ones(3)), "mu_dtype"),
        (lambda: L.MultiSteps(L.sgd(0.1), 2, accumulator_dtype=None), "accumulator_dtype"),  # numpy: float64
        (lambda: L.adafactor(0.1, dtype_momentum=None), "dtype_momentum"),
        (lambda: L.MultiSteps(L.sgd(0.1), 2, averaged_args=3), "averaged_args"),
        (lambda: L.lars(0.1, trust_ratio_mask=None), "trust_ratio_mask"),
        (lambda: L.freeze(None), "mask"),
        (lambda: L.masked(L.sgd(0.1), None), "mask"),
        (lambda: L.selective_transform(L.sgd(0.1), freeze_mask=None), "freeze_mask"),
        (lambda: L.sgd(0.1, momentum=np.nan), "momentum"),
        (lambda: L.clip_by_global_norm(-1.0), "max_norm"),
        (lambda: L.scale_by_shape(consistent_rms=1e-50), "consistent_rms"),  # 0 in float32
        (lambda: L.chain(L.constant_schedule(0.1)), "transforms"),
        (lambda: L.chain([L.clip(1.0), L.clip(2.0)]), "transforms"),
        (lambda: L.named_chain(("a", L.clip(1.0)), ("a", L.clip(1.0))), "transforms"),
        (lambda: L.named_chain(L.clip(1.0)), "transforms"),
        (lambda: L.adamw(0.1, mask={"w": 3}), "mask"),
        (lambda: L.ema(jnp.array([0.5, 1.5])), "decay"),
    ],
)
def test_a_bad_hyperparameter_is_named_at_construction(call, argument):
    with pytest.raises(ValueError, match=rf"^\w+: `{argument}` must be .*, got .*\.$"):
        call()


def test_arguments_that_are_missing_or_unknown_are_a_type_error():
    with pytest.raises(TypeError, match="learning_rate"):
        L.adam()
    with pytest.raises(TypeError, match="beta1"):
        L.adam(0.1, beta1=0.5)
    with pytest.raises(TypeError, match="speed"):
        L.chain(L.clip(1.0), speed=3)


@pytest.mark.promotes
def test_a_closure_over_a_tracer_is_not_kept():
    def train(rate):
        tx = L.chain(L.adam(optax.cosine_decay_schedule(rate, 100)), L.chain(optax.scale(rate)))
        return tx.update(jnp.ones(3), tx.init(jnp.ones(3)))[0]

    with jax.checking_leaks():
        assert jax.jit(jax.vmap(train))(jnp.array([0.1, 0.2])).shape == (2, 3)
