"""Equinox, a CNN on images. Optax: adamw, with init and update on the filtered model; eqx.apply_updates."""

import equinox as eqx
import jax
import jax.numpy as jnp

from tests.interop.programs.data import batches, digits


class CNN(eqx.Module):
    layers: list

    def __init__(self, key):
        key1, key2, key3 = jax.random.split(key, 3)
        # functions are leaves of the model too
        self.layers = [
            eqx.nn.Conv2d(1, 3, kernel_size=3, key=key1),
            eqx.nn.MaxPool2d(kernel_size=2),
            jax.nn.relu,
            jnp.ravel,
            eqx.nn.Linear(75, 32, key=key2),
            jax.nn.sigmoid,
            eqx.nn.Linear(32, 10, key=key3),
            jax.nn.log_softmax,
        ]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def loss(model, x, y):
    pred_y = jax.vmap(model)(x)
    return -jnp.mean(jnp.take_along_axis(pred_y, jnp.expand_dims(y, 1), axis=1))


def train(optax):
    model = CNN(jax.random.key(5678))
    optim = optax.adamw(1e-2)
    # only the arrays of the model have states
    opt_state = optim.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit
    def make_step(model, opt_state, x, y):
        loss_value, grads = eqx.filter_value_and_grad(loss)(model, x, y)
        updates, opt_state = optim.update(grads, opt_state, eqx.filter(model, eqx.is_array))
        model = eqx.apply_updates(model, updates)
        return model, opt_state, loss_value

    history = []
    for x, y in batches(digits(), batch_size=64, steps=60):
        model, opt_state, train_loss = make_step(model, opt_state, x.transpose(0, 3, 1, 2), y)
        history.append(float(train_loss))
    return history
