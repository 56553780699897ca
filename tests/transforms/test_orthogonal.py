"""Muon's dimension numbers and its orthogonalisation, beside Optax's."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import _muon

import lrjax as L

RNG = np.random.default_rng(0)
make = lambda *shape: jnp.asarray(RNG.normal(size=shape), jnp.float32)
PARAMS = {"attention": {"q": make(4, 2, 3), "k": make(4, 2, 3)}, "w": make(4, 3), "b": make(3)}
GRADS = [jax.tree.map(lambda p: make(*p.shape), PARAMS) for _ in range(3)]


def tree(numbers, **others):
    return {"attention": {"q": numbers, "k": numbers}, "w": numbers and numbers._replace(output_axis=1), "b": None}


TREES = {
    "tree": lambda n: tree(n(reduction_axis=0, output_axis=(1, 2))),
    "lists": lambda n: tree(n(reduction_axis=[0], output_axis=[1, 2])),
    "prefix": lambda n: {"attention": n(reduction_axis=0, output_axis=2), "w": n(), "b": None},
    "nones": lambda n: {"attention": None, "w": n(1, 0), "b": None},
}


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.promotes
@pytest.mark.parametrize("made", TREES.values(), ids=TREES)
def test_a_tree_of_dimension_numbers_agrees_with_optax(made):
    numbers = made(L.MuonDimensionNumbers)
    ours = L.muon(0.1, muon_weight_dimension_numbers=numbers, consistent_rms=0.2)
    theirs = optax.contrib.muon(
        0.1, muon_weight_dimension_numbers=made(optax.contrib.MuonDimensionNumbers), consistent_rms=0.2
    )
    states = [tx.init(PARAMS) for tx in (ours, theirs)]
    for g in GRADS:
        u, states[0] = ours.update(g, states[0], PARAMS)
        expected, states[1] = theirs.update(g, states[1], PARAMS)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), u, expected)
    assert ours == L.muon(0.1, muon_weight_dimension_numbers=numbers, consistent_rms=0.2)
    assert hash(ours) == hash(pickle.loads(pickle.dumps(ours)))
    jitted, _ = jax.jit(lambda tx, g: tx.update(g, tx.init(PARAMS), PARAMS))(ours, GRADS[0])
    jax.tree.map(np.testing.assert_allclose, jax.tree.map(jnp.shape, jitted), jax.tree.map(jnp.shape, PARAMS))


def test_a_tree_of_something_else_is_refused():
    with pytest.raises(ValueError, match="muon: `muon_weight_dimension_numbers` must be MuonDimensionNumbers, a tree"):
        L.muon(0.1, muon_weight_dimension_numbers={"w": 1})


@pytest.mark.sampled(8)
@pytest.mark.promotes
@pytest.mark.parametrize("preconditioning", ["frobenius", "spectral", "aol", "schatten"])
@pytest.mark.parametrize("coefficients", [(3.4445, -4.7750, 2.0315), ((3.5, -4.0, 2.0), (2.8, -3.0, 1.2))], ids=len)
def test_the_orthogonalisation_agrees_with_optax(preconditioning, coefficients):
    numbers = {"reduction_axis": 0, "output_axis": (1, 2)}
    for shape, given in (((4, 3), None), ((3, 5), None), ((4, 2, 3), numbers)):
        x, c = make(*shape), jnp.asarray(coefficients)
        ours = given and L.MuonDimensionNumbers(**given)
        theirs = given and optax.contrib.MuonDimensionNumbers(**given)
        got = L.orthogonalize_via_newton_schulz(x, c, 4, preconditioning, 1e-8, ours)
        expected = _muon.orthogonalize_via_newton_schulz(x, c, 4, preconditioning, 1e-8, theirs)
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


def test_bad_arguments_of_the_orthogonalisation_are_named():
    c = jnp.ones(3)
    with pytest.raises(ValueError, match="`dimension_numbers` must be given"):
        L.orthogonalize_via_newton_schulz(jnp.ones(3), c)
    with pytest.raises(ValueError, match="`ns_coeffs` must have the shape"):
        L.orthogonalize_via_newton_schulz(jnp.ones((2, 2)), jnp.ones(2))
    with pytest.raises(ValueError, match="`preconditioning` must be one of"):
        L.orthogonalize_via_newton_schulz(jnp.ones((2, 2)), c, preconditioning="none")


@pytest.mark.sampled(4)
@pytest.mark.promotes
@pytest.mark.parametrize("shape", [(), (3,), (1, 3), (2, 3), (2, 3, 4), (2, 3, 1, 2), (2, 2, 2, 2, 2)], ids=str)
def test_unitwise_norm_agrees_with_optax(shape):
    x = make(*shape)
    np.testing.assert_allclose(L.unitwise_norm(x), optax.transforms.unitwise_norm(x), rtol=1e-6)
    if x.ndim > 1:
        np.testing.assert_allclose(L.unitwise_norm(x, 1), optax.transforms.unitwise_norm(x, 1), rtol=1e-6)
