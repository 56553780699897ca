"""Diffrax, a neural ODE fitted to curves, at two rates one after the other.

Optax: adabelief, piecewise_constant_schedule; init on the filtered model, update without params; eqx.apply_updates.
"""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


class Func(eqx.Module):
    out_scale: jax.Array
    mlp: eqx.nn.MLP

    def __init__(self, data_size, width_size, depth, *, key):
        self.out_scale = jnp.array(1.0)
        self.mlp = eqx.nn.MLP(data_size, data_size, width_size, depth, activation=jnp.tanh, key=key)

    def __call__(self, t, y, args):
        return self.out_scale * self.mlp(y)


class NeuralODE(eqx.Module):
    func: Func

    def __call__(self, ts, y0):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(self.func),
            diffrax.Euler(),
            t0=ts[0],
            t1=ts[-1],
            dt0=ts[1] - ts[0],
            y0=y0,
            saveat=diffrax.SaveAt(ts=ts),
            max_steps=16,
            adjoint=diffrax.DirectAdjoint(),
        )
        return solution.ys


def get_data(ts, dataset_size):
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, (dataset_size, 1))
    spiral = np.stack([np.cos(angle + ts), np.sin(angle + ts)], axis=-1)
    return (spiral * np.exp(-0.3 * ts)[:, None]).astype(np.float32)


def train(optax):
    ts = np.linspace(0.0, 3.0, 16, dtype=np.float32)
    ys = jnp.asarray(get_data(ts, 16))
    ts = jnp.asarray(ts)
    model = NeuralODE(Func(2, 16, 1, key=jax.random.key(2)))

    @eqx.filter_value_and_grad
    def grad_loss(model, ti, yi):
        y_pred = jax.vmap(model, in_axes=(None, 0))(ti, yi[:, 0])
        return jnp.mean((yi - y_pred) ** 2)

    @eqx.filter_jit
    def make_step(ti, yi, model, opt_state):
        loss, grads = grad_loss(model, ti, yi)
        updates, opt_state = optim.update(grads, opt_state)
        model = eqx.apply_updates(model, updates)
        return loss, model, opt_state

    optim = optax.adabelief(optax.piecewise_constant_schedule(3e-3, {15: 10 / 3}))
    opt_state = optim.init(eqx.filter(model, eqx.is_inexact_array))
    history = []
    for _ in range(40):
        loss, model, opt_state = make_step(ts, ys, model, opt_state)
        history.append(float(loss))
    return history
