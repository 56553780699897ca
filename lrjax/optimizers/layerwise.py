"""Layer-wise methods, which treat each array as a unit: by its norm, or as a matrix."""

from typing import Literal

from lrjax.domains import Decay, DType, Momentum, NonNegative, Number, Positive, Size
from lrjax.schedules.base import RateOrSchedule, ScheduleLike
from lrjax.schedules.groups import ScalarOrSchedule
from lrjax.transforms.adam import scale_by_adam
from lrjax.transforms.base import optimizer
from lrjax.transforms.chain import chain
from lrjax.transforms.decay import add_decayed_weights
from lrjax.transforms.learning_rate import scale_by_learning_rate
from lrjax.transforms.masking import Mask, RequiredMask, masked, partition
from lrjax.transforms.momentum import trace
from lrjax.transforms.orthogonal import (
    PRESETS,
    Coefficients,
    DimensionNumbers,
    label_matrices,
    scale_by_muon,
    scale_by_shape,
)
from lrjax.transforms.second_moment import scale_by_novograd
from lrjax.transforms.trust_ratio import contract, scale_by_trust_ratio


@optimizer
def lars(
    learning_rate: ScalarOrSchedule,
    weight_decay: ScheduleLike = 0.0,
    weight_decay_mask: Mask = True,
    trust_coefficient: NonNegative = 0.001,
    eps: NonNegative = 0.0,
    trust_ratio_mask: RequiredMask = True,
    momentum: Number = 0.9,
    nesterov: bool = False,
):
    """LARS, for large batches: momentum with layer-wise steps in proportion to the norm of each array.

    u = trust_coefficient·‖p‖/(‖g‖ + eps)·g of g + weight_decay·p; m ← −η·u + momentum·m; p ← p + m

    Needs: `params`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.lars(0.1, trust_coefficient=0.5), jnp.array([6.0, 8.0])
    >>> tx.update(jnp.array([0.3, 0.4]), tx.init(params), params)[0]
    Array([-0.3, -0.4], dtype=float32)

    Source: You, Gitman & Ginsburg 2017, Large Batch Training of Convolutional Networks, arXiv:1708.03888, algorithm 1.
    """
    return chain(
        add_decayed_weights(weight_decay, weight_decay_mask),
        masked(scale_by_trust_ratio(0.0, trust_coefficient, eps), trust_ratio_mask),
        scale_by_learning_rate(learning_rate),
        trace(momentum, nesterov),
    )


@optimizer
def lamb(
    learning_rate: ScalarOrSchedule,
    b1: Momentum = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-6,
    eps_root: NonNegative = 0.0,
    weight_decay: ScheduleLike = 0.0,
    mask: Mask = None,
):
    """LAMB, for large batches: AdamW with layer-wise steps in proportion to the norm of each array.

    p ← p − η·‖p‖/‖u‖·u, u = μ̂/(√(ν̂ + eps_root) + eps) + weight_decay·p

    Needs: `params`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.lamb(0.1), jnp.array([3.0, 4.0])
    >>> tx.update(jnp.array([0.5, -0.5]), tx.init(params), params)[0].round(4)
    Array([-0.3536,  0.3536], dtype=float32)

    Source: You et al. 2020, Large Batch Optimization for Deep Learning, arXiv:1904.00962, algorithm 2.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_trust_ratio(),
        scale_by_learning_rate(learning_rate),
    )


@optimizer
def fromage(learning_rate: RateOrSchedule, min_norm: NonNegative = 1e-6):
    """Fromage: steps of a fixed fraction of each array's norm, rescaled so that the norm doesn't grow.

    p ← (p − η·‖p‖/‖g‖·g)/√(1 + η²); norms count as at least `min_norm`

    Needs: `params`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.fromage(0.75), jnp.array([10.0, 0.0])
    >>> tx.update(jnp.array([0.0, 1.0]), tx.init(params), params)[0]
    Array([-2., -6.], dtype=float32)

    Source: Bernstein et al. 2020, On the distance between two neural networks and the stability of learning,
    arXiv:2002.03432, algorithm 1.
    """
    return chain(scale_by_trust_ratio(min_norm), scale_by_learning_rate(learning_rate), contract(learning_rate))


@optimizer
def novograd(
    learning_rate: ScalarOrSchedule,
    b1: Number = 0.9,
    b2: Decay = 0.25,
    eps: NonNegative = 1e-6,
    eps_root: NonNegative = 0.0,
    weight_decay: Number = 0.0,
):
    """NovoGrad: momentum of layer-wise normalized gradients, with one second moment per array.

    p ← p − η·μ, μ as in `scale_by_novograd`

    Needs: `params`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.novograd(0.1), jnp.zeros(2)
    >>> tx.update(jnp.array([3.0, 4.0]), tx.init(params), params)[0].round(6)
    Array([-0.06, -0.08], dtype=float32)

    Source: Ginsburg et al. 2019, Stochastic Gradient Methods with Layer-wise Adaptive Moments, arXiv:1905.11286,
    algorithm 1.
    """
    return chain(scale_by_novograd(b1, b2, eps, eps_root, weight_decay), scale_by_learning_rate(learning_rate))


@optimizer
def muon(
    learning_rate: ScalarOrSchedule,
    ns_coeffs: Coefficients = PRESETS["standard"],
    ns_steps: Size = 5,
    beta: Momentum = 0.95,
    eps: NonNegative = 1e-8,
    weight_decay: ScheduleLike = 0.0,
    weight_decay_mask: Mask = None,
    mu_dtype: DType | None = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: Literal["frobenius", "spectral", "aol", "schatten"] = "frobenius",
    adam_b1: Momentum = 0.9,
    adam_b2: Decay = 0.999,
    adam_eps_root: NonNegative = 0.0,
    adam_weight_decay: ScheduleLike = 0.0,
    adam_learning_rate: ScalarOrSchedule | None = None,
    muon_weight_dimension_numbers: DimensionNumbers = None,
    consistent_rms: Positive | None = None,
):
    """Muon: orthogonalized momentum for matrices, AdamW for the rest.

    p ← p − η·(√max(1, columns/rows)·u + weight_decay·p) for a matrix, u as in `scale_by_muon`

    A parameter with two axes is a matrix; to choose others give `muon_weight_dimension_numbers`, a tree of
    `MuonDimensionNumbers` and None (or a prefix of one, or a function from the parameters to one). The default of
    `adam_learning_rate` is `learning_rate`.

    State: `PartitionState`, by 'muon' and 'adam'. Needs: `params`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.muon(0.1), {"w": jnp.eye(2), "b": jnp.zeros(2)}
    >>> lrjax.get_learning_rate(tx.init(params))
    {'adam': Array(0.1, dtype=float32), 'muon': Array(0.1, dtype=float32)}

    Source: Jordan et al. 2024, Muon, kellerjordan.github.io/posts/muon; `consistent_rms`: Liu et al. 2025, Muon is
    Scalable for LLM Training, arXiv:2502.16982, eq. 4.
    """
    numbers, adam_rate = muon_weight_dimension_numbers, adam_learning_rate
    options = {"nesterov": nesterov, "adaptive": adaptive, "preconditioning": preconditioning}
    matrices = chain(
        scale_by_muon(ns_coeffs, ns_steps, beta, eps, mu_dtype, **options, weight_dimension_numbers=numbers),
        scale_by_shape(numbers, consistent_rms),
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_learning_rate(learning_rate),
    )
    rest = chain(
        scale_by_adam(adam_b1, adam_b2, eps, adam_eps_root, mu_dtype, nesterov=nesterov),
        add_decayed_weights(adam_weight_decay),
        scale_by_learning_rate(learning_rate if adam_rate is None else adam_rate),
    )
    return partition({"muon": matrices, "adam": rest}, label_matrices(numbers))
