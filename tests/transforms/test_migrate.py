"""States of older versions go on with this one.

`states_0_1.json` was written by lrjax 0.1.0: by name, the expression of an optimizer, parameters after three updates,
the state (as `flax.serialization.to_state_dict` makes it, and pickled), and the updates that came next.
"""

import base64
import json
import pickle
from pathlib import Path

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
import pytest

import lrjax as L

SAVED = json.loads((Path(__file__).parent / "states_0_1.json").read_text())
PICKLED = [name for name, saved in SAVED.items() if "pickle" in saved]
GO_ON = [name for name in SAVED if name != "injected schedule"]


def _arrays(x):
    if isinstance(x, dict):
        return {name: _arrays(child) for name, child in x.items()}
    dtype, shape, numbers = x
    return np.array(numbers, dtype).reshape(shape)


def _of(name):
    """The optimizer, the parameters, and the state as it was saved."""
    return eval(SAVED[name]["tx"], {"L": L}), _arrays(SAVED[name]["params"]), _arrays(SAVED[name]["state"])


def _assert_goes_on(name, state):
    tx, params, _ = _of(name)
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(params))
    updates, _ = tx.update(jax.tree.map(lambda p: p / np.float32(2), params), state, params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7), updates, _arrays(SAVED[name]["updates"])
    )


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", GO_ON)
def test_a_plain_state_of_0_1_goes_on(name):
    tx, params, state = _of(name)
    _assert_goes_on(name, L.migrate_state(state, tx, params, version=1, strict=True).state)


@pytest.mark.parametrize("name", PICKLED)
def test_a_pickled_state_of_0_1_goes_on(name):
    tx, params, _ = _of(name)
    state = pickle.loads(base64.b64decode(SAVED[name]["pickle"]))
    _assert_goes_on(name, L.migrate_state(state, tx, params, version=1, strict=True).state)


def test_the_saved_numbers_are_in_it():
    tx, params, state = _of("adamw")
    clip, (adam, decay, rate) = L.migrate_state(state, tx, params, version=1).state
    assert isinstance(clip, L.EmptyState) and isinstance(decay, L.EmptyState)
    assert int(adam.count) == int(rate.step) == 3
    np.testing.assert_array_equal(adam.mu["w"], state["1"]["0"]["mu"]["w"])


def test_a_state_of_0_1_goes_on_with_a_changed_optimizer():
    tx, params, state = _of("adamw")
    changed = L.MultiSteps(L.chain(tx, L.ema_params(0.9)), 1)
    found = L.migrate_state(state, changed, params, version=1)
    assert not found.unused and int(found.state.gradient_step) == 3
    updates, _ = changed.update(jax.tree.map(lambda p: p / np.float32(2), params), found.state, params)
    expected = _arrays(SAVED["adamw"]["updates"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7), updates, expected)


def test_numbers_of_a_schedule_inside_of_an_injection_are_refused():
    tx, params, state = _of("injected schedule")
    words = r"`hyperparams/learning_rate`: not saved.*`hyperparams/learning_rate.end_value`: saved"
    with pytest.raises(ValueError, match=words):
        L.migrate_state(state, tx, params, version=1, strict=True)


PRESENT = [
    L.chain(L.clip(1.0), L.adamw(L.cosine_decay_schedule(0.1, 10))),
    L.muon(0.1),
    L.inject_hyperparams(L.sgd)(L.linear_schedule(0.1, 0.0, 10), momentum=0.9),
    L.adam(0.1, b1=L.linear_schedule(0.9, 0.8, 10)),
    L.partition({"a": L.sgd(0.1), "f": L.set_to_zero()}, {"w": "a", "b": "f"}),
    L.MultiSteps(L.adafactor(0.1), 2),
    L.packed(L.adamw(0.1)),
    L.sm3(0.1),
]


def _as_orbax_restores(state, folder):
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "state", state)
        checkpointer.wait_until_finished()
        return checkpointer.restore(folder / "state")


@pytest.mark.sampled(4)
@pytest.mark.parametrize("tx", PRESENT, ids=lambda tx: type(tx).__name__)
def test_a_state_of_this_version_comes_back_from_every_form(tx, tmp_path):
    params = {"w": jnp.linspace(0.0, 1.0, 6).reshape(2, 3), "b": jnp.ones(3)}
    _, state = tx.update(params, tx.init(params), params)
    for form in (state, flax.serialization.to_state_dict(state), _as_orbax_restores(state, tmp_path)):
        back = L.migrate_state(form, tx, jax.eval_shape(lambda: params), strict=True).state
        assert jax.tree.structure(back) == jax.tree.structure(state)
        jax.tree.map(np.testing.assert_array_equal, back, state)


def test_an_array_is_not_copied():
    tx, params = L.adam(0.1), jnp.ones(3)
    state = tx.init(params)
    back = L.migrate_state(state, tx, params).state
    taken = jax.tree.map(lambda a, b: a is b, back, state)
    assert all(taken[0]) and taken[1][:3] == (True, True, True)  # all but the constant rate, which is the optimizer's


@pytest.mark.parametrize(
    ("tx", "params", "words"),
    [
        (L.adam(0.1), {"w": jnp.ones(4)}, r"`0/mu/w`: must be float32\[4\], got float32\[3\]; `0/nu/w`: must"),
        (L.adam(0.1), {"w": jnp.ones(3, jnp.complex64)}, r"`0/mu/w`: must be complex64\[3\], got float32\[3\]"),
        (
            L.adam(0.1),
            {"v": jnp.ones(3)},
            "`0/mu/v`: not saved.*; `0/count`: saved, but has no place now",
        ),
        (L.sgd(0.1), {"w": jnp.ones(3)}, "`0/count`: saved, but has no place now"),
        (L.chain(L.adam(0.1), L.trace(0.9)), {"w": jnp.ones(3)}, "`1/trace/w`: not saved"),
        (L.adam(0.1), {"w": {str(i): jnp.ones(3) for i in range(9)}}, "; and 17 more"),
    ],
)
def test_another_optimizers_state_is_refused_if_strict_with_what_differs(tx, params, words):
    state = L.adam(0.1).init({"w": jnp.ones(3)})
    with pytest.raises(ValueError, match=f"migrate_state: `state` must be one of `tx` for these `params`: .*{words}"):
        L.migrate_state(state, tx, params, strict=True)


def test_what_is_no_array_is_refused():
    with pytest.raises(ValueError, match="`state` must have arrays, got str at `count`"):
        L.migrate_state({"count": "3", "mu": 1.0, "nu": None}, L.scale_by_adam(), jnp.ones(3))


@pytest.mark.parametrize("version", [0, L.state_version + 1, "2", None, True])
def test_a_version_that_is_not_known_is_refused(version):
    with pytest.raises(ValueError, match=f"`version` must be a whole number from 1 to {L.state_version}"):
        L.migrate_state(L.EmptyState(), L.identity(), jnp.ones(3), version)


def test_a_rate_of_0_2_gets_its_constant():
    tx, params = L.adam(0.1), jnp.ones(3)
    plain = flax.serialization.to_state_dict(tx.init(params))
    del plain["1"]["constant"]
    state = L.migrate_state(plain, tx, jax.eval_shape(lambda: params), version=2, strict=True).state
    assert float(L.get_learning_rate(L.set_learning_rate(state, 0.25))) == 0.25
