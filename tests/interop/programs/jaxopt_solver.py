"""A solver like JAXopt's OptaxSolver, written by hand: init_state, update, and run in lax.while_loop.

Optax: GradientTransformation in an annotation, adam, cosine_decay_schedule, chain, trace, scale, apply_updates,
global_norm in the condition of the loop.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tests.interop.programs.data import diabetes


class OptStep(NamedTuple):
    params: Any
    state: Any


class OptaxState(NamedTuple):
    iter_num: jax.Array
    value: jax.Array
    error: jax.Array
    internal_state: Any


def train(optax):
    @dataclasses.dataclass(eq=False)
    class OptaxSolver:
        fun: Callable
        opt: optax.GradientTransformation
        maxiter: int = 100
        tol: float = 5e-2

        def init_state(self, init_params, *args):
            # a strong type, so that the loop's carry keeps its types
            value = jnp.asarray(jnp.inf, dtype=jnp.float32)
            return OptaxState(jnp.asarray(0), value, value, self.opt.init(init_params))

        def update(self, params, state, *args):
            value, grad = jax.value_and_grad(self.fun)(params, *args)
            delta, opt_state = self.opt.update(grad, state.internal_state, params)
            params = optax.apply_updates(params, delta)
            return OptStep(params, OptaxState(state.iter_num + 1, value, optax.global_norm(grad), opt_state))

        def run(self, init_params, *args):
            unfinished = lambda step: (step.state.error > self.tol) & (step.state.iter_num < self.maxiter)
            body = lambda step: self.update(step.params, step.state, *args)
            start = OptStep(init_params, self.init_state(init_params, *args))
            return jax.jit(lambda step: jax.lax.while_loop(unfinished, body, step))(start)

    def ridge(params, l2reg, data):
        x, y = data
        return 0.5 * jnp.mean((x @ params["w"] + params["b"] - y) ** 2) + 0.5 * l2reg * jnp.sum(params["w"] ** 2)

    data = tuple(map(jnp.asarray, diabetes()))
    init_params = {"w": jnp.zeros(10), "b": jnp.array(1.0)}
    history = []
    for opt in (
        optax.adam(optax.cosine_decay_schedule(0.1, decay_steps=100)),
        optax.chain(optax.trace(decay=0.9, nesterov=True), optax.scale(-0.05)),
    ):
        solver = OptaxSolver(fun=ridge, opt=opt)
        params, state = init_params, solver.init_state(init_params)
        update = jax.jit(solver.update)
        for _ in range(20):
            params, state = update(params, state, 0.1, data)
            history.append(float(state.value))
        params, state = solver.run(init_params, 0.1, data)
        assert 1 < state.iter_num < solver.maxiter  # stopped by the gradient's norm
        history.append(float(state.value))
    return history
