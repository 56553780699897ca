"""States that go on with another optimizer: a changed one of lrjax, or one of Optax, in both directions.

What was carried over is tested by what comes next: the updates are those of the optimizer that had seen all gradients.
"""

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lrjax as L

pytestmark = [pytest.mark.promotes, pytest.mark.usefixtures("quick_compilation")]

PARAMS = {"w": jnp.linspace(0.5, 1.0, 6).reshape(2, 3), "b": jnp.ones(3)}
COSINE, OPTAX_COSINE = L.cosine_decay_schedule(0.1, 10), optax.cosine_decay_schedule(0.1, 10)
FORMS = {"as it is": lambda x: x, "dicts": flax.serialization.to_state_dict}


def gradient(step):
    return jax.tree.map(lambda p: jnp.sin(3 * p + step), PARAMS)


def run(tx, steps, state=None):
    """The state after the updates of these steps, and the last update."""
    state, updates = tx.init(PARAMS) if state is None else state, None
    for step in steps:
        updates, state = tx.update(gradient(step), state, PARAMS)
    return state, updates


def without_parameter(paths):
    return {path.removesuffix("/w").removesuffix("/b") for path in paths}


def assert_goes_on(old, new, form, like=None, initial=(), unused=()):
    """`new` goes on from a state of `old` as `like` (by default `new`) would that had seen all of the gradients."""
    saved = FORMS[form](run(old, range(3))[0])
    found = L.migrate_state(saved, new, PARAMS)
    assert jax.tree.structure(found.state) == jax.tree.structure(new.init(PARAMS))
    assert without_parameter(found.initial) == set(initial)
    assert without_parameter(found.unused) == set(unused)
    _, got = run(new, range(3, 6), found.state)
    _, expected = run(new if like is None else like, range(6))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-8), got, expected)


each_form = pytest.mark.parametrize("form", FORMS)
CHANGES = {
    "a clip is new": (L.adam(COSINE), L.chain(L.clip(9.0), L.adam(COSINE)), {}),
    "a clip is gone": (L.chain(L.clip(9.0), L.adamw(COSINE)), L.adamw(COSINE), {}),
    "a schedule is new": (L.adam(0.1), L.adam(COSINE), {}),
    "a schedule is gone": (L.adam(COSINE), L.adam(0.1), {}),
    "a schedule is new, without moments": (L.sgd(0.1), L.sgd(COSINE), {}),
    "Adam became AdamW": (L.adam(COSINE), L.adamw(COSINE), {}),
    "AdamW became NAdam": (L.adamw(COSINE), L.nadam(COSINE), {}),
    "a weight decay by schedule": (
        L.adamw(COSINE),
        L.adamw(COSINE, weight_decay=L.linear_schedule(0.0, 1.0, 10)),
        {},
    ),
    "MultiSteps around": (
        L.adam(COSINE),
        L.MultiSteps(L.adam(COSINE), 1),
        {"initial": ["mini_step", "acc_grads", "acc_extra_args/value"]},
    ),
    "MultiSteps gone": (
        L.MultiSteps(L.adam(COSINE), 1),
        L.adam(COSINE),
        {"unused": ["mini_step", "gradient_step", "acc_grads", "acc_extra_args/value"]},
    ),
    "masked": (L.adam(COSINE), L.masked(L.adam(COSINE), {"w": True, "b": False}), {"unused": ["0/mu", "0/nu"]}),
    "by groups": (
        L.adamw(COSINE),
        L.partition({"x": L.adamw(COSINE), "y": L.adamw(COSINE)}, {"w": "x", "b": "y"}),
        {},
    ),
    "groups of other names": (
        L.partition({"x": L.adamw(COSINE), "y": L.adamw(COSINE)}, {"w": "x", "b": "y"}),
        L.partition({"1": L.adamw(COSINE), "2": L.adamw(COSINE)}, {"w": "2", "b": "1"}),
        {},
    ),
    "groups of each other's parameters": (
        L.partition({"x": L.adamw(COSINE), "y": L.adamw(COSINE)}, {"w": "x", "b": "y"}),
        L.partition({"x": L.adamw(COSINE), "y": L.adamw(COSINE)}, {"w": "y", "b": "x"}),
        {},
    ),
    "without groups": (
        L.partition({"x": L.adamw(COSINE), "y": L.adamw(COSINE)}, {"w": "x", "b": "y"}),
        L.adamw(COSINE),
        {},
    ),
    "in a named chain": (L.adamw(COSINE), L.named_chain(("clip", L.clip(9.0)), ("adam", L.adamw(COSINE))), {}),
    "an average is new": (
        L.adam(COSINE),
        L.chain(L.adam(COSINE), L.ema_params(0.9)),
        {"initial": ["1/count", "1/weight", "1/average"]},
    ),
    "apply_if_finite": (
        L.lion(COSINE),
        L.apply_if_finite(L.lion(COSINE)),
        {"initial": ["notfinite_count", "last_finite", "total_notfinite"]},
    ),
    "injected": (
        L.adam(COSINE),
        L.inject_hyperparams(L.adam)(COSINE),
        {"initial": [f"hyperparams/{name}" for name in ("learning_rate", "b1", "b2", "eps", "eps_root")]},
    ),
    "two momenta in order": (
        L.chain(L.trace(0.9), L.trace(0.5), L.sgd(0.1)),
        L.chain(L.clip(9.0), L.trace(0.9), L.trace(0.5), L.sgd(0.1)),
        {},
    ),
}


@pytest.mark.sampled(5)
@each_form
@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_optimizer_goes_on(name, form):
    old, new, listed = CHANGES[name]
    assert_goes_on(old, new, form, **listed)


def around(wrap, optax_tx, tx):
    """An optimizer of Optax and of lrjax inside of the same wrapper."""
    return wrap(optax)(optax_tx), wrap(L)(tx)


def multi_steps(m):
    return lambda tx: m.MultiSteps(tx, 1) if m is L else m.MultiSteps(tx, 1).gradient_transformation()


PAIRS = {
    "adam": (optax.adam(0.1), L.adam(0.1)),
    "adam, scheduled": (optax.adam(OPTAX_COSINE), L.adam(COSINE)),
    "adam, scheduled with the change": (optax.adam(0.1), L.adam(COSINE)),
    "adamw": (optax.adamw(OPTAX_COSINE), L.adamw(COSINE)),
    "sgd with momentum": (optax.sgd(OPTAX_COSINE, momentum=0.9), L.sgd(COSINE, momentum=0.9)),
    "lion": (optax.lion(OPTAX_COSINE), L.lion(COSINE)),
    "amsgrad": (optax.amsgrad(OPTAX_COSINE), L.amsgrad(COSINE)),
    "inject": (optax.inject_hyperparams(optax.adam)(0.1), L.inject_hyperparams(L.adam)(0.1)),
    "inject with a schedule": (
        optax.inject_hyperparams(optax.adamw)(OPTAX_COSINE),
        L.inject_hyperparams(L.adamw)(COSINE),
    ),
    "MultiSteps": around(multi_steps, optax.adamw(OPTAX_COSINE), L.adamw(COSINE)),
    "MultiSteps of momentum": around(multi_steps, optax.sgd(OPTAX_COSINE, 0.9), L.sgd(COSINE, 0.9)),
    "masked": around(
        lambda m: lambda tx: m.masked(tx, {"w": True, "b": False}), optax.adam(OPTAX_COSINE), L.adam(COSINE)
    ),
    "partition": around(
        lambda m: lambda tx: m.partition({"x": tx, "y": m.sgd(0.1, 0.9)}, {"w": "x", "b": "y"}),
        optax.adam(OPTAX_COSINE),
        L.adam(COSINE),
    ),
}


@pytest.mark.sampled(4)
@each_form
@pytest.mark.parametrize("name", PAIRS)
def test_optaxs_state_goes_on_here_and_ours_there(name, form):
    theirs, ours = PAIRS[name]
    same = optax.adam(OPTAX_COSINE) if "change" in name else theirs  # has seen all gradients
    for old, new, like in ((theirs, ours, same), (ours, theirs, None)):
        found = L.migrate_state(FORMS[form](run(old, range(3))[0]), new, PARAMS)
        assert jax.tree.structure(found.state) == jax.tree.structure(new.init(PARAMS))
        rate = ("step", "scale", "rate", "learning_rate", "value")  # what only lrjax keeps, and it isn't in use
        assert {path.rsplit("/")[-1] for path in (*found.initial, *found.unused)} <= set(rate)
        _, got = run(new, range(3, 6), found.state)
        _, expected = run(new if like is None else like, range(6))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=3e-5, atol=1e-8), got, expected)


PLACES = {  # of the rate, and whether it is computed there
    "adamw": (lambda m: lambda tx: tx, True),
    "in a chain": (lambda m: lambda tx: m.chain(m.clip(9.0), tx), True),
    "in a named chain": (lambda m: lambda tx: m.named_chain(("clip", m.clip(9.0)), ("it", tx)), True),
    "in MultiSteps": (multi_steps, True),
    "in apply_if_finite": (lambda m: lambda tx: m.apply_if_finite(tx, 3), True),
    "in groups": (lambda m: lambda tx: m.partition({"x": tx}, {"w": "x", "b": "x"}), True),
    "in Optax's chain": (lambda m: lambda tx: optax.chain(tx), False),
}


@pytest.mark.parametrize("saved", ["a schedule", "a number"])
@pytest.mark.parametrize("name", PLACES)
def test_the_rate_that_optax_does_not_keep_follows_from_the_step(name, saved):
    wrap, computed = PLACES[name]
    theirs, tx = around(wrap, optax.adamw(OPTAX_COSINE if saved == "a schedule" else 0.1), L.adamw(COSINE))
    state, _ = run(theirs, range(3))
    if name == "in MultiSteps":  # ours keeps a loss too
        found = L.migrate_state(state, tx, PARAMS)
        assert found.initial == {"acc_extra_args/value": "not saved"} and found.unused == ()
    else:
        found = L.migrate_state(state, tx, jax.eval_shape(lambda: PARAMS), strict=True)
        assert found.initial == {} and found.unused == ()
    assert not any("scale" in path for path in found.carried)
    expected, _ = run(tx, range(3))
    rate = L.get_learning_rate(expected if computed else tx.init(PARAMS))
    np.testing.assert_array_equal(L.get_learning_rate(found.state), rate)
    jax.tree.map(
        np.testing.assert_array_equal, *(L.get_learning_rate(run(tx, [3], s)[0]) for s in (found.state, expected))
    )


def test_the_rate_at_the_start_and_one_that_is_not_a_schedules():
    start = L.migrate_state(optax.adam(OPTAX_COSINE).init(PARAMS), L.adam(COSINE), PARAMS, strict=True).state
    jax.tree.map(np.testing.assert_array_equal, start, L.adam(COSINE).init(PARAMS))
    rates = {"w": COSINE, "b": 0.5}
    found = L.migrate_state(run(optax.adam(0.1), range(3))[0], L.adam(rates), PARAMS, strict=True)
    jax.tree.map(np.testing.assert_array_equal, L.get_learning_rate(found.state), {"w": np.float32(0.1), "b": 0.5})


def test_optaxs_state_in_an_update_is_refused_with_what_to_do():
    with pytest.raises(
        ValueError, match=r"must be a LearningRateState, got .*lrjax.migrate_state\(state, tx, params\)"
    ):
        run(L.adam(0.1), [0], optax.adam(0.1).init(PARAMS))


def test_optaxs_momentum_without_a_schedule_has_counted_nothing_and_it_is_said():
    saved, _ = run(optax.sgd(0.1, momentum=0.9), range(3))
    found = L.migrate_state(saved, L.sgd(COSINE, momentum=0.9), PARAMS)
    assert found.carried == {"0/trace/b": "0/trace/b", "0/trace/w": "0/trace/w"}
    assert found.initial == dict.fromkeys(("1/step", "1/scale", "1/learning_rate"), "not saved")
    assert repr(found) == ("Migration: 2 arrays carried over\n  initial, not saved: 1/step, 1/scale, 1/learning_rate")


NOT_ALIKE = {
    "momentum is new beside one": (L.chain(L.trace(0.9), L.sgd(0.1)), L.chain(L.trace(0.9), L.sgd(0.1, 0.9))),
    "one momentum is gone": (L.chain(L.trace(0.9), L.sgd(0.1, 0.9)), L.chain(L.trace(0.9), L.sgd(0.1))),
    "another method": (L.adam(0.1), L.adabelief(0.1)),
    "moments of another meaning": (L.adam(0.1), L.lion(0.1)),
    "momentum became an average": (L.trace(0.9), L.ema(0.9)),
    "one became two": (L.adam(0.1), L.named_chain(("a", L.scale_by_adam()), ("b", L.adam(0.1)))),
    "two became one": (L.named_chain(("a", L.scale_by_adam()), ("b", L.adam(0.1))), L.adam(0.1)),
    "momentum is new": (L.sgd(0.1), L.sgd(0.1, 0.9)),
    "adam is new": (L.sgd(0.1), L.adam(0.1)),
}


@pytest.mark.parametrize("name", NOT_ALIKE)
def test_moments_that_may_be_others_are_not_taken(name):
    old, new = NOT_ALIKE[name]
    saved = run(old, range(3))[0]
    found = L.migrate_state(saved, new, PARAMS)
    rates = ("step", "scale", "learning_rate")
    assert {path.rsplit("/")[-1] for path in found.carried} <= set(rates)
    moments = {p for p in without_parameter(found.initial) if not p.endswith(rates)}
    assert moments  # all of them, with their counts
    for (path, a), b in zip(jax.tree.leaves_with_path(found.state), jax.tree.leaves(new.init(PARAMS)), strict=True):
        if jax.tree_util.keystr(path, simple=True, separator="/") in found.initial:
            np.testing.assert_array_equal(a, b)


def test_two_that_fit_one_place_are_named():
    saved = run(NOT_ALIKE["one momentum is gone"][0], range(1))[0]
    found = L.migrate_state(saved, NOT_ALIKE["one momentum is gone"][1], PARAMS)
    assert found.initial == dict.fromkeys(("0/trace/b", "0/trace/w"), "fits several places")
    assert set(found.unused) == {"0/trace/b", "0/trace/w", "1/0/trace/b", "1/0/trace/w"}


def test_groups_that_have_counted_differently_are_not_merged():
    old = L.partition({"x": L.adam(0.1), "y": L.adam(0.1)}, {"w": "x", "b": "y"})
    saved, other = run(old, range(3))[0], run(old, range(5))[0]
    saved.inner_states["y"] = other.inner_states["y"]
    found = L.migrate_state(saved, L.adam(COSINE), PARAMS)
    assert set(found.carried) == {"1/scale", "1/learning_rate"}
    assert found.initial["0/count"] == found.initial["1/step"] == "differs between the saved groups"


def test_a_new_parameter_starts_with_the_others_and_a_reshaped_one_is_named():
    tx, grown = L.adam(0.1), {"w": jnp.ones((2, 4)), "b": jnp.ones(3), "new": jnp.ones(2)}
    found = L.migrate_state(run(tx, range(3))[0], tx, grown)
    assert set(found.carried) == {"0/count", "0/mu/b", "0/nu/b", "1/step", "1/scale", "1/learning_rate"}
    assert found.initial["0/mu/w"] == "must be float32[2, 4], got float32[2, 3]"
    assert found.initial["0/mu/new"] == "not saved"
    assert set(found.unused) == {"0/mu/w", "0/nu/w"}


def test_another_precision_is_cast():
    tx = L.adam(0.1)
    saved, _ = run(tx, range(3))
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    for form in FORMS.values():
        state = L.migrate_state(form(saved), tx, half, strict=True).state
        assert state[0].mu["w"].dtype == jnp.bfloat16
        np.testing.assert_array_equal(state[0].mu["w"], saved[0].mu["w"].astype(jnp.bfloat16))
        back = L.migrate_state(form(state), tx, PARAMS, strict=True).state
        np.testing.assert_array_equal(back[0].nu["b"], state[0].nu["b"].astype(jnp.float32))


def test_abstract_parameters_do_where_everything_is_carried_over():
    saved, _ = run(L.adam(0.1), range(3))
    shapes = jax.eval_shape(lambda: PARAMS)
    assert not L.migrate_state(saved, L.adamw(COSINE), shapes).initial
    with pytest.raises(ValueError, match="`params` must be arrays, since these keep their initial values: 0/trace/b"):
        L.migrate_state(saved, L.sgd(0.1, momentum=0.9), shapes)


def test_a_new_guard_has_the_state_in_its_snapshot_too():
    saved, _ = run(L.adam(COSINE), range(3))
    state = L.migrate_state(saved, L.guard(L.adam(COSINE)), PARAMS).state
    for inner in (state.inner_state, state.snapshot.inner_state):
        jax.tree.map(np.testing.assert_array_equal, inner, saved)


@pytest.mark.parametrize("new", [L.adam(COSINE), L.guard(L.adam(COSINE)), optax.adam(OPTAX_COSINE)], ids=["", "g", "o"])
def test_the_state_may_be_donated_and_compiles_nothing_anew(new, compilations):
    saved, _ = run(optax.adam(0.1), range(3))
    update = jax.jit(lambda state: new.update(PARAMS, state, PARAMS)[1], donate_argnums=0)
    update(new.init(PARAMS))
    state = L.migrate_state(saved, new, PARAMS).state
    compiled = len(compilations)
    assert compiled > 0
    update(state)
    assert len(compilations) == compiled


def test_the_rate_of_the_new_optimizer_is_known_at_once():
    constant, _ = run(L.adam(0.1), range(3))
    scheduled, _ = run(L.adam(COSINE), range(3))
    to_constant = L.migrate_state(scheduled, L.adam(0.5), PARAMS).state
    assert float(L.get_learning_rate(L.set_learning_rate(to_constant, 0.25))) == 0.25
    with pytest.raises(ValueError, match="follows a schedule"):
        L.set_learning_rate(L.migrate_state(constant, L.adam(COSINE), PARAMS).state, 0.25)


def test_the_state_of_an_nnx_optimizer_goes_on_in_another():
    def after(optimizer, steps):
        for step in steps:
            optimizer.update(linear, jax.tree.map(lambda p, step=step: jnp.sin(3 * p + step), nnx.state(linear)))
        return np.array(linear.kernel)

    optimizers = [L.adam(COSINE), L.chain(L.clip(9.0), L.adamw(COSINE, weight_decay=0.0), L.ema_params(0.9))]
    linear = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    expected = after(nnx.Optimizer(linear, optimizers[0], wrt=nnx.Param), range(6))

    linear = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    old, new = (nnx.Optimizer(linear, tx, wrt=nnx.Param) for tx in optimizers)
    after(old, range(3))
    found = L.migrate_state(old.opt_state, optimizers[1], nnx.state(linear, nnx.Param))
    nnx.update(new.opt_state, nnx.state(found.state))
    np.testing.assert_allclose(after(new, range(3, 6)), expected, rtol=2e-5)
    assert set(found.initial) == {"2/count", "2/weight", "2/average/kernel", "2/average/bias"} and not found.unused


def test_parameters_with_the_names_of_fields():
    params = {"mu": {"w": jnp.ones(2)}, "count": jnp.ones(3), "0": [jnp.ones(2), jnp.ones(2)]}
    tx, new = L.adam(0.1), L.chain(L.clip(1.0), L.adamw(0.1))
    _, saved = tx.update(jax.tree.map(lambda p: p * 2, params), tx.init(params), params)
    for form in FORMS.values():
        state = L.migrate_state(form(saved), new, params, strict=True).state
        jax.tree.map(np.testing.assert_array_equal, state[1][0], saved[0])


def test_the_updates_so_far_may_be_said_where_the_state_counts_nothing():
    params, plan = {"w": jnp.ones(3)}, L.linear_schedule(0.1, 0.0, 100)
    saved, tx = optax.sgd(0.1).init(params), L.chain(L.clip(L.constant_schedule(1.0)), L.sgd(plan))
    found = L.migrate_state(saved, tx, params, updates=40)
    _, state = tx.update(params, found.state, params)
    assert found.carried == {"0/step": "updates", "1/1/step": "updates"}
    assert L.get_learning_rate(state) == plan(40) and state[0].step == 41
    counted = optax.adam(plan).init(params)  # a state that counts is right
    assert L.migrate_state(counted, L.adam(plan), params, updates=40).state[1].step == 0
    for updates in (-1, 1.5, True):
        with pytest.raises(ValueError, match="migrate_state: `updates` must be a whole number >= 0, or None"):
            L.migrate_state(saved, tx, params, updates=updates)
