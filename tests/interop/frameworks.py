"""The training classes of the JAX frameworks, each around one small model, behind one interface.

Each class is made with a transformation, lrjax's or Optax's, and trains as its framework's documentation does. `place`
puts the parameters on devices; `whole` is what a user has in hand after a step: the whole training state.
"""

from functools import partial

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import optax
from flax import nnx
from flax.training.train_state import TrainState
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.optim import optax_to_numpyro

from tests.interop.programs.data import batches, diabetes, digits

WIDTH, KEY = 32, jax.random.key(0)


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def same(tree):
    return tree


class Framework:
    """What is saved of a training, `arrays`: all of it, where a framework keeps it in one tree."""

    @property
    def arrays(self):
        return self.whole

    def restore(self, arrays):
        self.whole = arrays


class Digits(Framework):
    """What the classifiers share: images of digits, flat, and their labels."""

    falls_to = 0.3  # the loss at the end, as a part of that at the start

    @staticmethod
    def batches(steps):
        images, labels = digits()
        return list(batches((images.reshape(len(images), -1), labels), 64, steps))


class PlainJAX(Digits):
    def __init__(self, tx, place=same):
        keys, sizes = jax.random.split(KEY, 3), (64, WIDTH, 24, 16)  # the last 6 classes don't occur
        params = {
            f"layer {i}": {"w": jax.random.normal(key, (n, m)) / n**0.5, "b": jnp.zeros(m)}
            for i, (key, n, m) in enumerate(zip(keys, sizes[:-1], sizes[1:], strict=True))
        }
        params = place(params)
        self.tx, self.whole = tx, {"params": params, "opt_state": tx.init(params)}

    @staticmethod
    def loss(params, batch):
        x, labels = batch
        for i, layer in enumerate(params.values()):
            x = x @ layer["w"] + layer["b"]
            x = x if i == len(params) - 1 else jax.nn.relu(x)
        return cross_entropy(x, labels)

    @staticmethod
    @partial(jax.jit, static_argnums=0)
    def _step(tx, whole, batch):
        loss, grads = jax.value_and_grad(PlainJAX.loss)(whole["params"], batch)
        updates, opt_state = tx.update(grads, whole["opt_state"], whole["params"], value=loss)
        return {"params": optax.apply_updates(whole["params"], updates), "opt_state": opt_state}, loss

    def step(self, batch):
        self.whole, loss = self._step(self.tx, self.whole, batch)
        return loss

    @property
    def params(self):
        return self.whole["params"]

    def loss_with(self, params, batch):
        return self.loss(params, batch)


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.LayerNorm()(nn.Dense(WIDTH)(x)))
        return nn.Dense(16)(x)


class Linen(Digits):
    """flax.linen with a `TrainState`."""

    model = MLP()

    def __init__(self, tx, place=same):
        params = place(self.model.init(KEY, jnp.ones((1, 64)))["params"])
        self.whole = TrainState.create(apply_fn=Linen.model.apply, params=params, tx=tx)

    @staticmethod
    @jax.jit
    def _step(state, batch):
        def loss_fn(params):
            return cross_entropy(state.apply_fn({"params": params}, batch[0]), batch[1])

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        return state.apply_gradients(grads=grads), loss

    def step(self, batch):
        self.whole, loss = self._step(self.whole, batch)
        return loss

    @property
    def params(self):
        return self.whole.params

    def loss_with(self, params, batch):
        return cross_entropy(self.whole.apply_fn({"params": params}, batch[0]), batch[1])


class NnxMLP(nnx.Module):
    def __init__(self, rngs):
        self.hidden, self.norm = nnx.Linear(64, WIDTH, rngs=rngs), nnx.LayerNorm(WIDTH, rngs=rngs)
        self.out = nnx.Linear(WIDTH, 16, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.norm(self.hidden(x))))


class Nnx(Digits):
    """flax.nnx with an `nnx.Optimizer`, which is the whole state; the model stands beside it."""

    def __init__(self, tx, place=same):
        self.model = NnxMLP(nnx.Rngs(0))
        nnx.update(self.model, place(nnx.state(self.model)))
        self.whole = nnx.Optimizer(self.model, tx, wrt=nnx.Param)

    @staticmethod
    def loss(model, batch):
        return cross_entropy(model(batch[0]), batch[1])

    @staticmethod
    @nnx.jit
    def _step(model, optimizer, batch):
        loss, grads = nnx.value_and_grad(Nnx.loss)(model, batch)
        optimizer.update(model, grads)
        return loss

    def step(self, batch):
        return self._step(self.model, self.whole, batch)

    @property
    def params(self):
        return nnx.state(self.model, nnx.Param)

    @property
    def arrays(self):
        return nnx.state((self.model, self.whole))

    def restore(self, arrays):
        nnx.update((self.model, self.whole), arrays)

    def loss_with(self, params, batch):
        return self.loss(nnx.merge(nnx.graphdef(self.model), params), batch)


class Equinox(Digits):
    """Equinox: the pair of a model, in which functions are leaves too, and the state for its arrays."""

    def __init__(self, tx, place=same):
        model = eqx.nn.MLP(64, 16, WIDTH, 2, key=KEY)
        arrays, others = eqx.partition(model, eqx.is_array)
        model = eqx.combine(place(arrays), others)
        self.tx, self.whole = tx, (model, tx.init(eqx.filter(model, eqx.is_inexact_array)))

    @staticmethod
    def loss(model, batch):
        return cross_entropy(jax.vmap(model)(batch[0]), batch[1])

    @staticmethod
    @eqx.filter_jit
    def _step(tx, whole, batch):
        model, opt_state = whole
        loss, grads = eqx.filter_value_and_grad(Equinox.loss)(model, batch)
        updates, opt_state = tx.update(grads, opt_state, eqx.filter(model, eqx.is_inexact_array))
        return (eqx.apply_updates(model, updates), opt_state), loss

    def step(self, batch):
        self.whole, loss = self._step(self.tx, self.whole, batch)
        return loss

    @property
    def params(self):
        return self.whole[0]

    @property
    def arrays(self):
        return eqx.filter(self.whole, eqx.is_array)

    def restore(self, arrays):
        self.whole = eqx.combine(arrays, self.whole)

    def loss_with(self, params, batch):
        return self.loss(params, batch)


class NumPyro(Framework):
    """NumPyro's SVI of a Bayesian regression, with a guide whose parameters are constrained."""

    falls_to = 0.7

    @staticmethod
    def model(x, y=None):
        intercept = numpyro.sample("intercept", dist.Normal(0, 1))
        weights = numpyro.sample("weights", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
        sigma = numpyro.sample("sigma", dist.Exponential(1.0))
        with numpyro.plate("data", x.shape[0]):
            numpyro.sample("obs", dist.Normal(intercept + x @ weights, sigma), obs=y)

    def __init__(self, tx, place=same):
        optimizer = optax_to_numpyro(tx)
        self.svi = SVI(self.model, AutoNormal(self.model), optimizer, loss=Trace_ELBO(num_particles=4))
        self.whole = place(self.svi.init(KEY, *self.batches(1)[0]))
        self._update = jax.jit(self.svi.update)

    @staticmethod
    def batches(steps):
        return list(batches(diabetes(), 64, steps))

    def step(self, batch):
        self.whole, loss = self._update(self.whole, *batch)
        return loss

    @property
    def params(self):
        return self.svi.optim.get_params(self.whole.optim_state)  # unconstrained, as the optimizer sees them

    def loss_with(self, params, batch):
        loss = Trace_ELBO(num_particles=4)
        return loss.loss(KEY, self.svi.constrain_fn(params), self.svi.model, self.svi.guide, *batch)


FRAMEWORKS = {cls.__name__: cls for cls in (PlainJAX, Linen, Nnx, Equinox, NumPyro)}
