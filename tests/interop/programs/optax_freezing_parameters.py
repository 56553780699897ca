"""Optax's gallery, freezing parameters, in four ways.

Optax: masked(set_to_zero()), partition, multi_transform with a function to labels, chain, adam, sgd, apply_updates.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from optax import losses

from tests.interop.programs.data import digits


class Classifier(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x.reshape((x.shape[0], -1))
        x = nn.relu(nn.Dense(32, name="backbone")(x))
        return nn.Dense(10, name="head")(x)


def train(optax):
    images, labels = digits(256)
    model = Classifier()
    start = model.init(jax.random.key(0), images)["params"]

    def fit(optimizer, frozen):
        @jax.jit
        def step(params, opt_state):
            def loss_fn(p):
                logits = model.apply({"params": p}, images)
                return losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

            loss, grads = jax.value_and_grad(loss_fn)(params)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state, loss

        params, opt_state, history = start, optimizer.init(start), []
        for _ in range(20):
            params, opt_state, loss = step(params, opt_state)
            history.append(float(loss))
        for name in ("backbone", "head"):
            assert jnp.array_equal(params[name]["kernel"], start[name]["kernel"]) == (name in frozen)
        return history

    # 1. a mask of what is frozen
    mask = {
        "backbone": {"kernel": True, "bias": True},
        "head": {"kernel": False, "bias": False},
    }
    simple = optax.chain(optax.adam(1e-2), optax.masked(optax.set_to_zero(), mask))
    # 2. several groups
    param_labels = jax.tree.map(lambda flag: "frozen" if flag else "trainable", mask)
    grouped = optax.partition({"trainable": optax.adam(1e-2), "frozen": optax.set_to_zero()}, param_labels)
    # 3. labels from the paths of the parameters
    partition_optimizers = {"trainable": optax.sgd(0.5, momentum=0.9), "frozen": optax.set_to_zero()}
    by_path = lambda params: traverse_util.path_aware_map(
        lambda path, v: "frozen" if "head" in path else "trainable", params
    )
    tx = optax.multi_transform(partition_optimizers, by_path)
    # 4. groups with rates of their own, the labels a prefix of the tree
    rates = optax.partition({"slow": optax.adam(1e-3), "fast": optax.adam(3e-2)}, {"backbone": "slow", "head": "fast"})
    return [*fit(simple, "backbone"), *fit(grouped, "backbone"), *fit(tx, "head"), *fit(rates, "")]
