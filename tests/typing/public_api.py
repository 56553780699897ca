# pyright: basic, reportUnnecessaryTypeIgnoreComment=true
"""What pyright and mypy say of the public API; `.ci/run` checks the files here, nothing runs them.

Every line with an ignore comment must be an error to both: an unneeded ignore is an error itself.
"""

from typing import assert_type

import jax
import jax.numpy as jnp

import lrjax

# Schedules are values that map a step to an array.
cosine = lrjax.cosine_decay_schedule(0.1, decay_steps=100)
assert_type(cosine, lrjax.Schedule)
assert_type(cosine(5), jax.Array)
assert_type(cosine(jnp.arange(5)), jax.Array)
assert_type(cosine * 0.5, lrjax.Schedule)
assert_type(0.5 * cosine + cosine, lrjax.Schedule)
assert_type(cosine.warmup(10).clip(high=0.05).delay(1).stretch(2).repeat(100), lrjax.Schedule)
lrjax.join_schedules([cosine, lambda step: 0.1], [100])
assert_type(lrjax.extend_schedule(cosine, at=50, total=100, new_total=200), lrjax.Schedule)
lrjax.cooldown_schedule(cosine, start=50, steps=10, shape="cosine")
lrjax.piecewise_constant_schedule(0.1, {10: 0.5})
lrjax.cyclic_schedule(0.1, 0.2, 10, mode="triangular2")

lrjax.cosine_decay_schedule(0.1)  # type: ignore[call-arg]
lrjax.cosine_decay_schedule(0.1, 100, stepz=3)  # type: ignore[call-arg]
lrjax.cosine_decay_schedule("0.1", 100)  # type: ignore[arg-type]
lrjax.cyclic_schedule(0.1, 0.2, 10, mode="square")  # type: ignore[arg-type]

# Optimizers are values with an init and an update.
adam = lrjax.adam(cosine)
assert_type(adam, lrjax.GradientTransformation)
assert_type(lrjax.chain(lrjax.clip(1.0), adam), lrjax.GradientTransformation)
assert_type(lrjax.with_hyperparams(adam, b1=0.5), lrjax.GradientTransformation)
params = {"w": jnp.zeros(3)}
updates, state = adam.update(params, adam.init(params), params)
lrjax.apply_updates(params, updates)
lrjax.get_learning_rate(state)
assert_type(lrjax.migrate_state(state, adam, params), lrjax.Migration)
init, update = adam

lrjax.adam()  # type: ignore[call-arg]
lrjax.adam(1e-3, beta1=0.9)  # type: ignore[call-arg]
lrjax.sgd("fast")  # type: ignore[arg-type]

# A task is a value that every function takes.
task = lrjax.Task(lambda params, batch: jnp.mean(batch * params["w"]), params, jnp.ones((8, 3)), batch_size=4)
assert_type(lrjax.train(task, adam, steps=10), lrjax.Run)
lrjax.train(task, adam, steps=20, start=lrjax.train(task, adam, steps=10))
lrjax.train(task, adam, steps=20, start="run.pkl")  # type: ignore[arg-type]
assert_type(lrjax.sweep(task, lrjax.adam, learning_rates=[0.1, 0.2], steps=10), lrjax.SweepResult)
assert_type(lrjax.tune(task, adam, steps=10).run, lrjax.Run | None)
assert_type(lrjax.compare(task, {"adam": adam}, steps=10), lrjax.Comparison)
assert_type(lrjax.range_test(task, adam).suggestions, dict[str, float])
check = lrjax.coordinate_check(lambda width: task, [32, 64], lambda width: lrjax.adam(1 / width), steps=2)
assert_type(check.verdict, str)
lrjax.adam(
    lrjax.width_multipliers(params, params, lrjax.cosine_decay_schedule(0.1, 10), method="adam", axes={"w": (0, 1)})
)
lrjax.sgd(lrjax.scale_rate(lrjax.cosine_decay_schedule(0.1, 10), 64, to=256, rule="linear"))
lrjax.sweep(task, adam, keep="all")
lrjax.train(task, adam, steps=10).params["w"]
lrjax.compare(task, {"adam": adam, "sgd": lrjax.sgd}, steps=10)

lrjax.coordinate_check(task, [32, 64], adam)  # type: ignore[arg-type]
lrjax.scale_rate(0.1, 64, to=256, rule="cubic")  # type: ignore[arg-type]
lrjax.sweep(task, adam, keep="worst")  # type: ignore[arg-type]
lrjax.train(task)  # type: ignore[call-arg]
lrjax.train(task, adam, batch_size=3)  # type: ignore[call-arg]
lrjax.train(task, 0.1, steps=10)  # type: ignore[arg-type]
lrjax.train(task, adam, steps="10")  # type: ignore[arg-type]
lrjax.train(task, lrjax.adam, steps=10)  # type: ignore[arg-type]
lrjax.sweep(task, lrjax.adam, learning_rates="all", steps=10)  # type: ignore[arg-type]
lrjax.tune(task)  # type: ignore[call-arg]
lrjax.tune(task, adam, stepz=10)  # type: ignore[call-arg]
lrjax.compare(task, [adam], steps=10)  # type: ignore[arg-type]
lrjax.Task(params, params, jnp.ones((8, 3)), batch_size=4)  # type: ignore[arg-type]
