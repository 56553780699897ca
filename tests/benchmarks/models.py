"""Small models of many kinds on real data, to find rates for."""

import argparse
import ast
import inspect
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.tasks.base import mlp, mlp_init
from lrjax.tasks.diabetes import diabetes
from lrjax.tasks.digits import digits

WINDOW = 32  # characters that a model of text sees
LETTERS = 96  # printable ASCII, and one for all others


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1))


def text() -> np.ndarray:
    """[windows, WINDOW + 1]: the source of some modules of Python, as numbers."""
    letters = "".join(inspect.getsource(module) for module in (argparse, ast, inspect, json))
    codes = np.frombuffer(letters.encode(), np.uint8).astype(np.int32) - 32
    codes = np.where((codes >= 0) & (codes < LETTERS - 1), codes, LETTERS - 1)
    return codes[: len(codes) // (WINDOW + 1) * (WINDOW + 1)].reshape(-1, WINDOW + 1)


def matrices(key: jax.Array, shapes: dict[str, tuple[int, ...]]) -> dict[str, jax.Array]:
    """Normal, with the variance of the outputs that of the inputs."""
    keys = jax.random.split(key, len(shapes))
    scale = lambda shape: np.prod(shape[:-1]) ** -0.5
    return {name: jax.random.normal(k, s) * scale(s) for k, (name, s) in zip(keys, shapes.items(), strict=True)}


def cnn_init(key: jax.Array) -> Any:
    return matrices(key, {"first": (3, 3, 1, 8), "second": (3, 3, 8, 16), "out": (64, 10)})


def cnn(params: Any, x: jax.Array) -> jax.Array:
    x = x.reshape(-1, 8, 8, 1)
    for name in ("first", "second"):
        layout = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, params[name], (2, 2), "SAME", dimension_numbers=layout)
        x = jax.nn.relu(x)
    return x.reshape(len(x), -1) @ params["out"]


def rnn_init(key: jax.Array) -> Any:
    return matrices(key, {"inward": (LETTERS, 32), "across": (32, 32), "out": (32, LETTERS)})


def rnn(params: Any, letters: jax.Array) -> jax.Array:
    def step(h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = jnp.tanh(x + h @ params["across"])
        return h, h

    inward = (params["inward"] * LETTERS**0.5)[letters.T]
    _, hidden = jax.lax.scan(step, jnp.zeros((len(letters), 32)), inward)
    return hidden.transpose(1, 0, 2) @ params["out"]


def transformer_init(key: jax.Array) -> Any:
    sizes = {"embed": (LETTERS, 32), "place": (WINDOW, 32), "qkv": (2, 32, 96), "mix": (2, 32, 32)}
    shapes = sizes | {"up": (2, 32, 64), "down": (2, 64, 32), "out": (32, LETTERS)}
    return matrices(key, shapes)


def transformer(params: Any, letters: jax.Array) -> jax.Array:
    """Two layers with one head each."""
    normed = lambda h: h * jax.lax.rsqrt(jnp.mean(h**2, axis=-1, keepdims=True) + 1e-6)
    past = jnp.tril(jnp.ones((WINDOW, WINDOW), bool))[None]
    h = (params["embed"] * LETTERS**0.5)[letters] + params["place"][None]
    for layer in range(2):
        qkv, mix, up, down = (params[name][layer] for name in ("qkv", "mix", "up", "down"))
        q, k, v = jnp.split(normed(h) @ qkv, 3, axis=-1)
        scores = jnp.where(past, q @ k.transpose(0, 2, 1) * 32**-0.5, -1e9)
        h = h + jax.nn.softmax(scores) @ v @ mix
        h = h + jax.nn.gelu(normed(h) @ up) @ down
    return normed(h) @ params["out"]


def tasks() -> dict[str, tuple[Any, Any, Any]]:
    """By name (init, loss_fn, examples)."""
    pictures, patients, windows = digits().data, diabetes(), text()

    def classifier(init: Any, model: Callable[[Any, jax.Array], jax.Array]) -> tuple[Any, Any, Any]:
        return init, lambda params, batch: cross_entropy(model(params, batch[0]), batch[1]), pictures

    def of_text(init: Any, model: Callable[[Any, jax.Array], jax.Array]) -> tuple[Any, Any, Any]:
        return init, lambda params, batch: cross_entropy(model(params, batch[:, :-1]), batch[:, 1:]), windows

    return {
        "linear": classifier(mlp_init((64, 10)), mlp),
        "linear regression": (mlp_init((10, 1)), patients.loss_fn, patients.data),
        "regression": (patients.init, patients.loss_fn, patients.data),
        "shallow": classifier(mlp_init((64, 64, 10)), mlp),
        "deep": classifier(mlp_init((64, 32, 32, 32, 32, 32, 10)), mlp),
        "convolution": classifier(cnn_init, cnn),
        "recurrent, text": of_text(rnn_init, rnn),
        "transformer, text": of_text(transformer_init, transformer),
    }
