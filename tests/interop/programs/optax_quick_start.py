"""Optax's getting started: linear regression, then a custom optimizer and a schedule.

Optax: adam, sgd, chain, clip_by_global_norm, scale_by_adam, scale_by_schedule, scale, exponential_decay, apply_updates,
and Params and GradientTransformation in annotations.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from optax import losses

START_LEARNING_RATE = 1e-1


@functools.partial(jax.vmap, in_axes=(None, 0))
def network(params, x):
    return jnp.dot(params, x)


def train(optax):
    def compute_loss(params, x, y):
        y_pred = network(params, x)
        return jnp.mean(losses.l2_loss(y_pred, y))

    xs = jnp.asarray(np.random.default_rng(42).normal(size=(128, 2)), jnp.float32)
    ys = jnp.sum(xs * jnp.array([0.5, -1.5]), axis=-1)

    def fit(params: optax.Params, optimizer: optax.GradientTransformation, steps: int) -> list[float]:
        opt_state = optimizer.init(params)

        @jax.jit
        def step(params, opt_state):
            loss_value, grads = jax.value_and_grad(compute_loss)(params, xs, ys)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
            return params, opt_state, loss_value

        history = []
        for _ in range(steps):
            params, opt_state, loss_value = step(params, opt_state)
            history.append(float(loss_value))
        return history

    # exponential decay of the learning rate, with a chain made by hand
    scheduler = optax.exponential_decay(init_value=START_LEARNING_RATE, transition_steps=100, decay_rate=0.99)
    gradient_transform = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(),
        optax.scale_by_schedule(scheduler),
        optax.scale(-1.0),  # updates are added, so a descent needs the sign
    )
    initial_params = jnp.array([0.0, 0.0])
    return [
        *fit(initial_params, optax.sgd(START_LEARNING_RATE), 40),
        *fit(initial_params, gradient_transform, 40),
        *fit(initial_params, optax.adam(START_LEARNING_RATE), 40),
    ]
