"""Every public optimizer and transformation once, for tests that hold for all of them.

`tests/transforms/test_everything.py` checks that no public name is missing.
"""

import jax
import jax.numpy as jnp

import lrjax as L

ADAM = L.adam(0.1)
# those that can't be made of no arguments, or of the rate alone
ARGUMENTS = {
    "MultiSteps": (ADAM, 2),
    "apply_every": (2,),
    "chain": (L.clip(1.0), ADAM),
    "named_chain": (("clip", L.clip(1.0)), ("adam", ADAM)),
    "apply_if_finite": (ADAM,),
    "conditionally_mask": (ADAM, lambda step: step % 2 == 1),
    "conditionally_transform": (ADAM, lambda step: step % 2 == 1),
    "stateless": (lambda updates, params: jax.tree.map(lambda u: u + u, updates),),
    "stateless_with_tree_map": (lambda u, p: u + u,),
    "flatten": (ADAM,),
    "packed": (L.chain(L.clip_by_global_norm(1.0), L.adamw(0.1)),),
    "record_learning_rate": (0.1,),
    "scale": (0.1,),
    "scale_by_learning_rate": (0.1,),
    "scale_by_madgrad": (0.1,),
    "scale_by_rprop": (0.1,),
    "scale_by_schedule": (L.linear_schedule(1.0, 0.0, 10),),
    "lookahead": (ADAM, 2, 0.5),
    "freeze": (True,),
    "masked": (ADAM, True),
    "partition": ({"all": ADAM}, lambda params: jax.tree.map(lambda p: "all", params)),
    "multi_transform": ({"all": ADAM}, lambda params: jax.tree.map(lambda p: "all", params)),
    "ema": (0.9,),
    "trace": (0.9,),
    "measured": (L.global_norm,),
    "measure_with_ema": (L.global_norm, 0.9),
    "monitor": ({"norm": L.global_norm, "mean": L.measure_with_ema(L.global_norm, 0.9)},),
    "snapshot": ("norm", L.global_norm),
    "add_noise": (0.1, 0.55),
    "adaptive_grad_clip": (0.1,),
    "clip": (0.5,),
    "clip_by_block_rms": (0.5,),
    "clip_by_global_norm": (0.5,),
    "contract": (0.1,),
    "polyak_sgd": (),
}
KEYWORDS = {"selective_transform": {"optimizer": ADAM, "freeze_mask": False}}
BASES = ("GradientTransformation", "GradientTransformationExtraArgs")
NEW_TREE = ("measured", "measure_with_ema", "lookahead")  # their updates are another tree than the parameters


def _is_public(name, thing):
    return isinstance(thing, type) and issubclass(thing, L.GradientTransformation) and name not in (*BASES, "injected")


def _made(name, cls):
    needs_rate = cls.__module__.startswith("lrjax.optimizers") and name not in ARGUMENTS
    return cls(*ARGUMENTS.get(name, (0.1,) if needs_rate else ()), **KEYWORDS.get(name, {}))


EVERYTHING = {name: _made(name, cls) for name, cls in vars(L).items() if _is_public(name, cls) and name not in KEYWORDS}
EVERYTHING |= {name: getattr(L, name)(**kwargs) for name, kwargs in KEYWORDS.items()}
EVERYTHING["injected"] = L.inject_hyperparams(L.adam)(0.1)
EVERYTHING["scheduled"] = L.adam(0.1, b1=L.linear_schedule(0.9, 0.8, 10))
EVERYTHING["adafactor, factored"] = L.adafactor(0.1, min_dim_size_to_factor=2, momentum=0.9)
EVERYTHING["MultiSteps, skipping"] = L.MultiSteps(ADAM, 2, should_skip_update_fn=L.skip_not_finite)


def params_of(name, params):
    """What the transformation takes as its parameters."""
    return L.LookaheadParams.init_synced(params) if name == "lookahead" else params


def loss(params):
    """A loss whose second derivative depends on the parameters."""
    numbers = [p for p in jax.tree.leaves(params) if jnp.issubdtype(p.dtype, jnp.inexact)]
    return sum((jnp.sum(p**2 + p**4) for p in numbers), jnp.zeros(()))


def extra_args(name):
    """What the transformation takes besides."""
    if name in ("sophia", "scale_by_sophia", "hutchinson_estimator_diag_hessian"):
        return {"obj_fn": loss}
    return {"value": jnp.float32(2.0)} if "polyak" in name else {}
