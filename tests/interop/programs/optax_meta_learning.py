"""Optax's gallery, meta-learning: a rate that is learned by gradient descent through training.

Optax: sgd, with a rate that is traced and differentiated, and adam for it; apply_updates.
"""

import jax
import jax.numpy as jnp
import numpy as np


def train(optax):
    rng = np.random.default_rng(0)
    true_w = jnp.asarray([0.5, -1.5, 1.0], jnp.float32)

    def batch(size=16):
        x = jnp.asarray(rng.normal(size=(size, 3)), jnp.float32)
        return x, x @ true_w + 0.1 * jnp.asarray(rng.normal(size=size), jnp.float32)

    def loss(theta, x, y):
        return jnp.mean((x @ theta - y) ** 2)

    meta_opt = optax.adam(0.1)
    eta = jnp.array(-3.0)  # of a sigmoid, so that the rate is between 0 and 1
    theta = jnp.zeros(3)

    @jax.jit
    def meta_step(eta, meta_state, theta, inner, outer):
        def outer_loss(eta, theta):
            opt = optax.sgd(learning_rate=jax.nn.sigmoid(eta))
            opt_state = opt.init(theta)
            for x, y in inner:
                grads = jax.grad(loss)(theta, x, y)
                updates, opt_state = opt.update(grads, opt_state)
                theta = optax.apply_updates(theta, updates)
            return loss(theta, *outer), theta

        (value, theta), meta_grads = jax.value_and_grad(outer_loss, has_aux=True)(eta, theta)
        meta_updates, meta_state = meta_opt.update(meta_grads, meta_state)
        return optax.apply_updates(eta, meta_updates), meta_state, theta, value

    meta_state = meta_opt.init(eta)
    history = []
    for _ in range(25):
        eta, meta_state, theta, value = meta_step(eta, meta_state, theta, [batch(), batch()], batch())
        history.append(float(value))
    assert eta > -2  # the rate went up
    return history
