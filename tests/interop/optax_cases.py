"""A small problem for every name that lrjax shares with Optax: the value to compare, made by either library.

What the other tests compare over many steps is taken from there.
"""

import inspect
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import optax.transforms

import lrjax
from tests.optimizers.test_against_optax import CASES as OPTIMIZERS
from tests.schedules.cases import CASES as SCHEDULES
from tests.transforms.test_composition import PAIRS
from tests.transforms.test_formulas import CASES as FORMULAS

# as `import optax` with its submodules' names at the top, where lrjax has them
THEIRS = SimpleNamespace(**vars(optax.transforms) | vars(optax.schedules) | vars(optax.contrib) | vars(optax))
Library = ModuleType | SimpleNamespace

RNG = np.random.default_rng(0)
PARAMS = {"w": jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32), "b": jnp.asarray(RNG.normal(size=3), jnp.float32)}
GRADS = [jax.tree.map(lambda p: jnp.asarray(RNG.normal(size=p.shape), p.dtype), PARAMS) for _ in range(5)]
MATRICES = [{"w": g["w"]} for g in GRADS]
STEPS = np.arange(31)


def loss(params: Any) -> Any:
    return sum(jnp.sum(p**4) for p in jax.tree.leaves(params))


def updates(tx: Any, params: Any = PARAMS, grads: Any = GRADS, moves: bool = True, **extra: Any) -> Any:
    """All updates, each at the parameters that the one before it has left, if they move."""
    state, seen = tx.init(params), []
    update = jax.jit(lambda g, s, p: tx.update(g, s, p, **extra))
    for g in grads:
        u, state = update(g, state, params)
        params = jax.tree.map(jnp.add, params, u) if moves else params
        seen.append(u)
    return jax.tree.map(lambda *u: np.stack(u), *seen)


def doubling(base: Any) -> Any:
    class Doubling(base):
        def init(self) -> Any:
            return jnp.ones(())

        def update(self, state: Any, **extra_args: Any) -> Any:
            return 2 * state

        def __call__(self, state: Any, **extra_args: Any) -> Any:
            return state

    return Doubling()


def call(name: str, *args: Any, **kwargs: Any) -> Callable[[Library], Any]:
    return lambda m: getattr(m, name)(*args, **kwargs)


TRANSFORMATIONS: dict[str, Callable[[Library], Any]] = {
    "adagrad": call("adagrad", 0.1),
    "adam": call("adam", 0.1, eps_root=1e-8, nesterov=True),
    "adamw": call("adamw", 0.1, weight_decay=0.1),
    "amsgrad": call("amsgrad", 0.1),
    "chain": lambda m: m.chain(m.clip(0.5), m.ema(0.9), m.scale(-0.1)),
    "identity": call("identity"),
    "inject_hyperparams": lambda m: m.inject_hyperparams(m.adam)(m.linear_schedule(0.1, 0.0, 10), b1=0.8),
    "multi_transform": lambda m: m.multi_transform({1: m.sgd(0.1), 2: m.adam(0.5)}, {"w": 1, "b": 2}),
    "named_chain": lambda m: m.named_chain(("clip", m.clip(0.5)), ("sgd", m.sgd(0.1, momentum=0.9))),
    "optimistic_adam": lambda m: m.optimistic_adam(0.1),
    "rmsprop": call("rmsprop", 0.1, centered=True, momentum=0.9, nesterov=True),
    "scale_by_adadelta": call("scale_by_adadelta"),
    "scale_by_adamax": call("scale_by_adamax"),
    "scale_by_adan": call("scale_by_adan"),
    "scale_by_ademamix": call("scale_by_ademamix", alpha=2.0),
    "scale_by_adopt": call("scale_by_adopt", nesterov=True),
    "scale_by_belief": call("scale_by_belief", nesterov=True),
    "scale_by_factored_rms": call("scale_by_factored_rms", min_dim_size_to_factor=3),
    "scale_by_lion": call("scale_by_lion"),
    "scale_by_madgrad": call("scale_by_madgrad", 0.1),
    "scale_by_novograd": call("scale_by_novograd", weight_decay=0.1),
    "scale_by_optimistic_gradient": call("scale_by_optimistic_gradient", 0.7, 0.5),
    "scale_by_param_block_norm": call("scale_by_param_block_norm", 0.1),
    "scale_by_param_block_rms": call("scale_by_param_block_rms", 0.1),
    "scale_by_radam": call("scale_by_radam", b2=0.9),
    "scale_by_schedule": lambda m: m.scale_by_schedule(m.linear_schedule(0.1, 0.0, 4)),
    "scale_by_sign": call("scale_by_sign"),
    "scale_by_sm3": call("scale_by_sm3"),
    "scale_by_yogi": call("scale_by_yogi"),
    "selective_transform": PAIRS["selective"],
    "sgd": call("sgd", 0.1, momentum=0.9, nesterov=True),
    "with_extra_args_support": lambda m: m.with_extra_args_support(m.adam(0.1)),
}
for _name, _kwargs in OPTIMIZERS:
    TRANSFORMATIONS.setdefault(_name, call(_name, 0.1, **_kwargs))
for _make, _args, _kwargs, _ in FORMULAS:
    TRANSFORMATIONS.setdefault(_make.__name__, call(_make.__name__, *_args, **_kwargs))
for _name, _pair in PAIRS.items():
    if hasattr(lrjax, _name):
        TRANSFORMATIONS.setdefault(_name, _pair)

SCHEDULE_CALLS: dict[str, list[dict[str, Any]]] = {}

# what has to be compared in another way than by the updates of a tree
VALUES: dict[str, Callable[[Library], Any]] = {
    "apply_updates": lambda m: m.apply_updates(PARAMS, GRADS[0]),
    "global_norm": lambda m: m.global_norm(PARAMS),
    "hutchinson_estimator_diag_hessian": lambda m: updates(
        m.hutchinson_estimator_diag_hessian(), moves=False, obj_fn=loss
    ),
    "incremental_update": lambda m: m.incremental_update(GRADS[0], PARAMS, 0.3),
    "join_schedules": lambda m: m.join_schedules([m.linear_schedule(0.0, 1.0, 5), m.linear_schedule(2.0, 0.0, 9)], [5])(
        STEPS
    ),
    "lookahead": lambda m: updates(m.lookahead(m.adam(0.1), 3, 0.5, True), m.LookaheadParams.init_synced(PARAMS)),
    "measure_with_ema": lambda m: updates(m.measure_with_ema(m.global_norm, 0.9), moves=False),
    "muon": lambda m: updates(m.muon(0.1, weight_decay=0.1)),
    "per_example_global_norm_clip": lambda m: m.per_example_global_norm_clip(list(PARAMS.values())[:1], 0.5),
    "per_example_layer_norm_clip": lambda m: m.per_example_layer_norm_clip(list(PARAMS.values())[:1], 0.5),
    "periodic_update": lambda m: [m.periodic_update(GRADS[0], PARAMS, step, 2) for step in (3, 4)],
    "polyak_sgd": lambda m: updates(m.polyak_sgd(0.2, f_min=0.1, variant="sps+"), value=jnp.float32(3.0)),
    "scale_by_muon": lambda m: updates(m.scale_by_muon(), PARAMS["w"], [g["w"] for g in GRADS]),
    "scale_by_polyak": lambda m: updates(m.scale_by_polyak(0.1, 0.2), value=jnp.float32(3.0)),
    "safe_increment": lambda m: [m.safe_increment(jnp.int32(count)) for count in (3, 2**31 - 1)],
    "StatefulSchedule": lambda m: updates(m.inject_hyperparams(m.scale)(doubling(m.StatefulSchedule))),
    "WrappedSchedule": lambda m: updates(
        m.inject_hyperparams(m.scale)(m.WrappedSchedule(m.linear_schedule(1.0, 0.0, 4)))
    ),
    "unitwise_norm": lambda m: [
        m.unitwise_norm(jnp.ones(shape)) for shape in ((), (3,), (3, 2), (3, 2, 4), (2, 2, 3, 4))
    ],
    "skip_large_updates": lambda m: [m.skip_large_updates(GRADS[0], 0, None, norm) for norm in (0.1, 100.0)],
    "skip_not_finite": lambda m: [m.skip_not_finite(g, 0, None) for g in (GRADS[0], {"w": jnp.array([1.0, jnp.nan])})],
    "sophia": lambda m: updates(m.sophia(0.1, update_interval=2), obj_fn=loss),
}
for _name, _case in SCHEDULES.items():
    _known = inspect.signature(getattr(THEIRS, _name)).parameters if hasattr(THEIRS, _name) else {}
    for _arguments in [make(20) for _, make in _case.rows if set(make(20)) <= set(_known)]:
        SCHEDULE_CALLS.setdefault(_name, []).append(_arguments)
for _name, _calls in SCHEDULE_CALLS.items():
    # Optax's take one step at a time
    VALUES.setdefault(_name, lambda m, n=_name, calls=_calls: [jax.vmap(getattr(m, n)(**c))(STEPS) for c in calls])
for _name, _make in TRANSFORMATIONS.items():
    VALUES.setdefault(_name, lambda m, make=_make: updates(make(m)))
