"""Optax's gallery, the lookahead optimizer. Optax: adam, lookahead, LookaheadParams.init_synced, apply_updates."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from optax import losses

from tests.interop.programs.data import batches, digits

FAST_LEARNING_RATE, SLOW_LEARNING_RATE, SYNC_PERIOD = 0.005, 0.5, 5


class Net(nn.Module):
    hidden_size: int = 32

    @nn.compact
    def __call__(self, x):
        x = x.reshape((x.shape[0], -1))
        return nn.Dense(10)(nn.relu(nn.Dense(self.hidden_size)(x)))


def train(optax):
    net = Net()

    @jax.jit
    def loss_accuracy(params, data):
        inputs, labels = data
        logits = net.apply({"params": params}, inputs)
        loss = losses.softmax_cross_entropy_with_integer_labels(logits=logits, labels=labels).mean()
        return loss, {"accuracy": jnp.mean(jnp.argmax(logits, axis=-1) == labels)}

    fast_solver = optax.adam(FAST_LEARNING_RATE)
    solver = optax.lookahead(fast_solver, SYNC_PERIOD, SLOW_LEARNING_RATE)
    params = net.init({"params": jax.random.PRNGKey(0)}, jnp.ones((1, 8, 8, 1)))["params"]
    params = optax.LookaheadParams.init_synced(params)
    solver_state = solver.init(params)

    @jax.jit
    def train_step(params, solver_state, batch):
        (loss, aux), grad = jax.value_and_grad(loss_accuracy, has_aux=True)(params.fast, batch)
        updates, solver_state = solver.update(grad, solver_state, params)
        params = optax.apply_updates(params, updates)
        return params, solver_state, loss, aux

    data = digits()
    history = []
    for batch in batches(data, batch_size=64, steps=60):
        params, solver_state, loss, _ = train_step(params, solver_state, batch)
        history.append(float(loss))
    # validation is done on the slow parameters
    test_loss, test_aux = loss_accuracy(params.slow, data)
    assert float(test_aux["accuracy"]) > 0.8
    return [*history, float(test_loss)]
