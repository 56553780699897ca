"""The parameters that the benchmarks update."""

from typing import Any

import jax
import jax.numpy as jnp


def small() -> Any:
    """20 arrays of 64×64."""
    return {f"layer{i}": jnp.ones((64, 64)) for i in range(20)}


def one_array() -> Any:
    return {"w": jnp.ones(10_000_000)}


def transformer(layers: int = 12, width: int = 256) -> Any:
    """The shapes of a Transformer: 12 arrays in each of 12 layers, about 10 million numbers."""
    shapes = dict.fromkeys(["query", "key", "value", "out"], (width, width))
    shapes |= {"up": (width, 4 * width), "up_bias": (4 * width,), "down": (4 * width, width)}
    shapes |= dict.fromkeys(["down_bias", "norm1_scale", "norm1_bias", "norm2_scale", "norm2_bias"], (width,))
    return {f"layer{i}": {name: jnp.ones(shape) for name, shape in shapes.items()} for i in range(layers)}


def narrow() -> Any:
    """The same arrays, of about 0.6 million numbers: what an update costs beside its arithmetic."""
    return transformer(width=64)


def thousand() -> Any:
    return {f"p{i}": jnp.ones(64) for i in range(1000)}


def gradients(params: Any) -> Any:
    """Normal numbers of the size of gradients."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    return structure.unflatten([0.1 * jax.random.normal(k, p.shape) for k, p in zip(keys, leaves, strict=True)])
