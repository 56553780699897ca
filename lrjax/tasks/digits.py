"""Digits: 1,797 handwritten digits of 8×8 pixels in ten classes (scikit-learn's `digits`)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.tasks.base import load, mlp, mlp_init, split, standardised
from lrjax.training.task import Task


def digits() -> Task:
    """Makes a classification task with two hidden layers."""
    data = load("digits")
    (x, y), (x_test, y_test) = split(data.data, data.target.astype(np.int32))
    x, x_test = standardised(x, x_test)
    return Task(
        _cross_entropy,
        mlp_init((64, 64, 32, 10)),
        (x, y),
        batch_size=64,
        metrics={"accuracy": (_accuracy, "max")},
        validation=(x_test, y_test),
        steps=400,
        name="digits",
        description="1,797 handwritten digits, 8×8 pixels, ten classes; a 64-64-32-10 ReLU network, batches of 64",
    )


def _cross_entropy(params: Any, batch: Any) -> jax.Array:
    x, y = batch
    log_p = jax.nn.log_softmax(mlp(params, x))
    # a product with one-hot labels: the gradient of indexing is a scatter, slow to compile and to run
    return -jnp.mean(jnp.sum(jax.nn.one_hot(y, 10) * log_p, axis=1))


def _accuracy(params: Any, batch: Any) -> jax.Array:
    x, y = batch
    return jnp.mean((jnp.argmax(mlp(params, x), axis=1) == y).astype(x.dtype))
