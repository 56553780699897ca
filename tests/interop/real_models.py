"""A convolutional network on digits and a Transformer on text, in flax.linen, flax.nnx and Equinox, and their tasks."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import lrjax as L
from lrjax.tasks.digits import digits
from lrjax.tasks.text import text

CONTEXT, LETTERS, WIDTH, HEADS, DROPOUT = 24, 96, 32, 2, 0.1


def _images(task):
    return [(np.asarray(x).reshape(-1, 8, 8, 1), np.asarray(y)) for x, y in (task.data, task.validation)]


def _letters(task):
    return [(np.asarray(x)[:, :-1], np.asarray(x)[:, 1:]) for x in (task.data[:700], task.validation[:64])]


DIGITS, DIGITS_TEST = _images(digits())
TEXT, TEXT_TEST = _letters(text())


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def loss_fn(model, batch):
    x, labels = batch
    return cross_entropy(model(x), labels)


def accuracy(model, batch):
    x, labels = batch
    return (model(x).argmax(-1) == labels).mean()


class LinenCNN(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        for features in (8, 16):
            x = nn.BatchNorm(use_running_average=not train)(nn.Conv(features, (3, 3), (2, 2), use_bias=False)(x))
            x = nn.relu(x)
        x = nn.Dropout(DROPOUT, deterministic=not train)(x.reshape(len(x), -1))
        return nn.Dense(10)(x)


class LinenTransformer(nn.Module):
    @nn.compact
    def __call__(self, letters, train):
        dropout = lambda x: nn.Dropout(DROPOUT, deterministic=not train)(x)
        places = self.param("places", nn.initializers.normal(0.02), (CONTEXT, WIDTH))
        x = nn.Embed(LETTERS, WIDTH)(letters) + places
        attention = nn.MultiHeadDotProductAttention(HEADS, dropout_rate=DROPOUT, deterministic=not train)
        x = x + dropout(attention(nn.LayerNorm()(x), mask=nn.make_causal_mask(letters)))
        x = x + dropout(nn.Dense(WIDTH)(nn.gelu(nn.Dense(4 * WIDTH)(nn.LayerNorm()(x)))))
        return nn.Dense(LETTERS)(nn.LayerNorm()(x))


class NnxCNN(nnx.Module):
    def __init__(self, rngs):
        conv = lambda n, m: nnx.Conv(n, m, (3, 3), (2, 2), use_bias=False, rngs=rngs)
        self.first, self.second = conv(1, 8), conv(8, 16)
        self.first_norm, self.second_norm = nnx.BatchNorm(8, rngs=rngs), nnx.BatchNorm(16, rngs=rngs)
        self.dropout, self.out = nnx.Dropout(DROPOUT, rngs=rngs), nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.first_norm(self.first(x)))
        x = nnx.relu(self.second_norm(self.second(x)))
        return self.out(self.dropout(x.reshape(len(x), -1)))


class NnxTransformer(nnx.Module):
    def __init__(self, rngs):
        self.letters, self.places = nnx.Embed(LETTERS, WIDTH, rngs=rngs), nnx.Embed(CONTEXT, WIDTH, rngs=rngs)
        self.norms = nnx.List([nnx.LayerNorm(WIDTH, rngs=rngs) for _ in range(3)])
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, dropout_rate=DROPOUT, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs), nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)
        self.dropout, self.out = nnx.Dropout(DROPOUT, rngs=rngs), nnx.Linear(WIDTH, LETTERS, rngs=rngs)

    def __call__(self, letters):
        x = self.letters(letters) + self.places(jnp.arange(CONTEXT))
        x = x + self.dropout(self.attention(self.norms[0](x), mask=nnx.make_causal_mask(letters)))
        x = x + self.dropout(self.down(nnx.gelu(self.up(self.norms[1](x)))))
        return self.out(self.norms[2](x))


class EquinoxCNN(eqx.Module):
    convs: list
    norms: list
    dropout: eqx.nn.Dropout
    out: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        conv = lambda n, m, key: eqx.nn.Conv2d(n, m, 3, 2, 1, use_bias=False, key=key)
        self.convs = [conv(1, 8, keys[0]), conv(8, 16, keys[1])]
        self.norms = [eqx.nn.BatchNorm(n, "batch", mode="batch") for n in (8, 16)]
        self.dropout, self.out = eqx.nn.Dropout(DROPOUT), eqx.nn.Linear(64, 10, key=keys[2])

    def __call__(self, x, state, key=None):
        x = x.transpose(2, 0, 1)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x, state = norm(conv(x), state)
            x = jax.nn.relu(x)
        return self.out(self.dropout(x.ravel(), key=key)), state


def equinox_cnn_loss(model, state, batch, key):
    x, labels = batch
    apply = jax.vmap(model, axis_name="batch", in_axes=(0, None, 0), out_axes=(0, None))
    logits, state = apply(x, state, jax.random.split(key, len(x)))
    return cross_entropy(logits, labels), state


def equinox_cnn_logits(model, state, x):
    return jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)[0]


def equinox_cnn_accuracy(model, state, batch):
    x, labels = batch
    return (equinox_cnn_logits(model, state, x).argmax(-1) == labels).mean()


class EquinoxTransformer(eqx.Module):
    letters: eqx.nn.Embedding
    places: eqx.nn.Embedding
    norms: list
    attention: eqx.nn.MultiheadAttention
    mlp: eqx.nn.MLP
    dropout: eqx.nn.Dropout
    out: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 5)
        self.letters, self.places = (
            eqx.nn.Embedding(n, WIDTH, key=k) for n, k in ((LETTERS, keys[0]), (CONTEXT, keys[1]))
        )
        self.norms = [eqx.nn.LayerNorm(WIDTH) for _ in range(3)]
        self.attention = eqx.nn.MultiheadAttention(HEADS, WIDTH, dropout_p=DROPOUT, key=keys[2])
        self.mlp = eqx.nn.MLP(WIDTH, WIDTH, 4 * WIDTH, 1, activation=jax.nn.gelu, key=keys[3])
        self.dropout, self.out = eqx.nn.Dropout(DROPOUT), eqx.nn.Linear(WIDTH, LETTERS, key=keys[4])

    def __call__(self, letters, key=None):
        keys = (None,) * 3 if key is None else jax.random.split(key, 3)
        first, second, third = map(jax.vmap, self.norms)
        x = jax.vmap(self.letters)(letters) + jax.vmap(self.places)(jnp.arange(CONTEXT))
        y, causal = first(x), jnp.tril(jnp.ones((CONTEXT, CONTEXT), bool))
        x = x + self.dropout(self.attention(y, y, y, causal, key=keys[0]), key=keys[1])
        x = x + self.dropout(jax.vmap(self.mlp)(second(x)), key=keys[2])
        return jax.vmap(self.out)(third(x))


def equinox_transformer_loss(model, batch, key):
    letters, following = batch
    return cross_entropy(jax.vmap(model)(letters, jax.random.split(key, len(letters))), following)


def equinox_transformer_accuracy(model, batch):
    return accuracy(jax.vmap(model), batch)


LINEN = {"rngs": ("dropout",), "train_arguments": {"train": True}, "eval_arguments": {"train": False}}
BY_ACCURACY = {"metrics": {"accuracy": (accuracy, "max")}, "validation": DIGITS_TEST}


def linen_cnn():
    return L.Task.from_linen(LinenCNN(), loss_fn, DIGITS, 32, **LINEN, **BY_ACCURACY)


def linen_transformer():
    return L.Task.from_linen(LinenTransformer(), loss_fn, TEXT, 16, **LINEN, validation=TEXT_TEST)


def nnx_cnn(model=NnxCNN, data=DIGITS, batch_size=32):
    return L.Task.from_nnx(model, loss_fn, data, batch_size, **BY_ACCURACY)


def nnx_transformer():
    return L.Task.from_nnx(NnxTransformer, loss_fn, TEXT, 16, validation=TEXT_TEST)


def equinox_cnn():
    make, metrics = eqx.nn.make_with_state(EquinoxCNN), {"accuracy": (equinox_cnn_accuracy, "max")}
    more = {"has_state": True, "takes_key": True, "metrics": metrics, "validation": DIGITS_TEST}
    return L.Task.from_equinox(make, equinox_cnn_loss, DIGITS, 32, **more)


def equinox_transformer():
    more = {"takes_key": True, "validation": TEXT_TEST}
    return L.Task.from_equinox(EquinoxTransformer, equinox_transformer_loss, TEXT, 16, **more)
