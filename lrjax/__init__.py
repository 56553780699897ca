"""Everything people do with a learning rate, as functional transforms on JAX.

A schedule is a pure function from a step to a rate; an optimizer is an `(init, update)` pair; and both are values:
they print, compare, hash, pickle, and pass through `jit`, `vmap` and `grad`.
"""

import importlib as _importlib
import typing as _typing

from lrjax.config import from_config as from_config
from lrjax.config import to_config as to_config
from lrjax.hyperparameters import batched as batched
from lrjax.hyperparameters import with_hyperparams as with_hyperparams
from lrjax.interop.optax import to_optax as to_optax
from lrjax.numerics import safe_increment as safe_increment
from lrjax.optimizers.adam import adam as adam
from lrjax.optimizers.adam import adamax as adamax
from lrjax.optimizers.adam import adamaxw as adamaxw
from lrjax.optimizers.adam import adamw as adamw
from lrjax.optimizers.adam import amsgrad as amsgrad
from lrjax.optimizers.adam import nadam as nadam
from lrjax.optimizers.adam import nadamw as nadamw
from lrjax.optimizers.adam import optimistic_adam as optimistic_adam
from lrjax.optimizers.adaptive import adabelief as adabelief
from lrjax.optimizers.adaptive import adadelta as adadelta
from lrjax.optimizers.adaptive import adagrad as adagrad
from lrjax.optimizers.adaptive import adan as adan
from lrjax.optimizers.adaptive import ademamix as ademamix
from lrjax.optimizers.adaptive import adopt as adopt
from lrjax.optimizers.adaptive import madgrad as madgrad
from lrjax.optimizers.adaptive import radam as radam
from lrjax.optimizers.adaptive import rmsprop as rmsprop
from lrjax.optimizers.adaptive import sophia as sophia
from lrjax.optimizers.adaptive import yogi as yogi
from lrjax.optimizers.layerwise import fromage as fromage
from lrjax.optimizers.layerwise import lamb as lamb
from lrjax.optimizers.layerwise import lars as lars
from lrjax.optimizers.layerwise import muon as muon
from lrjax.optimizers.layerwise import novograd as novograd
from lrjax.optimizers.memory import adafactor as adafactor
from lrjax.optimizers.memory import sm3 as sm3
from lrjax.optimizers.sgd import noisy_sgd as noisy_sgd
from lrjax.optimizers.sgd import optimistic_gradient_descent as optimistic_gradient_descent
from lrjax.optimizers.sgd import polyak_sgd as polyak_sgd
from lrjax.optimizers.sgd import sgd as sgd
from lrjax.optimizers.sign import lion as lion
from lrjax.optimizers.sign import rprop as rprop
from lrjax.optimizers.sign import sign_sgd as sign_sgd
from lrjax.parse import parse_schedule as parse_schedule
from lrjax.schedules.base import Schedule as Schedule
from lrjax.schedules.base import as_schedule as as_schedule
from lrjax.schedules.base import clip_schedule as clip_schedule
from lrjax.schedules.base import constant_schedule as constant_schedule
from lrjax.schedules.base import delay_schedule as delay_schedule
from lrjax.schedules.base import from_callable as from_callable
from lrjax.schedules.base import product_schedule as product_schedule
from lrjax.schedules.base import repeat_schedule as repeat_schedule
from lrjax.schedules.base import schedule as schedule
from lrjax.schedules.base import stretch_schedule as stretch_schedule
from lrjax.schedules.base import sum_schedule as sum_schedule
from lrjax.schedules.base import warmup_schedule as warmup_schedule
from lrjax.schedules.compose import join_schedules as join_schedules
from lrjax.schedules.continuation import cooldown_schedule as cooldown_schedule
from lrjax.schedules.continuation import extend_schedule as extend_schedule
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
from lrjax.schedules.groups import ScalarOrSchedule as ScalarOrSchedule
from lrjax.schedules.groups import by_path as by_path
from lrjax.schedules.groups import layerwise_learning_rates as layerwise_learning_rates
from lrjax.schedules.piecewise import piecewise_constant_schedule as piecewise_constant_schedule
from lrjax.schedules.piecewise import piecewise_interpolate_schedule as piecewise_interpolate_schedule
from lrjax.schedules.piecewise import piecewise_values_schedule as piecewise_values_schedule
from lrjax.schedules.transfer import scale_rate as scale_rate
from lrjax.schedules.transfer import width_init_multipliers as width_init_multipliers
from lrjax.schedules.transfer import width_multipliers as width_multipliers
from lrjax.schedules.warmup import cosine_onecycle_schedule as cosine_onecycle_schedule
from lrjax.schedules.warmup import linear_onecycle_schedule as linear_onecycle_schedule
from lrjax.schedules.warmup import onecycle_momentum_schedule as onecycle_momentum_schedule
from lrjax.schedules.warmup import three_phase_onecycle_schedule as three_phase_onecycle_schedule
from lrjax.schedules.warmup import warmup_constant_schedule as warmup_constant_schedule
from lrjax.schedules.warmup import warmup_cosine_decay_schedule as warmup_cosine_decay_schedule
from lrjax.schedules.warmup import warmup_exponential_decay_schedule as warmup_exponential_decay_schedule
from lrjax.schedules.warmup import warmup_linear_decay_schedule as warmup_linear_decay_schedule
from lrjax.schedules.warmup import warmup_stable_decay_schedule as warmup_stable_decay_schedule
from lrjax.transforms.accumulate import ApplyEvery as ApplyEvery
from lrjax.transforms.accumulate import MultiSteps as MultiSteps
from lrjax.transforms.accumulate import MultiStepsState as MultiStepsState
from lrjax.transforms.accumulate import apply_every as apply_every
from lrjax.transforms.accumulate import skip_large_updates as skip_large_updates
from lrjax.transforms.accumulate import skip_not_finite as skip_not_finite
from lrjax.transforms.adam import ScaleByAdamState as ScaleByAdamState
from lrjax.transforms.adam import ScaleByAdanState as ScaleByAdanState
from lrjax.transforms.adam import ScaleByAdemamixState as ScaleByAdemamixState
from lrjax.transforms.adam import ScaleByAmsgradState as ScaleByAmsgradState
from lrjax.transforms.adam import ScaleByBeliefState as ScaleByBeliefState
from lrjax.transforms.adam import scale_by_adam as scale_by_adam
from lrjax.transforms.adam import scale_by_adamax as scale_by_adamax
from lrjax.transforms.adam import scale_by_adan as scale_by_adan
from lrjax.transforms.adam import scale_by_ademamix as scale_by_ademamix
from lrjax.transforms.adam import scale_by_adopt as scale_by_adopt
from lrjax.transforms.adam import scale_by_amsgrad as scale_by_amsgrad
from lrjax.transforms.adam import scale_by_belief as scale_by_belief
from lrjax.transforms.adam import scale_by_radam as scale_by_radam
from lrjax.transforms.adam import scale_by_yogi as scale_by_yogi
from lrjax.transforms.apply import apply_updates as apply_updates
from lrjax.transforms.averaging import AveragedParamsState as AveragedParamsState
from lrjax.transforms.averaging import average_params as average_params
from lrjax.transforms.averaging import ema_params as ema_params
from lrjax.transforms.averaging import evaluation_params as evaluation_params
from lrjax.transforms.averaging import polynomial_average_params as polynomial_average_params
from lrjax.transforms.averaging import swa_params as swa_params
from lrjax.transforms.base import EmptyState as EmptyState
from lrjax.transforms.base import GradientTransformation as GradientTransformation
from lrjax.transforms.base import GradientTransformationExtraArgs as GradientTransformationExtraArgs
from lrjax.transforms.base import ScheduledState as ScheduledState
from lrjax.transforms.base import identity as identity
from lrjax.transforms.base import optimizer as optimizer
from lrjax.transforms.base import transformation as transformation
from lrjax.transforms.base import with_extra_args_support as with_extra_args_support
from lrjax.transforms.chain import chain as chain
from lrjax.transforms.chain import named_chain as named_chain
from lrjax.transforms.conditional import ApplyIfFiniteState as ApplyIfFiniteState
from lrjax.transforms.conditional import ConditionallyMaskState as ConditionallyMaskState
from lrjax.transforms.conditional import ConditionallyTransformState as ConditionallyTransformState
from lrjax.transforms.conditional import apply_if_finite as apply_if_finite
from lrjax.transforms.conditional import conditionally_mask as conditionally_mask
from lrjax.transforms.conditional import conditionally_transform as conditionally_transform
from lrjax.transforms.constraints import ZeroNansState as ZeroNansState
from lrjax.transforms.constraints import centralize as centralize
from lrjax.transforms.constraints import keep_params_nonnegative as keep_params_nonnegative
from lrjax.transforms.constraints import normalize_by_update_norm as normalize_by_update_norm
from lrjax.transforms.constraints import stateless as stateless
from lrjax.transforms.constraints import stateless_with_tree_map as stateless_with_tree_map
from lrjax.transforms.constraints import zero_nans as zero_nans
from lrjax.transforms.curvature import HutchinsonState as HutchinsonState
from lrjax.transforms.curvature import SophiaState as SophiaState
from lrjax.transforms.curvature import hutchinson_estimator_diag_hessian as hutchinson_estimator_diag_hessian
from lrjax.transforms.curvature import scale_by_sophia as scale_by_sophia
from lrjax.transforms.decay import WeightDecaySchedule as WeightDecaySchedule
from lrjax.transforms.decay import add_decayed_weights as add_decayed_weights
from lrjax.transforms.elementwise import elementwise as elementwise
from lrjax.transforms.extrapolation import MadgradState as MadgradState
from lrjax.transforms.extrapolation import ScaleByOptimisticGradientState as ScaleByOptimisticGradientState
from lrjax.transforms.extrapolation import scale_by_madgrad as scale_by_madgrad
from lrjax.transforms.extrapolation import scale_by_optimistic_gradient as scale_by_optimistic_gradient
from lrjax.transforms.extrapolation import scale_by_polyak as scale_by_polyak
from lrjax.transforms.factored import FactoredState as FactoredState
from lrjax.transforms.factored import ScaleBySM3State as ScaleBySM3State
from lrjax.transforms.factored import scale_by_factored_rms as scale_by_factored_rms
from lrjax.transforms.factored import scale_by_sm3 as scale_by_sm3
from lrjax.transforms.guard import guard as guard
from lrjax.transforms.guard import guard_report as guard_report
from lrjax.transforms.guard_log import GuardEvent as GuardEvent
from lrjax.transforms.guard_log import GuardReport as GuardReport
from lrjax.transforms.guard_state import GuardState as GuardState
from lrjax.transforms.inject import InjectHyperparamsState as InjectHyperparamsState
from lrjax.transforms.inject import InjectStatefulHyperparamsState as InjectStatefulHyperparamsState
from lrjax.transforms.inject import StatefulSchedule as StatefulSchedule
from lrjax.transforms.inject import WrappedSchedule as WrappedSchedule
from lrjax.transforms.inject import WrappedScheduleState as WrappedScheduleState
from lrjax.transforms.inject import inject_hyperparams as inject_hyperparams
from lrjax.transforms.inject import injected as injected
from lrjax.transforms.layout import Packed as Packed
from lrjax.transforms.layout import PackedState as PackedState
from lrjax.transforms.layout import flatten as flatten
from lrjax.transforms.layout import pack_state as pack_state
from lrjax.transforms.layout import packed as packed
from lrjax.transforms.layout import unpack_state as unpack_state
from lrjax.transforms.learning_rate import InjectedRateState as InjectedRateState
from lrjax.transforms.learning_rate import InjectedRecordState as InjectedRecordState
from lrjax.transforms.learning_rate import LearningRateState as LearningRateState
from lrjax.transforms.learning_rate import RecordedRateState as RecordedRateState
from lrjax.transforms.learning_rate import record_learning_rate as record_learning_rate
from lrjax.transforms.learning_rate import scale as scale
from lrjax.transforms.learning_rate import scale_by_learning_rate as scale_by_learning_rate
from lrjax.transforms.learning_rate import scale_by_schedule as scale_by_schedule
from lrjax.transforms.lookahead import LookaheadParams as LookaheadParams
from lrjax.transforms.lookahead import LookaheadState as LookaheadState
from lrjax.transforms.lookahead import incremental_update as incremental_update
from lrjax.transforms.lookahead import lookahead as lookahead
from lrjax.transforms.lookahead import periodic_update as periodic_update
from lrjax.transforms.masking import MaskedNode as MaskedNode
from lrjax.transforms.masking import MaskedState as MaskedState
from lrjax.transforms.masking import PartitionState as PartitionState
from lrjax.transforms.masking import freeze as freeze
from lrjax.transforms.masking import masked as masked
from lrjax.transforms.masking import multi_transform as multi_transform
from lrjax.transforms.masking import partition as partition
from lrjax.transforms.masking import selective_transform as selective_transform
from lrjax.transforms.masking import set_to_zero as set_to_zero
from lrjax.transforms.migrate import Migration as Migration
from lrjax.transforms.migrate import migrate_state as migrate_state
from lrjax.transforms.migrate import state_version as state_version
from lrjax.transforms.momentum import EmaState as EmaState
from lrjax.transforms.momentum import TraceState as TraceState
from lrjax.transforms.momentum import ema as ema
from lrjax.transforms.momentum import trace as trace
from lrjax.transforms.monitoring import MonitorState as MonitorState
from lrjax.transforms.monitoring import SnapshotState as SnapshotState
from lrjax.transforms.monitoring import measure_with_ema as measure_with_ema
from lrjax.transforms.monitoring import measured as measured
from lrjax.transforms.monitoring import monitor as monitor
from lrjax.transforms.monitoring import snapshot as snapshot
from lrjax.transforms.noise import AddNoiseState as AddNoiseState
from lrjax.transforms.noise import add_noise as add_noise
from lrjax.transforms.norms import adaptive_grad_clip as adaptive_grad_clip
from lrjax.transforms.norms import clip as clip
from lrjax.transforms.norms import clip_by_block_rms as clip_by_block_rms
from lrjax.transforms.norms import clip_by_global_norm as clip_by_global_norm
from lrjax.transforms.norms import global_norm as global_norm
from lrjax.transforms.norms import per_example_global_norm_clip as per_example_global_norm_clip
from lrjax.transforms.norms import per_example_layer_norm_clip as per_example_layer_norm_clip
from lrjax.transforms.norms import unitwise_norm as unitwise_norm
from lrjax.transforms.optax_names import AdaptiveGradClipState as AdaptiveGradClipState
from lrjax.transforms.optax_names import AddDecayedWeightsState as AddDecayedWeightsState
from lrjax.transforms.optax_names import ClipByGlobalNormState as ClipByGlobalNormState
from lrjax.transforms.optax_names import ClipState as ClipState
from lrjax.transforms.optax_names import MultiTransformState as MultiTransformState
from lrjax.transforms.optax_names import NonNegativeParamsState as NonNegativeParamsState
from lrjax.transforms.optax_names import OptState as OptState
from lrjax.transforms.optax_names import Params as Params
from lrjax.transforms.optax_names import ScaleByScheduleState as ScaleByScheduleState
from lrjax.transforms.optax_names import ScaleByTrustRatioState as ScaleByTrustRatioState
from lrjax.transforms.optax_names import ScaleState as ScaleState
from lrjax.transforms.optax_names import TransformInitFn as TransformInitFn
from lrjax.transforms.optax_names import TransformUpdateExtraArgsFn as TransformUpdateExtraArgsFn
from lrjax.transforms.optax_names import TransformUpdateFn as TransformUpdateFn
from lrjax.transforms.optax_names import Updates as Updates
from lrjax.transforms.orthogonal import MuonDimensionNumbers as MuonDimensionNumbers
from lrjax.transforms.orthogonal import MuonState as MuonState
from lrjax.transforms.orthogonal import orthogonalize_via_newton_schulz as orthogonalize_via_newton_schulz
from lrjax.transforms.orthogonal import scale_by_muon as scale_by_muon
from lrjax.transforms.orthogonal import scale_by_shape as scale_by_shape
from lrjax.transforms.plateau import ReduceLROnPlateauState as ReduceLROnPlateauState
from lrjax.transforms.plateau import ReduceOnStallState as ReduceOnStallState
from lrjax.transforms.plateau import reduce_on_plateau as reduce_on_plateau
from lrjax.transforms.plateau import reduce_on_stall as reduce_on_stall
from lrjax.transforms.read_rate import get_learning_rate as get_learning_rate
from lrjax.transforms.second_moment import ScaleByAdaDeltaState as ScaleByAdaDeltaState
from lrjax.transforms.second_moment import ScaleByNovogradState as ScaleByNovogradState
from lrjax.transforms.second_moment import ScaleByRmsState as ScaleByRmsState
from lrjax.transforms.second_moment import ScaleByRssState as ScaleByRssState
from lrjax.transforms.second_moment import ScaleByRStdDevState as ScaleByRStdDevState
from lrjax.transforms.second_moment import scale_by_adadelta as scale_by_adadelta
from lrjax.transforms.second_moment import scale_by_novograd as scale_by_novograd
from lrjax.transforms.second_moment import scale_by_rms as scale_by_rms
from lrjax.transforms.second_moment import scale_by_rss as scale_by_rss
from lrjax.transforms.second_moment import scale_by_stddev as scale_by_stddev
from lrjax.transforms.set_rate import scale_learning_rate as scale_learning_rate
from lrjax.transforms.set_rate import set_learning_rate as set_learning_rate
from lrjax.transforms.sign import ScaleByLionState as ScaleByLionState
from lrjax.transforms.sign import ScaleByRpropState as ScaleByRpropState
from lrjax.transforms.sign import scale_by_lion as scale_by_lion
from lrjax.transforms.sign import scale_by_rprop as scale_by_rprop
from lrjax.transforms.sign import scale_by_sign as scale_by_sign
from lrjax.transforms.spikes import ClipByHistoryState as ClipByHistoryState
from lrjax.transforms.spikes import ClipByZscoreState as ClipByZscoreState
from lrjax.transforms.spikes import SkipSpikesState as SkipSpikesState
from lrjax.transforms.spikes import clip_by_history as clip_by_history
from lrjax.transforms.spikes import clip_by_zscore as clip_by_zscore
from lrjax.transforms.spikes import skip_spikes as skip_spikes
from lrjax.transforms.trust_ratio import ContractState as ContractState
from lrjax.transforms.trust_ratio import contract as contract
from lrjax.transforms.trust_ratio import scale_by_param_block_norm as scale_by_param_block_norm
from lrjax.transforms.trust_ratio import scale_by_param_block_rms as scale_by_param_block_rms
from lrjax.transforms.trust_ratio import scale_by_trust_ratio as scale_by_trust_ratio
from lrjax.value import Value as Value

if _typing.TYPE_CHECKING:
    from lrjax.experiments import *  # noqa: F403

__version__ = "0.2.0"


def __getattr__(name: str) -> _typing.Any:
    """Imports what trains models at its first use: it takes longer to import than all the rest."""
    if not name.startswith("_") or name == "__all__":
        experiments = vars(_importlib.import_module("lrjax.experiments"))
        globals().update({public: x for public, x in experiments.items() if not public.startswith("_")})
        if name == "__all__":
            return [public for public in globals() if not public.startswith("_")]
        if name in globals():
            return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
