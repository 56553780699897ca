"""Diabetes: its progression in a year, for 442 patients, from ten measurements (scikit-learn's `diabetes`)."""

from typing import Any

import jax
import jax.numpy as jnp

from lrjax.tasks.base import load, mlp, mlp_init, split, standardised
from lrjax.training.task import Task


def diabetes() -> Task:
    """Makes a regression task with one hidden layer."""
    data = load("diabetes")
    (x, y), (x_test, y_test) = split(data.data, data.target)
    x, x_test = standardised(x, x_test)
    y, y_test = standardised(y, y_test)
    return Task(
        _squared_error,
        mlp_init((10, 16, 1)),
        (x, y),
        batch_size=32,
        metrics={"R²": (_r2, "max")},
        validation=(x_test, y_test),
        steps=400,
        name="diabetes",
        description="442 patients, ten measurements, standardised; a 10-16-1 ReLU network, batches of 32",
    )


def _squared_error(params: Any, batch: Any) -> jax.Array:
    x, y = batch
    return jnp.mean((mlp(params, x)[:, 0] - y) ** 2)


def _r2(params: Any, batch: Any) -> jax.Array:
    """Computes the fraction of the variance that is explained: 1 is perfect, 0 no better than the mean."""
    return 1 - _squared_error(params, batch) / jnp.var(batch[1])
