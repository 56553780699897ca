"""The network and the data loading that built-in tasks share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def mlp_init(sizes: tuple[int, ...]) -> Callable[[jax.Array], Any]:
    """Returns the He initialisation of a fully connected network: a list of {w, b}."""
    shapes = list(zip(sizes, sizes[1:], strict=False))

    def init(key: jax.Array) -> Any:
        normal = jax.random.normal(key, (sum(m * n for m, n in shapes),))  # one draw compiles faster than one a layer
        layers, start = [], 0
        for m, n in shapes:
            w = normal[start : start + m * n].reshape(m, n) * (2 / m) ** 0.5
            layers.append({"w": w, "b": jnp.zeros(n)})
            start += m * n
        return layers

    return init


def mlp(params: Any, x: jax.Array) -> jax.Array:
    """Applies a fully connected network with ReLU."""
    *hidden, last = params
    for layer in hidden:
        x = jax.nn.relu(x @ layer["w"] + layer["b"][None])
    return x @ last["w"] + last["b"][None]


def load(name: str) -> Any:
    """Loads a data set that scikit-learn ships."""
    try:
        from sklearn import datasets
    except ImportError:
        raise ImportError(f"the task {name!r} needs scikit-learn: pip install 'lrjax[demo]'") from None
    return getattr(datasets, f"load_{name}")()


def split(x: np.ndarray, y: np.ndarray, test_share: float = 0.2) -> tuple[Any, Any]:
    """Shuffles examples in a fixed order and splits them into (train, test)."""
    order = np.random.default_rng(0).permutation(len(x))
    cut = round(len(x) * (1 - test_share))
    train, test = order[:cut], order[cut:]
    return (x[train], y[train]), (x[test], y[test])


def standardised(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standardises both parts with the mean and the standard deviation of the first; constant features become 0."""
    mean, std = train.mean(axis=0), train.std(axis=0)
    scale = np.where(std > 0, 1 / np.where(std > 0, std, 1), 0)
    return ((train - mean) * scale).astype(np.float32), ((test - mean) * scale).astype(np.float32)
