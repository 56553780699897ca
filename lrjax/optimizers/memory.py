"""Methods with sublinear memory: less than one number of state per parameter."""

from lrjax.domains import Decay, Delay, DType, Momentum, NonNegative, Size
from lrjax.schedules.base import ScheduleLike
from lrjax.schedules.groups import ScalarOrSchedule
from lrjax.transforms.base import identity, optimizer
from lrjax.transforms.chain import chain
from lrjax.transforms.decay import add_decayed_weights
from lrjax.transforms.factored import scale_by_factored_rms, scale_by_sm3
from lrjax.transforms.learning_rate import scale, scale_by_learning_rate
from lrjax.transforms.masking import Mask
from lrjax.transforms.momentum import ema
from lrjax.transforms.norms import clip_by_block_rms
from lrjax.transforms.trust_ratio import scale_by_param_block_rms


@optimizer
def adafactor(
    learning_rate: ScalarOrSchedule | None = None,
    min_dim_size_to_factor: Size = 128,
    decay_rate: NonNegative = 0.8,
    decay_offset: Delay = 0,
    multiply_by_parameter_scale: bool = True,
    clipping_threshold: NonNegative | None = 1.0,
    momentum: Momentum | None = None,
    dtype_momentum: DType = "float32",
    weight_decay_rate: ScheduleLike | None = None,
    eps: NonNegative = 1e-30,
    factored: bool = True,
    weight_decay_mask: Mask = None,
):
    """Adafactor: second moments factored into rows and columns, to save memory; steps in proportion to the parameters.

    u = g/√(R·C/mean(R)), its RMS clipped to `clipping_threshold`; p ← p − η·max(rms(p), 1e-3)·u

    Without a rate η = 1. A step before `decay_offset` counts as `decay_offset` (in Optax the moments become nan).

    Needs: `params`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, params = lrjax.adafactor(0.5, min_dim_size_to_factor=2), jnp.full((2, 2), 2.0)
    >>> jnp.allclose(tx.update(jnp.ones((2, 2)), tx.init(params), params)[0], -1)
    Array(True, dtype=bool)

    Source: Shazeer & Stern 2018, Adafactor, arXiv:1804.04235, algorithm 5.
    """
    return chain(
        scale_by_factored_rms(factored, decay_rate, decay_offset, min_dim_size_to_factor, eps),
        identity() if clipping_threshold is None else clip_by_block_rms(clipping_threshold),
        scale_by_learning_rate(1.0 if learning_rate is None else learning_rate, flip_sign=False),
        scale_by_param_block_rms() if multiply_by_parameter_scale else identity(),
        identity() if momentum is None else ema(momentum, debias=False, accumulator_dtype=dtype_momentum),
        identity() if weight_decay_rate is None else add_decayed_weights(weight_decay_rate, weight_decay_mask),
        scale(-1.0),
    )


@optimizer
def sm3(learning_rate: ScalarOrSchedule, momentum: Decay = 0.9):
    """SM3: AdaGrad with one accumulator vector for each axis of an array, to save memory.

    p ← p − η·μ, μ as in `scale_by_sm3`

    >>> import jax.numpy as jnp, lrjax
    >>> tx = lrjax.sm3(0.1, momentum=0.0)
    >>> tx.update(jnp.array([[2.0, -4.0]]), tx.init(jnp.zeros((1, 2))))[0]
    Array([[-0.1,  0.1]], dtype=float32)

    Source: Anil et al. 2019, Memory-Efficient Adaptive Optimization, arXiv:1901.11150, algorithm SM3-II.
    """
    return chain(scale_by_sm3(momentum), scale_by_learning_rate(learning_rate))
