"""Optax's gallery, gradient accumulation: a number of steps, a schedule of it, and a TrainState.

Optax: MultiSteps (every_k_schedule a number and a function), its has_updated, sgd, adamw, piecewise_constant_schedule.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.training.train_state import TrainState
from optax import losses

from tests.interop.programs.data import batches, digits


class Net(nn.Module):
    @nn.compact
    def __call__(self, images):
        x = images.reshape((images.shape[0], -1))
        return nn.Dense(10)(nn.relu(nn.Dense(32)(x)))


def train(optax):
    net = Net()
    data = digits()
    initial_params = net.init(jax.random.key(0), data[0][:1])

    @jax.jit
    def loss_fn(params, images, labels):
        return losses.softmax_cross_entropy_with_integer_labels(net.apply(params, images), labels).mean()

    def build_update_fn(optimizer):
        @jax.jit
        def update(params, opt_state, batch):
            loss, grads = jax.value_and_grad(loss_fn)(params, *batch)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
            return params, opt_state, loss

        return update

    def fit(optimizer, params):
        update_fn = build_update_fn(optimizer)
        opt_state = optimizer.init(params)
        history, updates_made = [], 0
        for batch in batches(data, batch_size=32, steps=30):
            params, opt_state, loss = update_fn(params, opt_state, batch)
            updates_made += int(optimizer.has_updated(opt_state))
            history.append(float(loss))
        assert updates_made in (10, 11)
        return history

    learning_rate = optax.piecewise_constant_schedule(init_value=0.5, boundaries_and_scales={4: 0.5, 8: 0.5})
    every_k = lambda gradient_step: jnp.where(gradient_step < 4, 2, 3)
    state = TrainState.create(
        apply_fn=net.apply,
        params=initial_params,
        tx=optax.MultiSteps(optax.adamw(1e-2), every_k_schedule=3).gradient_transformation(),
    )
    step = jax.jit(lambda state, batch: state.apply_gradients(grads=jax.grad(loss_fn)(state.params, *batch)))
    history = []
    for batch in batches(data, batch_size=32, steps=30):
        history.append(float(loss_fn(state.params, *batch)))
        state = step(state, batch)
    return [
        *fit(optax.MultiSteps(optax.sgd(learning_rate), every_k_schedule=3), initial_params),
        *fit(optax.MultiSteps(optax.sgd(learning_rate), every_k_schedule=every_k), initial_params),
        *history,
    ]
