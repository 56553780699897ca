"""Flax, a small decoder of characters with nnx, after the Gemma example.

Optax: linear_schedule, join_schedules (with a schedule written by hand), adamw, through nnx.Optimizer.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from optax import losses

TEXT = "the rate at which a network learns is the number that matters most; " * 40
LENGTH, WIDTH = 16, 32


class Block(nnx.Module):
    def __init__(self, rngs):
        self.pre_attention_norm = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, WIDTH, decode=False, rngs=rngs)
        self.pre_ffw_norm = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.gate = nnx.Linear(WIDTH, WIDTH, use_bias=False, rngs=rngs)
        self.up = nnx.Linear(WIDTH, WIDTH, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(WIDTH, WIDTH, use_bias=False, rngs=rngs)

    def __call__(self, x, mask):
        x = x + self.attention(self.pre_attention_norm(x), mask=mask)
        h = self.pre_ffw_norm(x)
        return x + self.down(nnx.gelu(self.gate(h)) * self.up(h))


class Transformer(nnx.Module):
    def __init__(self, vocabulary, rngs):
        self.embedder = nnx.Embed(vocabulary, WIDTH, rngs=rngs)
        self.positions = nnx.Embed(LENGTH, WIDTH, rngs=rngs)
        self.layers = nnx.List([Block(rngs) for _ in range(2)])
        self.final_norm = nnx.RMSNorm(WIDTH, rngs=rngs)

    def __call__(self, tokens):
        x = self.embedder(tokens) + self.positions(jnp.arange(LENGTH))
        for layer in self.layers:
            x = layer(x, nnx.make_causal_mask(tokens))
        return self.embedder.attend(self.final_norm(x))


def train(optax):
    def rsqrt_schedule(init_value, shift=0):
        return lambda count: init_value * (count + shift) ** -0.5 * shift**0.5

    def create_learning_rate_schedule(learning_rate, warmup_steps):
        warmup = optax.linear_schedule(init_value=0, end_value=learning_rate, transition_steps=warmup_steps)
        decay = rsqrt_schedule(init_value=learning_rate, shift=warmup_steps)
        return optax.join_schedules([warmup, decay], boundaries=[warmup_steps])

    vocabulary = sorted(set(TEXT))
    tokens = np.array([vocabulary.index(c) for c in TEXT])
    model = Transformer(len(vocabulary), rngs=nnx.Rngs(0))
    tx = optax.adamw(create_learning_rate_schedule(3e-3, 10), b1=0.9, b2=0.98, eps=1e-9, weight_decay=1e-1)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def train_step(model, optimizer, inputs, targets):
        def loss_fn(model):
            return losses.softmax_cross_entropy_with_integer_labels(model(inputs), targets).mean()

        loss, grads = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(model, grads)
        return loss

    rng, history = np.random.default_rng(0), []
    for _ in range(40):
        rows = rng.integers(len(tokens) - LENGTH - 1, size=16)[:, None] + np.arange(LENGTH)
        history.append(float(train_step(model, optimizer, jnp.asarray(tokens[rows]), jnp.asarray(tokens[rows + 1]))))
    return history
