"""Optax's reference, hyperparameters in the state: read, set in the loop, set inside jit, and scheduled.

Optax: inject_hyperparams(adam), (sgd), (adamw with static_args), state.hyperparams, linear_schedule, a chain inside.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from optax import losses

from tests.interop.programs.data import diabetes


def train(optax):
    xs, ys = map(jnp.asarray, diabetes())

    def loss_fn(params):
        return losses.l2_loss(xs @ params["w"] + params["b"], ys).mean()

    def fit(optimizer, before_step):
        @jax.jit
        def step(params, opt_state):
            loss, grads = jax.value_and_grad(loss_fn)(params)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state, loss

        params = {"w": jnp.zeros(10), "b": jnp.zeros(())}
        opt_state, history, rates = optimizer.init(params), [], []
        for i in range(20):
            opt_state = before_step(i, opt_state)
            params, opt_state, loss = step(params, opt_state)
            history.append(float(loss))
            rates.append(float(opt_state.hyperparams["learning_rate"]))
        return history, rates

    def set_in_place(i, opt_state):
        if i % 5 == 0:
            opt_state.hyperparams["learning_rate"] = 0.1 / (1 + i / 5)
        return opt_state

    @jax.jit
    def halve(opt_state):
        hyperparams = {**opt_state.hyperparams, "learning_rate": opt_state.hyperparams["learning_rate"] * 0.9}
        return opt_state._replace(hyperparams=hyperparams)

    @functools.partial(optax.inject_hyperparams, static_args="b1")
    def clipped_adamw(learning_rate, weight_decay, b1=0.9):
        return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(learning_rate, b1, weight_decay=weight_decay))

    scheduled = optax.linear_schedule(0.3, 0.0, transition_steps=20)
    runs = [
        fit(optax.inject_hyperparams(optax.adam)(learning_rate=0.1), set_in_place),
        fit(optax.inject_hyperparams(optax.sgd)(learning_rate=0.3, momentum=0.5), lambda i, state: halve(state)),
        fit(optax.inject_hyperparams(optax.sgd)(learning_rate=scheduled), lambda i, state: state),
        fit(clipped_adamw(learning_rate=0.1, weight_decay=1e-3), set_in_place),
    ]
    rates = [rates for _, rates in runs]
    assert np.allclose(rates[0], np.repeat(0.1 / np.arange(1, 5), 5))
    assert np.allclose(rates[1], 0.3 * 0.9 ** np.arange(1, 21))
    assert np.allclose(rates[2], [scheduled(i) for i in range(20)])
    return [loss for history, _ in runs for loss in history]
