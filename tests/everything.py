"""Every public transformation once, as the example of its docstring is, for tests that hold for all of them."""

import dataclasses
import re
from types import ModuleType

import jax
import jax.numpy as jnp

import lrjax as L
from lrjax.catalogue import example, public_values
from tests.transforms.cases import ADAM, CASES, Case

PUBLIC = {name: x for name in dir(L) if not name.startswith("_") and not isinstance(x := getattr(L, name), ModuleType)}
CLASSES = {name: cls for name, cls in public_values(vars(L)).items() if issubclass(cls, L.GradientTransformation)}
NEW_TREE = ("measured", "measure_with_ema", "lookahead")  # their updates are another tree than the parameters


def by_default(tx):
    """The transformation with the defaults of all arguments that have one, but for the learning rate."""
    defaults = {
        f.name: f.default
        for f in dataclasses.fields(tx)
        if f.default is not dataclasses.MISSING and f.name != "learning_rate"
    }
    return dataclasses.replace(tx, **defaults)


EVERYTHING = {name: CASES[name].made or by_default(example(cls)) for name, cls in CLASSES.items() if name in CASES}
EVERYTHING["scheduled"] = L.adam(0.1, b1=L.linear_schedule(0.9, 0.8, 10))
EVERYTHING["adafactor, factored"] = L.adafactor(0.1, min_dim_size_to_factor=2, momentum=0.9)
EVERYTHING["MultiSteps, skipping"] = L.MultiSteps(ADAM, 2, should_skip_update_fn=L.skip_not_finite)


def params_of(name, params):
    """What the transformation takes as its parameters."""
    return L.LookaheadParams.init_synced(params) if name == "lookahead" else params


def for_matrices(name, tx):
    """The transformation, shown matrices alone if it takes no others."""
    matrices = lambda params: jax.tree.map(lambda p: jnp.ndim(p) == 2, params)
    return L.masked(tx, matrices) if name in CASES and CASES[name].matrices else tx


def loss(params):
    """A loss whose second derivative depends on the parameters."""
    numbers = [p for p in jax.tree.leaves(params) if jnp.issubdtype(p.dtype, jnp.inexact)]
    return sum((jnp.sum(p**2 + p**4) for p in numbers), jnp.zeros(()))


def extra_args(name, loss=loss):
    """What the transformation takes besides."""
    needs = CASES[name].needs if name in CASES else ""
    return {"": {}, "obj_fn": {"obj_fn": loss}, "value": {"value": jnp.float32(2.0)}}[needs]


def configurations(name):
    """The transformation of that name, then with each of its other branches: flags, choices, dtypes, None, masks, and
    all its numbers from schedules. They come from the arguments' domains, so that a new transformation has them too."""
    tx = EVERYTHING[name]
    yield name, tx
    for argument, other in _other_values(tx):
        if (argument, other) not in CASES.get(name, Case()).without:
            label = getattr(other, "__name__", other)
            yield f"{name}, {argument}={label}", dataclasses.replace(tx, **{argument: other})
    if scheduled := {a: x for a, x in _floats(tx) if (a, "scheduled") not in CASES.get(name, Case()).without}:
        yield (
            f"{name}, scheduled",
            dataclasses.replace(tx, **{a: L.linear_schedule(x, x / 2, 8) for a, x in scheduled.items()}),
        )


def _floats(tx):
    return [(a, x) for a, x in vars(tx).items() if type(x) is float and type(tx)._domains[a].schedulable]


def _other_values(tx):
    for argument, domain in type(tx)._domains.items():
        x, words = vars(tx)[argument], domain.description
        if words.startswith("True or False"):
            yield argument, not x
        elif words.startswith("one of"):
            yield from ((argument, other) for other in re.findall(r"'(.+?)'", words) if other != x)
        elif "dtype" in words:
            yield argument, "bfloat16"
        elif "bools" in words:
            yield argument, decay_matrices
        elif "or None" in words and x is not None:
            yield argument, None
        elif "or None" in words and ("number of steps" in words or "number" in words):
            yield argument, 2 if "steps" in words else 0.5


def decay_matrices(params):
    return jax.tree.map(lambda p: jnp.ndim(p) > 1, params)


CONFIGURATIONS = {key: (name, tx) for name in EVERYTHING for key, tx in configurations(name)}
CONFIGURATIONS |= {
    f"{name}, numbers {i}": (name, tx)
    for name, case in CASES.items()
    if name in EVERYTHING and not isinstance(case.numbers, str)
    for i, tx in enumerate(case.numbers)
}
