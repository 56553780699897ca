"""Optax's gallery, an MLP on digits. Optax: adam(rate, b1, b2), init, update with params, apply_updates."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from optax import losses

from tests.interop.programs.data import batches, digits


class MLP(nn.Module):
    """A simple multilayer perceptron model for image classification."""

    hidden_sizes: Sequence[int] = (32, 32)

    @nn.compact
    def __call__(self, x):
        x = x.reshape((x.shape[0], -1))
        for features in self.hidden_sizes:
            x = nn.relu(nn.Dense(features=features)(x))
        return nn.Dense(features=10)(x)


def train(optax):
    net = MLP()

    @jax.jit
    def loss_accuracy(params, data):
        """Computes loss and accuracy over a mini-batch."""
        inputs, labels = data
        logits = net.apply({"params": params}, inputs)
        loss = losses.softmax_cross_entropy_with_integer_labels(logits=logits, labels=labels).mean()
        accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == labels)
        return loss, {"accuracy": accuracy}

    solver = optax.adam(2e-3, b1=0.9, b2=0.99)
    params = net.init({"params": jax.random.key(0)}, jnp.ones((1, 8, 8, 1)))["params"]
    solver_state = solver.init(params)

    @jax.jit
    def train_step(params, solver_state, batch):
        (loss, aux), grad = jax.value_and_grad(loss_accuracy, has_aux=True)(params, batch)
        updates, solver_state = solver.update(grad, solver_state, params)
        params = optax.apply_updates(params, updates)
        return params, solver_state, loss, aux

    history, accuracies = [], []
    for batch in batches(digits(), batch_size=64, steps=60):
        params, solver_state, loss, aux = train_step(params, solver_state, batch)
        history.append(float(loss))
        accuracies.append(float(aux["accuracy"]))
    assert np.mean(accuracies[-10:]) > 0.8
    return history
