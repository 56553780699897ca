"""The public transformations that the tests run through: the one table in which a new one gets a row.

A row has what can't be derived from the docstring's example: `Case()` is enough for a transformation from a paper
without numbers.
"""

from typing import Any, NamedTuple

import jax

import lrjax as L

ADAM = L.adam(0.1)
OTHERWISE = (
    "numbers that count or bound, that act later than the second step, on matrices, or not on the updates, or that "
    "come from the state"
)


UNCLIPPED = (("clip_threshold", None),)  # where no curvature is known, g/eps is more than float16 holds
NOISE = "each array has noise of its own"
SUBNORMAL = "its squared updates are below what float16 has digits for"


class Case(NamedTuple):
    """What the tests have to know of a transformation."""

    # with every number away from 0, 1 and the kinks of its formula, and each of them acting within two updates; or why
    # there is no such value
    numbers: list[L.GradientTransformation] | str = "has no numbers"
    rates: tuple[float, float] = (0.1, 0.02)  # an optimizer's, for a parabola and for Rosenbrock's valley
    source: bool = True  # is from a paper or a library, and names it
    needs: str = ""  # the extra argument of its update
    matrices: bool = False  # takes no other arrays
    real: bool = False  # takes no complex numbers
    without: tuple[tuple[str, Any], ...] = ()  # of the configurations that follow from its arguments
    skips: dict[str, str] = {}  # what doesn't hold for it, and why
    made: L.GradientTransformation | None = None  # for any parameters, where the docstring's is for certain ones


CASES: dict[str, Case] = {
    # optimizers/adam.py
    "adam": Case(
        [
            L.adam(0.1, b1=0.5, b2=0.75, eps=1e-2, eps_root=1e-2),
            L.adam(0.1, b1=0.5, b2=0.75, eps=1e-2, eps_root=1e-2, nesterov=True),
            L.adam(L.inverse_time_decay(0.5, 2, 0.5), b1=0.5, b2=0.75, eps=1e-2, eps_root=1e-2),
        ]
    ),
    "nadam": Case([L.nadam(0.1, b1=0.5, b2=0.75, eps=1e-2, eps_root=1e-2)]),
    "adamw": Case([L.adamw(0.1, b1=0.5, b2=0.75, eps=1e-2, eps_root=1e-2, weight_decay=0.5)]),
    "nadamw": Case([L.nadamw(0.1, b1=0.5, b2=0.75, eps=1e-2, eps_root=1e-2, weight_decay=0.5)]),
    "amsgrad": Case([L.amsgrad(0.1, b1=0.5, b2=0.75, eps=1e-2, eps_root=1e-2)]),
    "adamax": Case([L.adamax(0.1, b1=0.5, b2=0.75, eps=1e-2)]),
    "adamaxw": Case([L.adamaxw(0.1, b1=0.5, b2=0.75, eps=1e-2, weight_decay=0.5)]),
    "optimistic_adam": Case(
        [L.optimistic_adam(0.1, optimism=0.5, b1=0.5, b2=0.75, eps=1e-2, eps_root=1e-2, alpha=0.75)]
    ),
    # optimizers/adaptive.py
    "adagrad": Case([L.adagrad(0.1, initial_accumulator_value=0.5, eps=1e-2)], rates=(1.0, 0.5)),
    "rmsprop": Case(
        [
            L.rmsprop(0.1, decay=0.5, eps=1e-2, initial_scale=0.5, momentum=0.5, nesterov=True),
            L.rmsprop(0.1, decay=0.5, eps=1e-2, initial_scale=0.5, centered=True, momentum=0.25),
        ],
        rates=(0.02, 0.002),
    ),
    "adadelta": Case(
        [L.adadelta(0.5, rho=0.5, eps=1e-2, weight_decay=0.5)], rates=(10.0, 0.1), skips={"dtypes agree": SUBNORMAL}
    ),
    "adabelief": Case([L.adabelief(0.1, b1=0.5, b2=0.75, eps=1e-2, eps_root=1e-2, nesterov=True)]),
    "yogi": Case(
        [L.yogi(0.1, b1=0.5, b2=0.75, eps=1e-2)],
        skips={"complex": "its first moment begins at a positive number, which isn't turned"},
    ),
    "radam": Case(OTHERWISE, rates=(0.1, 0.002)),
    "adan": Case([L.adan(0.1, b1=0.5, b2=0.75, b3=0.25, eps=1e-2, eps_root=1e-2, weight_decay=0.5)]),
    "adopt": Case(OTHERWISE, real=True),
    "ademamix": Case(
        [
            L.ademamix(0.1, b1=0.5, b2=0.75, b3=0.25, alpha=2.0, eps=1e-2, eps_root=1e-2, weight_decay=0.5),
            L.ademamix(
                0.1,
                0.5,
                0.75,
                L.inverse_time_decay(0.5, 2, 0.5),
                L.inverse_time_decay(2.0, 2, 0.5),
                1e-2,
                1e-2,
                None,
                0.5,
            ),
        ]
    ),
    "sophia": Case(OTHERWISE, needs="obj_fn", real=True, without=UNCLIPPED),
    "madgrad": Case([L.madgrad(0.1, momentum=0.5, weight_decay=0.25, eps=1e-2)], rates=(0.1, 0.01)),
    # optimizers/layerwise.py
    "lars": Case([L.lars(0.1, weight_decay=0.5, trust_coefficient=0.5, eps=1e-2, momentum=0.5)], rates=(1.0, 1.0)),
    "lamb": Case([L.lamb(0.1, b1=0.5, b2=0.75, eps=1e-2, eps_root=1e-2, weight_decay=0.5)], rates=(0.1, 0.01)),
    "fromage": Case(OTHERWISE, rates=(0.1, 0.01)),
    "novograd": Case([L.novograd(0.1, b1=0.5, b2=0.75, eps=1e-2, eps_root=1e-2, weight_decay=0.5)], rates=(0.1, 0.01)),
    "muon": Case(OTHERWISE, rates=(0.1, 0.05)),
    # optimizers/memory.py
    "adafactor": Case(OTHERWISE, rates=(0.1, 0.01)),
    "sm3": Case([L.sm3(0.1, momentum=0.5)], rates=(1.0, 0.5), real=True),
    # optimizers/sgd.py
    "sgd": Case([L.sgd(0.1, momentum=0.5)], rates=(0.1, 0.001)),
    "noisy_sgd": Case(
        [L.noisy_sgd(0.1, eta=0.5, gamma=0.5)], rates=(0.1, 0.001), skips={"dtypes agree": NOISE, "complex": NOISE}
    ),
    "optimistic_gradient_descent": Case(
        [L.optimistic_gradient_descent(0.1, alpha=0.75, beta=0.5)], rates=(0.1, 0.0005)
    ),
    "polyak_sgd": Case(OTHERWISE, needs="value"),
    # optimizers/sign.py
    "sign_sgd": Case([L.sign_sgd(0.1)], rates=(0.1, 0.001)),
    "lion": Case([L.lion(0.1, b1=0.5, b2=0.75, weight_decay=0.5, mode="smooth", smooth_beta=0.5)], rates=(0.1, 0.001)),
    "rprop": Case(OTHERWISE, rates=(0.1, 0.01)),
    # transforms/accumulate.py
    "MultiSteps": Case(OTHERWISE, source=False),
    "apply_every": Case(OTHERWISE, source=False),
    # transforms/adam.py
    "scale_by_adam": Case([L.scale_by_adam(b1=0.5, b2=0.75, eps=1e-2, eps_root=1e-2)]),
    "scale_by_amsgrad": Case([L.scale_by_amsgrad(b1=0.5, b2=0.75, eps=1e-2, eps_root=1e-2)]),
    "scale_by_belief": Case([L.scale_by_belief(b1=0.5, b2=0.75, eps=1e-2, eps_root=1e-2)]),
    "scale_by_yogi": Case(
        [L.scale_by_yogi(b1=0.5, b2=0.75, eps=1e-2, eps_root=1e-2, initial_accumulator_value=0.5)],
        skips={"complex": "its first moment begins at a positive number, which isn't turned"},
    ),
    "scale_by_adamax": Case([L.scale_by_adamax(b1=0.5, b2=0.75, eps=1e-2)]),
    "scale_by_radam": Case(OTHERWISE),
    "scale_by_adan": Case([L.scale_by_adan(b1=0.5, b2=0.75, b3=0.25, eps=1e-2, eps_root=1e-2)]),
    "scale_by_ademamix": Case([L.scale_by_ademamix(b1=0.5, b2=0.75, b3=0.25, alpha=2.0, eps=1e-2, eps_root=1e-2)]),
    "scale_by_adopt": Case(OTHERWISE, real=True),
    # transforms/averaging.py
    "ema_params": Case(OTHERWISE),
    "average_params": Case(OTHERWISE),
    "polynomial_average_params": Case(OTHERWISE),
    "swa_params": Case(OTHERWISE),
    # transforms/base.py
    "identity": Case(source=False),
    # transforms/chain.py
    "chain": Case(
        [L.chain(L.clip(0.75), L.named_chain(("trace", L.trace(0.5)), ("sgd", L.sgd(0.1))))],
        source=False,
        skips={"complex": "clips by value"},
    ),
    "named_chain": Case(
        [L.named_chain(("trace", L.trace(0.5)), ("sgd", L.sgd(0.1)))], source=False, skips={"complex": "clips by value"}
    ),
    # transforms/conditional.py
    "conditionally_transform": Case([L.conditionally_transform(L.scale(0.5), lambda step: step >= 1)], source=False),
    "conditionally_mask": Case([L.conditionally_mask(L.scale(0.5), lambda step: step >= 1)], source=False),
    "apply_if_finite": Case([L.apply_if_finite(L.scale(0.5))], source=False),
    # transforms/constraints.py
    "stateless": Case(source=False),
    "stateless_with_tree_map": Case(source=False),
    "keep_params_nonnegative": Case(source=False),
    "zero_nans": Case(source=False),
    "centralize": Case(),
    "normalize_by_update_norm": Case([L.normalize_by_update_norm(scale_factor=0.5, eps=1e-2)], source=False),
    # transforms/curvature.py
    "hutchinson_estimator_diag_hessian": Case(
        needs="obj_fn", skips={"complex": "the diagonal of the Hessian doesn't turn with the parameters"}
    ),
    "scale_by_sophia": Case(OTHERWISE, needs="obj_fn", real=True, without=UNCLIPPED),
    # transforms/decay.py
    "add_decayed_weights": Case([L.add_decayed_weights(0.5)]),
    # transforms/extrapolation.py
    "scale_by_optimistic_gradient": Case([L.scale_by_optimistic_gradient(alpha=0.75, beta=0.5)]),
    "scale_by_polyak": Case(OTHERWISE, needs="value"),
    "scale_by_madgrad": Case([L.scale_by_madgrad(0.1, momentum=0.5, eps=1e-2)]),
    # transforms/factored.py
    "scale_by_factored_rms": Case(OTHERWISE),
    "scale_by_sm3": Case([L.scale_by_sm3(b1=0.5, b2=0.75, eps=1e-2)], real=True),
    # transforms/inject.py
    "injected": Case(
        OTHERWISE,
        source=False,
        without=(("hyperparam_dtype", "bfloat16"),),  # in which b2 is 1
        made=L.inject_hyperparams(L.adam)(0.1),
    ),
    # transforms/layout.py
    "flatten": Case(
        [L.flatten(L.sgd(0.1))],
        source=False,
        skips={"mixed dtypes": "one array has one dtype, and those of different ones don't promote here"},
    ),
    "packed": Case([L.packed(L.sgd(0.1))], source=False),
    # transforms/learning_rate.py
    "scale": Case([L.scale(-0.5)], source=False),
    "scale_by_learning_rate": Case(
        [L.scale_by_learning_rate(L.by_path({"": 0.1})), L.scale_by_learning_rate(0.1)], source=False
    ),
    "scale_by_schedule": Case([L.scale_by_schedule(0.5)], source=False),
    "record_learning_rate": Case(OTHERWISE, source=False),
    # transforms/guard.py
    "guard": Case(
        OTHERWISE,
        source=False,
        made=L.guard(ADAM),
        without=(("memory_kind", "pinned_host"),),  # needs a device with a memory of its own
    ),
    # transforms/lookahead.py
    "lookahead": Case(OTHERWISE, skips={"accumulation": "its gradients are those of the fast parameters alone"}),
    # transforms/masking.py
    "masked": Case([L.masked(L.scale(-0.5), True)], source=False, made=L.masked(ADAM, True)),
    "partition": Case(
        [L.partition({"a": L.sgd(0.1)}, "a")],
        source=False,
        made=L.partition({"all": ADAM}, lambda params: jax.tree.map(lambda p: "all", params)),
    ),
    "set_to_zero": Case(source=False),
    "freeze": Case(source=False, made=L.freeze(True)),
    "selective_transform": Case(
        [L.selective_transform(L.sgd(0.1), freeze_mask=False)],
        source=False,
        made=L.selective_transform(ADAM, freeze_mask=False),
    ),
    # transforms/momentum.py
    "trace": Case([L.trace(0.5, nesterov=True)]),
    "ema": Case([L.ema(0.5)], source=False),
    # transforms/monitoring.py
    "snapshot": Case(source=False),
    "measured": Case(source=False),
    "monitor": Case(OTHERWISE, source=False),
    "measure_with_ema": Case(OTHERWISE, source=False),
    # transforms/noise.py
    "add_noise": Case([L.add_noise(eta=0.5, gamma=0.5)], skips={"dtypes agree": NOISE, "complex": NOISE}),
    # transforms/norms.py
    "clip": Case([L.clip(0.75)], source=False, real=True),
    "clip_by_global_norm": Case([L.clip_by_global_norm(0.5)]),
    "clip_by_block_rms": Case([L.clip_by_block_rms(0.5)]),
    "adaptive_grad_clip": Case([L.adaptive_grad_clip(0.5, eps=3.0)]),
    # transforms/orthogonal.py
    "scale_by_muon": Case(OTHERWISE, matrices=True),
    "scale_by_shape": Case(matrices=True),
    # transforms/plateau.py
    "reduce_on_plateau": Case(OTHERWISE, needs="value"),
    "reduce_on_stall": Case(OTHERWISE, needs="value"),
    # transforms/second_moment.py
    "scale_by_rss": Case([L.scale_by_rss(initial_accumulator_value=0.5, eps=1e-2)]),
    "scale_by_rms": Case([L.scale_by_rms(decay=0.5, eps=1e-2, initial_scale=0.5, bias_correction=True)]),
    "scale_by_stddev": Case([L.scale_by_stddev(decay=0.5, eps=1e-2, initial_scale=0.5)]),
    "scale_by_adadelta": Case([L.scale_by_adadelta(rho=0.5, eps=1e-2)], skips={"dtypes agree": SUBNORMAL}),
    "scale_by_novograd": Case([L.scale_by_novograd(b1=0.5, b2=0.75, eps=1e-2, eps_root=1e-2, weight_decay=0.5)]),
    # transforms/sign.py
    "scale_by_sign": Case(),
    "scale_by_lion": Case([L.scale_by_lion(b1=0.5, b2=0.75, mode="smooth", smooth_beta=0.5)]),
    "scale_by_rprop": Case(OTHERWISE),
    # transforms/spikes.py
    "skip_spikes": Case(OTHERWISE),
    "clip_by_zscore": Case(OTHERWISE),
    "clip_by_history": Case(OTHERWISE),
    # transforms/trust_ratio.py
    "scale_by_trust_ratio": Case(OTHERWISE),
    "scale_by_param_block_norm": Case(OTHERWISE, source=False),
    "scale_by_param_block_rms": Case(OTHERWISE),
    "contract": Case([L.contract(0.5)]),
}
