"""Diabetes: how far the disease went in a year, for 442 patients, from ten measurements (scikit-learn's `diabetes`)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.tasks.base import Task, load, mlp, mlp_init, split


def diabetes() -> Task:
    """A regression with one hidden layer."""
    data = load("diabetes")
    x, y = data.data, data.target
    x, y = (x - x.mean(axis=0)) / x.std(axis=0), (y - y.mean()) / y.std()
    train, test = split(x.astype(np.float32), y.astype(np.float32))
    return Task(
        name="diabetes",
        description="442 patients, ten measurements, standardised; a 10-16-1 ReLU network, batches of 32",
        init=mlp_init((10, 16, 1)),
        loss_fn=_squared_error,
        metric_fn=_r2,
        metric="R²",
        percent=False,
        target=0.3,
        train=train,
        test=test,
        batch_size=32,
        rate=0.01,
        adaptive_rates={"adagrad": 0.05, "rmsprop": 0.003, "adam": 0.005},
    )


def _squared_error(params: Any, batch: Any) -> jax.Array:
    x, y = batch
    return jnp.mean((mlp(params, x)[:, 0] - y) ** 2)


def _r2(params: Any, batch: Any) -> jax.Array:
    return 1 - _squared_error(params, batch) / jnp.var(batch[1])
