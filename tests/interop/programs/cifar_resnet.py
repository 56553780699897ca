"""A residual network with batch normalisation, as for CIFAR: warmup, decay of kernels only, clipping.

Optax: warmup_cosine_decay_schedule, chain, clip_by_global_norm, add_decayed_weights(mask=function), sgd(nesterov),
global_norm, and the schedule called with the step.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.training import train_state
from optax import losses

from tests.interop.programs.data import batches, digits

STEPS = 40


class ResNetBlock(nn.Module):
    filters: int
    strides: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x, train):
        norm = lambda **kwargs: nn.BatchNorm(use_running_average=not train, momentum=0.9, **kwargs)
        y = nn.Conv(self.filters, (3, 3), self.strides, use_bias=False)(x)
        y = nn.relu(norm()(y))
        y = norm(scale_init=nn.initializers.zeros_init())(nn.Conv(self.filters, (3, 3), use_bias=False)(y))
        if x.shape != y.shape:
            x = norm()(nn.Conv(self.filters, (1, 1), self.strides, use_bias=False)(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        x = nn.relu(nn.Conv(8, (3, 3), use_bias=False)(x))
        x = ResNetBlock(8)(x, train)
        x = ResNetBlock(8, (2, 2))(x, train)
        return nn.Dense(10)(jnp.mean(x, axis=(1, 2)))


class TrainState(train_state.TrainState):
    batch_stats: Any


def train(optax):
    model = ResNet()
    variables = model.init(jax.random.PRNGKey(0), jnp.ones((1, 8, 8, 1)))
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0, peak_value=0.1, warmup_steps=STEPS // 10, decay_steps=STEPS, end_value=1e-3
    )
    decay_mask = lambda params: jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.add_decayed_weights(1e-4, mask=decay_mask),
        optax.sgd(learning_rate=schedule, momentum=0.9, nesterov=True),
    )
    state = TrainState.create(apply_fn=model.apply, tx=tx, **variables)

    @jax.jit
    def train_step(state, images, labels):
        def loss_fn(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            logits, updated = state.apply_fn(variables, images, mutable=["batch_stats"])
            return losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated["batch_stats"]

        (loss, batch_stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        metrics = {"loss": loss, "grad_norm": optax.global_norm(grads), "learning_rate": schedule(state.step)}
        return state.apply_gradients(grads=grads, batch_stats=batch_stats), metrics

    history = []
    for images, labels in batches(digits(), batch_size=64, steps=STEPS):
        state, metrics = train_step(state, images, labels)
        history.append(float(metrics["loss"]))
    return history
