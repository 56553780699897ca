"""Small trees and functions that the tests share."""

import jax
import jax.numpy as jnp
import numpy as np


def nested_params(dtype="float32"):
    """A nested tree with a matrix, a vector and a scalar."""
    rng = np.random.default_rng(0)

    def make(*shape):
        x = rng.normal(size=shape)
        if jnp.issubdtype(jnp.dtype(dtype), jnp.complexfloating):
            x = x + 1j * rng.normal(size=shape)
        return jnp.asarray(x, dtype)

    return {"layers": [{"w": make(4, 3)}, {"b": make(3)}], "scale": make()}


def gradients(params, n=100, seed=1):
    """`n` random trees like the parameters."""
    rng = np.random.default_rng(seed)

    def make(p):
        x = rng.normal(size=p.shape)
        if jnp.iscomplexobj(p):
            x = x + 1j * rng.normal(size=p.shape)
        return np.asarray(x, p.dtype)

    return [jax.tree.map(make, params) for _ in range(n)]


def parabola(x):
    return jnp.sum((x - 3.0) ** 2)


def rosenbrock(x):
    return jnp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)
