"""What holds for every composition of transformations, on every tree of parameters, at every step."""

from typing import NamedTuple

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

import lrjax as L
from lrjax.domains import MAX_STEPS
from tests.everything import decay_matrices
from tests.transforms.test_stress import assert_finite, assert_same

pytestmark = pytest.mark.usefixtures("quick_compilation")

SHAPES = [(), (1,), (2,), (2, 3), (0,), (0, 3), (2, 1, 2)]
DTYPES = ["float32", "float32", "bfloat16", "float16", "int32", "bool"]
SIZES = [0.0, 1e-8, 1e-3, 1.0, 100.0]  # 100² is a float16 too


@st.composite
def leaves(draw):
    """A pair of a parameter and its gradient, which is None for an integer; or None."""
    if draw(st.integers(0, 7)) == 0:
        return None
    shape, dtype = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(DTYPES))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    number = lambda: jnp.asarray(rng.normal(size=shape) * draw(st.sampled_from(SIZES))).astype(dtype)
    return Pair(number(), number() if jnp.issubdtype(dtype, jnp.inexact) else None)


class Pair(NamedTuple):
    param: jax.Array
    grad: jax.Array | None


def is_pair(x):
    return isinstance(x, Pair)


trees = st.recursive(
    leaves(),
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
        st.lists(inner, max_size=2),
        st.tuples(inner, inner, inner),
    ),
    max_leaves=4,
).map(lambda tree: {"all": tree})  # None instead of a tree of parameters would be none at all

decay = st.sampled_from([0.0, 0.5, 0.9, 0.999])
positive = st.sampled_from([1e-3, 0.5, 10.0])
rates = st.one_of(positive, st.builds(L.cosine_decay_schedule, positive, st.sampled_from([1, 100, MAX_STEPS])))
SINGLE = st.one_of(
    st.builds(L.adam, rates, b1=decay, nesterov=st.booleans()),
    st.builds(L.sgd, rates, momentum=st.one_of(st.none(), decay), nesterov=st.booleans()),
    st.builds(L.lion, rates, weight_decay=decay),
    st.builds(L.adafactor, rates, min_dim_size_to_factor=st.sampled_from([1, 128])),
    st.builds(L.scale_by_rms, decay, bias_correction=st.booleans()),
    st.builds(L.clip, positive),
    st.builds(L.clip_by_global_norm, positive),
    st.builds(L.clip_by_block_rms, positive),
    st.builds(L.adaptive_grad_clip, positive),
    st.builds(L.trace, decay, st.booleans()),
    st.builds(L.ema, decay, debias=st.booleans()),
    st.builds(L.add_decayed_weights, rates),
    st.builds(L.scale_by_learning_rate, rates),
    st.builds(L.adamw, rates, weight_decay=decay, mask=st.just(decay_matrices)),
    st.builds(L.lamb, rates),
    st.builds(L.novograd, rates, b1=decay),
    st.builds(L.yogi, rates),
    st.builds(L.radam, rates),
    st.builds(L.adan, rates),
    st.builds(L.madgrad, rates, momentum=decay),
    st.builds(L.fromage, positive),
    st.builds(L.rprop, positive),
    st.builds(L.optimistic_gradient_descent, rates),
    st.builds(L.muon, rates),
    st.builds(L.add_noise, positive, decay),
    st.builds(L.clip_by_history),
    st.builds(L.apply_every, st.sampled_from([1, 3])),
    st.builds(L.scale_by_schedule, rates),
    st.builds(L.scale_by_param_block_rms),
    st.builds(L.swa_params, st.sampled_from([1, MAX_STEPS])),
    st.builds(L.scale_by_trust_ratio),
    st.builds(L.clip_by_zscore),
    st.builds(L.ema_params, decay),
    st.sampled_from(
        [L.centralize(), L.zero_nans(), L.identity(), L.scale_by_sign(), L.scale_by_sm3(), L.set_to_zero()]
    ),
)
WRAPPED = st.recursive(
    SINGLE,
    lambda inner: st.one_of(
        st.builds(L.MultiSteps, inner, st.sampled_from([1, 2])),
        st.builds(L.apply_if_finite, inner),
        st.builds(L.guard, inner, window=st.just(4)),
        st.builds(L.skip_spikes, inner, window=st.just(4)),
        st.builds(L.masked, inner, st.booleans()),
        st.builds(
            lambda tx: L.partition(
                {"a": tx, "b": L.set_to_zero()}, lambda p: jax.tree.map(lambda x: "ab"[x.ndim % 2], p)
            ),
            inner,
        ),
    ),
    max_leaves=1,
)
compositions = st.lists(WRAPPED, min_size=1, max_size=5).map(lambda txs: L.chain(*txs))


def at_step(state, step):
    """The state with every counter at that step."""
    is_counter = lambda x: x.dtype == jnp.int32 and x.shape == ()
    return jax.tree.map(lambda x: jnp.maximum(x, step).astype(jnp.int32) if is_counter(x) else x, state)


def types(tree):
    return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)


def check(tx, tree, step):
    params, grads = (jax.tree.map(lambda pair, i=i: pair[i], tree, is_leaf=is_pair) for i in (0, 1))
    state = tx.init(params)
    assert types(state) == types(jax.eval_shape(tx.init, params))
    for begin in (0, step):
        state = at_step(state, begin)
        jitted = jax.jit(lambda g, s, p: tx.update(g, s, p))(grads, state, params)
        updates, new_state = tx.update(grads, state, params)
        assert_same((updates, new_state), jitted, ulps=2)
        assert types(new_state) == types(state)
        assert types(updates) == types(grads)
        assert_finite((updates, new_state))
        state = new_state
    L.apply_updates(params, updates)


@pytest.mark.slow
@settings(
    deadline=None,
    max_examples=30,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # each example compiles, so that to shrink one takes minutes
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)
@given(compositions, trees, st.one_of(st.integers(0, 100), st.integers(0, MAX_STEPS), st.just(MAX_STEPS)))
def test_finite_stays_finite_and_keeps_its_form(tx, tree, step):
    check(tx, tree, step)
