"""Every argument of every public transformation and schedule with every kind of bad value: an error that names it, or a
value that works."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrjax as L
from lrjax.catalogue import example, public_values
from tests.everything import EVERYTHING, extra_args, for_matrices, params_of

pytestmark = pytest.mark.usefixtures("quick_compilation")
CLASSES = public_values(vars(L))
BAD = {
    "nan": math.nan,
    "inf": math.inf,
    "-1": -1,
    "0": 0,
    "None": None,
    "True": True,
    "string": "nonsense",
    "array": np.ones(3),
    "array of a nan": np.array([0.5, math.nan]),
    "scalar array of nan": jnp.array(math.nan),
    "complex": 1j,
    "object": object(),
    "2": 2,
    "empty list": [],
    "empty dict": {},
}
# finite numbers that are in the domain, but with which the formula grows past the largest float, as it has to
DIVERGES = {
    ("muon", "ns_coeffs", "array"): "with (1, 1, 1) the iteration is x ← x + x³ + x⁵",
    ("scale_by_muon", "ns_coeffs", "array"): "with (1, 1, 1) the iteration is x ← x + x³ + x⁵",
}
# not given by a caller but sorted by `inject_hyperparams`
SORTED = {("injected", kind) for kind in ("numbers", "schedules", "trees", "stateful", "static")}
PARAMS = {"w": jnp.full((3, 2), 0.5), "v": -jnp.ones((2, 3)), "b": jnp.ones(2), "s": jnp.ones(())}
GRADS = jax.tree.map(lambda p: 0.1 * p, PARAMS)


def is_finite(tree):
    return all(np.isfinite(x).all() for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact))


def use(name, value):
    """The results of a schedule, or of a transformation's first updates."""
    if isinstance(value, L.Schedule):
        return [value(step) for step in (0, 1, 7, 2**31 - 1)]
    tx, params = for_matrices(name, value), params_of(name, PARAMS)
    state, results = tx.init(params), []
    for _ in range(2):
        updates, state = tx.update(GRADS, state, params, **extra_args(name))
        results.append(updates)
    return results, state


def bases():
    for name, cls in CLASSES.items():
        if (base := EVERYTHING.get(name) or example(cls)) is not None and (
            name in EVERYTHING or isinstance(base, L.Schedule)
        ):
            yield name, base


BASES = dict(bases())


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", BASES)
def test_a_bad_argument_is_named_or_works(name):
    base = BASES[name]
    for field in (f for f in dataclasses.fields(base) if (name, f.name) not in SORTED):
        for kind, bad in BAD.items():
            try:
                value = (
                    type(base)(bad) if base._variadic == field.name else dataclasses.replace(base, **{field.name: bad})
                )
                results = use(name, value)
            except (ValueError, TypeError) as error:
                # a condition on two arguments names the other one first; what only an inner transformation can find is
                # wrong, such as a mask of another structure, has the name that it has there
                own, inner = field.name, "mask|weight_dimension_numbers|param_labels"
                named = rf"^\w+: `({own}|{inner})` must |: `\w+` must .*\(here .*{own}=|`{own}` is a batch of shape"
                assert re.search(named, str(error)), (field.name, kind, error)
                continue
            assert is_finite(results) or (name, field.name, kind) in DIVERGES, (field.name, kind, results)
