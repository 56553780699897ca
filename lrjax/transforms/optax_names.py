"""Other names of Optax: types for annotations, and aliases of states."""

from collections.abc import Callable

from lrjax.numerics import ArrayTree
from lrjax.transforms.base import EmptyState
from lrjax.transforms.learning_rate import LearningRateState
from lrjax.transforms.masking import PartitionState

Params = Updates = OptState = ArrayTree
TransformInitFn = Callable[[Params], OptState]
TransformUpdateFn = TransformUpdateExtraArgsFn = Callable[..., tuple[Updates, OptState]]

AdaptiveGradClipState = AddDecayedWeightsState = ClipByGlobalNormState = ClipState = EmptyState
NonNegativeParamsState = ScaleByTrustRatioState = ScaleState = EmptyState
MultiTransformState = PartitionState
ScaleByScheduleState = LearningRateState
