"""Diabetes: how far the disease went in a year, for 442 patients, from ten measurements (scikit-learn's `diabetes`)."""

from typing import Any

import jax
import jax.numpy as jnp

from lrjax.tasks.base import Task, load, mlp, mlp_init, split, standardised


def diabetes() -> Task:
    """A regression with one hidden layer."""
    data = load("diabetes")
    (x, y), (x_test, y_test) = split(data.data, data.target)
    x, x_test = standardised(x, x_test)
    y, y_test = standardised(y, y_test)
    return Task(
        name="diabetes",
        description="442 patients, ten measurements, standardised; a 10-16-1 ReLU network, batches of 32",
        init=mlp_init((10, 16, 1)),
        loss_fn=_squared_error,
        metric_fn=_r2,
        metric="R²",
        percent=False,
        target=0.3,
        train=(x, y),
        test=(x_test, y_test),
        batch_size=32,
        rate=0.005,
        adaptive_rates={"adagrad": 0.05, "rmsprop": 0.003, "adam": 0.005},
    )


def _squared_error(params: Any, batch: Any) -> jax.Array:
    x, y = batch
    return jnp.mean((mlp(params, x)[:, 0] - y) ** 2)


def _r2(params: Any, batch: Any) -> jax.Array:
    """The share of the variance that is explained: 1 is perfect, 0 no better than the mean."""
    return 1 - _squared_error(params, batch) / jnp.var(batch[1])
