"""Flax, MNIST with linen and a TrainState. Optax: sgd(rate, momentum), through create and apply_gradients."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.training import train_state
from optax import losses

from tests.interop.programs.data import batches, digits


class CNN(nn.Module):
    """A simple CNN model."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(features=8, kernel_size=(3, 3))(x)
        x = nn.relu(x)
        x = nn.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
        x = nn.Conv(features=8, kernel_size=(3, 3))(x)
        x = nn.relu(x)
        x = nn.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
        x = x.reshape((x.shape[0], -1))
        x = nn.Dense(features=32)(x)
        x = nn.relu(x)
        return nn.Dense(features=10)(x)


def train(optax):
    def create_train_state(rng, learning_rate, momentum):
        cnn = CNN()
        params = cnn.init(rng, jnp.ones([1, 8, 8, 1]))["params"]
        tx = optax.sgd(learning_rate, momentum)
        return train_state.TrainState.create(apply_fn=cnn.apply, params=params, tx=tx)

    @jax.jit
    def apply_model(state, images, labels):
        """Computes gradients and loss for a single batch."""

        def loss_fn(params):
            logits = state.apply_fn({"params": params}, images)
            one_hot = jax.nn.one_hot(labels, 10)
            return jnp.mean(losses.softmax_cross_entropy(logits=logits, labels=one_hot))

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        return grads, loss

    @jax.jit
    def update_model(state, grads):
        return state.apply_gradients(grads=grads)

    state = create_train_state(jax.random.key(0), learning_rate=0.1, momentum=0.9)
    history = []
    for images, labels in batches(digits(), batch_size=64, steps=40):
        grads, loss = apply_model(state, images, labels)
        state = update_model(state, grads)
        history.append(float(loss))
    return history
