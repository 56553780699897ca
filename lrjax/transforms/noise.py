"""Gradient noise."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.domains import Domain, NonNegative, NotInDomain, Number
from lrjax.numerics import Array, safe_increment
from lrjax.transforms.base import transformation
from lrjax.transforms.elementwise import cast_like, inexact_dtype, is_none, map_updates


class AddNoiseState(NamedTuple):
    count: Array  # int32 (): updates so far
    rng_key: Array  # uint32 (2,): random key of the next noise


def _seed(x: Any) -> Any:
    if isinstance(x, (int, np.integer)) and not isinstance(x, bool):
        return int(x)
    if isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer):
        data = jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        if data.dtype == jnp.uint32 and data.ndim == 1:
            return tuple(map(int, data))
    if isinstance(x, (tuple, list)) and x and all(isinstance(n, int) for n in x):
        return tuple(x)
    raise NotInDomain


Key = Annotated[Any, Domain("a whole number (a seed) or a random key", _seed, static=True)]


def random_key(seed: Any) -> jax.Array:
    """Returns the key as plain uint32 numbers, which every checkpoint format can store."""
    return jax.random.PRNGKey(seed) if isinstance(seed, int) else jnp.asarray(seed, jnp.uint32)


@transformation(lambda params, tx: AddNoiseState(jnp.zeros([], jnp.int32), random_key(tx.key)))
def add_noise(updates: Any, state: Any, params: Any, eta: NonNegative, gamma: Number, key: Key = 0):
    """Adds Gaussian noise whose variance decays with the steps.

    u = g + 𝒩(0, eta/tᵞ), γ = gamma

    State: `AddNoiseState(count, rng_key)`; for different noise in each run, set its `key`, or replace `rng_key`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.add_noise(eta=0.0, gamma=0.55, key=42)
    >>> tx.update(jnp.array([1.0]), tx.init(jnp.zeros(1)))[0]
    Array([1.], dtype=float32)

    Source: Neelakantan et al. 2015, Adding Gradient Noise Improves Learning for Very Deep Networks, arXiv:1511.06807,
    eq. 1.
    """
    count = safe_increment(state.count)
    deviation = jnp.sqrt(eta / count.astype(eta.dtype) ** gamma)
    rng_key, key = jax.random.split(state.rng_key)
    leaves, treedef = jax.tree.flatten(updates, is_leaf=is_none)
    keys = jax.random.split(key, max(len(leaves), 1))
    draw = lambda k, g: None if g is None else jax.random.normal(k, jnp.shape(g), inexact_dtype(jnp.result_type(g)))
    noise = treedef.unflatten([draw(k, g) for k, g in zip(keys, leaves, strict=False)])
    return map_updates(lambda g, n: g + cast_like(deviation, g) * n, updates, noise), AddNoiseState(count, rng_key)
