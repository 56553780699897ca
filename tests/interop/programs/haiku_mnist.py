"""Haiku, MNIST with transform, a module that calls hk.get_parameter, and an average of the parameters.

Optax: adam, apply_updates, incremental_update, and OptState in annotations.
"""

import haiku as hk
import jax
import jax.numpy as jnp

from tests.interop.programs.data import batches, digits


class Scale(hk.Module):
    def __call__(self, x):
        return x * hk.get_parameter("scale", [x.shape[-1]], init=jnp.ones)


def net_fn(images):
    """A small multilayer perceptron."""
    mlp = hk.Sequential(
        [
            hk.Flatten(),
            hk.Linear(32),
            jax.nn.relu,
            Scale(),
            hk.Linear(32),
            jax.nn.relu,
            hk.Linear(10),
        ]
    )
    return mlp(images)


def train(optax):
    net = hk.without_apply_rng(hk.transform(net_fn))
    opt = optax.adam(3e-3)

    @jax.jit
    def loss(params: hk.Params, images, labels):
        """The loss of the network, including L2."""
        logits = net.apply(params, images)
        l2_loss = 0.5 * sum(jnp.sum(jnp.square(p)) for p in jax.tree.leaves(params))
        softmax_xent = -jnp.sum(jax.nn.one_hot(labels, 10) * jax.nn.log_softmax(logits)) / labels.shape[0]
        return softmax_xent + 1e-4 * l2_loss

    @jax.jit
    def update(params: hk.Params, opt_state: optax.OptState, images, labels) -> tuple[hk.Params, optax.OptState]:
        grads = jax.grad(loss)(params, images, labels)
        updates, opt_state = opt.update(grads, opt_state)
        new_params = optax.apply_updates(params, updates)
        return new_params, opt_state

    @jax.jit
    def ema_update(params, avg_params):
        return optax.incremental_update(params, avg_params, step_size=0.1)

    images, labels = digits()
    params = avg_params = net.init(jax.random.PRNGKey(42), images)
    opt_state = opt.init(params)
    history = []
    for batch in batches((images, labels), batch_size=64, steps=60):
        history.append(float(loss(avg_params, images, labels)))
        params, opt_state = update(params, opt_state, *batch)
        avg_params = ema_update(params, avg_params)
    return history
