"""Everything people do with a learning rate, as functional transforms on JAX.

A schedule is a pure function from a step to a rate; an optimizer is an `(init, update)` pair; and both are values:
they print, compare, hash, pickle, and pass through `jit`, `vmap` and `grad`.
"""

import lrjax.report.svg  # noqa: F401  (schedules show themselves in a notebook)
from lrjax.config import from_config as from_config
from lrjax.config import to_config as to_config
from lrjax.interop import to_optax as to_optax
from lrjax.optimizers.adaptive import adagrad as adagrad
from lrjax.optimizers.adaptive import adam as adam
from lrjax.optimizers.adaptive import adamw as adamw
from lrjax.optimizers.adaptive import amsgrad as amsgrad
from lrjax.optimizers.adaptive import rmsprop as rmsprop
from lrjax.optimizers.sgd import sgd as sgd
from lrjax.parse import parse_schedule as parse_schedule
from lrjax.schedules.base import ScalarOrSchedule as ScalarOrSchedule
from lrjax.schedules.base import Schedule as Schedule
from lrjax.schedules.base import as_schedule as as_schedule
from lrjax.schedules.base import constant_schedule as constant_schedule
from lrjax.schedules.base import from_callable as from_callable
from lrjax.schedules.base import schedule as schedule
from lrjax.schedules.compose import clip_schedule as clip_schedule
from lrjax.schedules.compose import delay_schedule as delay_schedule
from lrjax.schedules.compose import join_schedules as join_schedules
from lrjax.schedules.compose import product_schedule as product_schedule
from lrjax.schedules.compose import repeat_schedule as repeat_schedule
from lrjax.schedules.compose import stretch_schedule as stretch_schedule
from lrjax.schedules.compose import sum_schedule as sum_schedule
from lrjax.schedules.compose import warmup_schedule as warmup_schedule
from lrjax.schedules.cyclic import cosine_restarts_schedule as cosine_restarts_schedule
from lrjax.schedules.cyclic import cyclic_schedule as cyclic_schedule
from lrjax.schedules.cyclic import sgdr_schedule as sgdr_schedule
from lrjax.schedules.decay import cosine_decay_schedule as cosine_decay_schedule
from lrjax.schedules.decay import exponential_decay as exponential_decay
from lrjax.schedules.decay import inverse_sqrt_schedule as inverse_sqrt_schedule
from lrjax.schedules.decay import inverse_time_decay as inverse_time_decay
from lrjax.schedules.decay import linear_schedule as linear_schedule
from lrjax.schedules.decay import noam_schedule as noam_schedule
from lrjax.schedules.decay import polynomial_schedule as polynomial_schedule
from lrjax.schedules.decay import power_schedule as power_schedule
from lrjax.schedules.decay import rex_schedule as rex_schedule
from lrjax.schedules.decay import step_decay as step_decay
from lrjax.schedules.decay import tabulated_schedule as tabulated_schedule
from lrjax.schedules.decay import tanh_decay as tanh_decay
from lrjax.schedules.epochs import steps_for as steps_for
from lrjax.schedules.piecewise import piecewise_constant_schedule as piecewise_constant_schedule
from lrjax.schedules.piecewise import piecewise_interpolate_schedule as piecewise_interpolate_schedule
from lrjax.schedules.piecewise import piecewise_values_schedule as piecewise_values_schedule
from lrjax.schedules.warmup import cosine_onecycle_schedule as cosine_onecycle_schedule
from lrjax.schedules.warmup import linear_onecycle_schedule as linear_onecycle_schedule
from lrjax.schedules.warmup import three_phase_onecycle_schedule as three_phase_onecycle_schedule
from lrjax.schedules.warmup import warmup_constant_schedule as warmup_constant_schedule
from lrjax.schedules.warmup import warmup_cosine_decay_schedule as warmup_cosine_decay_schedule
from lrjax.schedules.warmup import warmup_exponential_decay_schedule as warmup_exponential_decay_schedule
from lrjax.schedules.warmup import warmup_linear_decay_schedule as warmup_linear_decay_schedule
from lrjax.schedules.warmup import warmup_stable_decay_schedule as warmup_stable_decay_schedule
from lrjax.transforms.base import EmptyState as EmptyState
from lrjax.transforms.base import GradientTransformation as GradientTransformation
from lrjax.transforms.base import apply_updates as apply_updates
from lrjax.transforms.base import chain as chain
from lrjax.transforms.base import identity as identity
from lrjax.transforms.base import named_chain as named_chain
from lrjax.transforms.base import optimizer as optimizer
from lrjax.transforms.base import transformation as transformation
from lrjax.transforms.decay import add_decayed_weights as add_decayed_weights
from lrjax.transforms.elementwise import elementwise as elementwise
from lrjax.transforms.learning_rate import LearningRateState as LearningRateState
from lrjax.transforms.learning_rate import get_learning_rate as get_learning_rate
from lrjax.transforms.learning_rate import scale as scale
from lrjax.transforms.learning_rate import scale_by_learning_rate as scale_by_learning_rate
from lrjax.transforms.learning_rate import scale_by_schedule as scale_by_schedule
from lrjax.transforms.momentum import EmaState as EmaState
from lrjax.transforms.momentum import TraceState as TraceState
from lrjax.transforms.momentum import ema as ema
from lrjax.transforms.momentum import trace as trace
from lrjax.transforms.norms import clip as clip
from lrjax.transforms.norms import clip_by_global_norm as clip_by_global_norm
from lrjax.transforms.norms import global_norm as global_norm
from lrjax.transforms.second_moment import ScaleByAdamState as ScaleByAdamState
from lrjax.transforms.second_moment import ScaleByAmsgradState as ScaleByAmsgradState
from lrjax.transforms.second_moment import ScaleByRmsState as ScaleByRmsState
from lrjax.transforms.second_moment import ScaleByRssState as ScaleByRssState
from lrjax.transforms.second_moment import ScaleByRStdDevState as ScaleByRStdDevState
from lrjax.transforms.second_moment import scale_by_adam as scale_by_adam
from lrjax.transforms.second_moment import scale_by_amsgrad as scale_by_amsgrad
from lrjax.transforms.second_moment import scale_by_rms as scale_by_rms
from lrjax.transforms.second_moment import scale_by_rss as scale_by_rss
from lrjax.transforms.second_moment import scale_by_stddev as scale_by_stddev
from lrjax.value import Value as Value
from lrjax.value import batched as batched
from lrjax.value import with_hyperparams as with_hyperparams

__version__ = "0.1.0"
