# pyright: basic, reportUnnecessaryTypeIgnoreComment=true
"""What pyright and mypy say of values: how they are made, narrowed by `isinstance`, combined and written by users.

Every line with an ignore comment must be an error to both: an unneeded ignore is an error itself.
"""

from typing import Any, NamedTuple, assert_type

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lrjax
from lrjax.domains import Decay, Rate, Steps

params = {"w": jnp.zeros(3)}
line = lrjax.linear_schedule(0.1, 0.0, 100)

# `isinstance` narrows, also what nothing is known of, and the hyperparameters can be read.
tx: lrjax.GradientTransformation = lrjax.adam(line)
if isinstance(tx, lrjax.adam):
    assert_type(tx, lrjax.GradientTransformation)
    lrjax.sgd(tx.learning_rate, momentum=tx.b1)
    tx + 1  # type: ignore[operator]
elif isinstance(tx, (lrjax.sgd, lrjax.lion)):
    assert_type(tx, lrjax.GradientTransformation)
else:
    tx.update(params)  # type: ignore[call-arg]


def describe(schedule: lrjax.Schedule) -> str:
    if isinstance(schedule, lrjax.cosine_decay_schedule):
        assert_type(schedule, lrjax.Schedule)
        return f"{schedule(0)} for {schedule.decay_steps} steps"
    return repr(schedule)


for part in lrjax.chain(lrjax.clip(1.0), tx).transforms:
    print(part)

# Numbers are real: Python's, NumPy's, JAX's, or an array of them.
lrjax.scale_by_adam(b1=np.float32(0.9), b2=jnp.array([0.9, 0.99]), eps=np.array(1e-8), eps_root=0)
lrjax.tabulated_schedule([0.1, 0.2])
lrjax.piecewise_constant_schedule(0.1, {10: 0.5, np.int64(20): 0.5})
lrjax.piecewise_constant_schedule(0.1, [(10, 0.5)])
lrjax.scale_by_adam(b1="x")  # type: ignore[arg-type]
lrjax.scale_by_adam(b1=0.9j)  # type: ignore[arg-type]
lrjax.scale_by_adam(0.9, 0.999, nesterov="yes")  # type: ignore[arg-type]
lrjax.scale_by_adam(beta=0.9)  # type: ignore[call-arg]
lrjax.trace("x")  # type: ignore[arg-type]
lrjax.trace()  # type: ignore[call-arg]
lrjax.clip(None)  # type: ignore[arg-type]

# A rate is a number, a schedule, a function of the step, or a tree of these; a mask a tree of bools or one of them.
lrjax.adam({"body": 1e-3, "head": [line, lambda step: 0.1]})
lrjax.adam(lrjax.by_path({"bias$": 0.2, "": 1e-4}))
lrjax.adam(optax.linear_schedule(0.1, 0.0, 10))
lrjax.madgrad(line)
lrjax.masked(lrjax.clip(1.0), {"w": True})
lrjax.lars(0.1, weight_decay_mask=True)
lrjax.adam("fast")  # type: ignore[arg-type]
lrjax.madgrad({"w": 0.1})  # type: ignore[arg-type]
lrjax.masked(lrjax.clip(1.0), "all")  # type: ignore[arg-type]

# Optax's optimizers go where ours go, and our updates where Optax's go.
foreign = optax.adam(1e-3)
assert_type(lrjax.chain(lrjax.clip(1.0), foreign), lrjax.GradientTransformation)
lrjax.MultiSteps(foreign, 4)
lrjax.with_extra_args_support(foreign).init(params)
task = lrjax.Task(lambda params, batch: jnp.mean(batch * params["w"]), params, jnp.ones((8, 3)), batch_size=4)
lrjax.train(task, foreign, steps=10)
lrjax.masked((foreign.init, foreign.update), True)
lrjax.chain(lrjax.clip(1.0), 0.1)  # type: ignore[arg-type]
lrjax.MultiSteps("adam", 4)  # type: ignore[arg-type]
lrjax.named_chain(("clip", lrjax.clip(1.0)), lrjax.scale(-0.1))  # type: ignore[arg-type]


# A user's own function keeps its arguments.
@lrjax.schedule
def halving(step, init_value: Rate, half_life: Steps = 10):
    return init_value * 0.5 ** (step / half_life)


assert_type(halving(0.1) * 0.5, lrjax.Schedule)
assert_type(halving(0.1, half_life=5)(3), jax.Array)
halving()  # type: ignore[call-arg]
halving("0.1")  # type: ignore[arg-type]
halving(0.1, halflife=5)  # type: ignore[call-arg]


@lrjax.optimizer
def momentum_sgd(learning_rate: lrjax.ScalarOrSchedule, momentum: Decay = 0.9):
    return lrjax.chain(lrjax.trace(momentum), lrjax.scale_by_learning_rate(learning_rate))


assert_type(momentum_sgd(halving(0.1)), lrjax.GradientTransformation)
momentum_sgd()  # type: ignore[call-arg]
momentum_sgd(0.1, "much")  # type: ignore[arg-type]


class SumState(NamedTuple):
    t: jax.Array
    sum: Any


@lrjax.elementwise(SumState)
def scaled_sum(t, scale: Decay = 0.9):
    return lambda g, sum: (scale * (sum + g) / t, sum + g)


assert_type(scaled_sum(0.5), lrjax.GradientTransformation)
scaled_sum(t=1)  # type: ignore[call-arg]
scaled_sum("half")  # type: ignore[arg-type]


@lrjax.transformation(lambda params, tx: lrjax.EmptyState())
def negated(updates, state, params, scale: Rate = 1.0):
    return jax.tree.map(lambda u: -scale * u, updates), state


assert_type(negated(2.0), lrjax.GradientTransformation)
negated(scale="2")  # type: ignore[arg-type]
