"""Equinox, an RNN that tells spirals apart.

Optax: adam and rmsprop, with init on the model as it is and on the filtered one, and update without params.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


def spirals(dataset_size, rng):
    t = np.linspace(0, 2 * np.pi, 12)
    start = rng.uniform(0, 2 * np.pi, (dataset_size, 1))
    turn = np.where(np.arange(dataset_size) % 2 == 0, 1, -1)[:, None]
    x = np.stack([np.cos(start + turn * t), np.sin(start + turn * t)], axis=-1) / (1 + t[:, None])
    return jnp.asarray(x, jnp.float32), jnp.asarray(np.arange(dataset_size) % 2, jnp.float32)


class RNN(eqx.Module):
    hidden_size: int = eqx.field(static=True)
    cell: eqx.Module
    linear: eqx.nn.Linear
    bias: jax.Array

    def __init__(self, in_size, out_size, hidden_size, *, key):
        ckey, lkey = jax.random.split(key)
        self.hidden_size = hidden_size
        self.cell = eqx.nn.GRUCell(in_size, hidden_size, key=ckey)
        self.linear = eqx.nn.Linear(hidden_size, out_size, use_bias=False, key=lkey)
        self.bias = jnp.zeros(out_size)

    def __call__(self, input):
        hidden = jnp.zeros((self.hidden_size,))
        out, _ = jax.lax.scan(lambda carry, inp: (self.cell(inp, carry), None), hidden, input)
        return jax.nn.sigmoid(self.linear(out) + self.bias)


def train(optax):
    @eqx.filter_value_and_grad
    def compute_loss(model, x, y):
        pred_y = jax.vmap(model)(x)[:, 0]
        return -jnp.mean(y * jnp.log(pred_y) + (1 - y) * jnp.log(1 - pred_y))

    x, y = spirals(64, np.random.default_rng(0))
    history = []
    for optim, chosen in [
        (optax.adam(1e-2), lambda model: model),
        (optax.rmsprop(1e-2, decay=0.9), lambda model: eqx.filter(model, eqx.is_inexact_array)),
    ]:
        model = RNN(in_size=2, out_size=1, hidden_size=16, key=jax.random.key(5678))
        opt_state = optim.init(chosen(model))

        @eqx.filter_jit
        def make_step(model, x, y, opt_state, optim=optim):
            loss, grads = compute_loss(model, x, y)
            updates, opt_state = optim.update(grads, opt_state)
            model = eqx.apply_updates(model, updates)
            return loss, model, opt_state

        for _ in range(30):
            loss, model, opt_state = make_step(model, x, y, opt_state)
            history.append(float(loss))
    return history
