"""The settings of a search: its rates and other hyperparameters, and how optimizers are made of them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from lrjax.hyperparameters import batch_length, batched, with_hyperparams
from lrjax.schedules.base import Schedule
from lrjax.schedules.groups import is_rate
from lrjax.training.train import FixedOptimizer, as_hyperparam, as_is
from lrjax.transforms.base import GradientTransformation, as_transformation
from lrjax.value import Value, bad_argument, hyperparameter_names


def grid(value: Any, **hyperparams: Any) -> Any:
    """Makes the Cartesian product of hyperparameters, as a batch for `sweep`.

    Args:
      value: an optimizer or a schedule.
      **hyperparams: sequences of numbers, by name, at any depth of a chain.

    Raises:
      ValueError: a name isn't in `value`, or is there more than once.

    >>> import lrjax
    >>> lrjax.grid(lrjax.sgd(0.1), learning_rate=[0.1, 0.2], momentum=[0.0, 0.9]).momentum
    array([0. , 0.9, 0. , 0.9])
    """
    axes = np.meshgrid(*map(np.asarray, hyperparams.values()), indexing="ij")
    return with_hyperparams(value, **{name: axis.ravel() for name, axis in zip(hyperparams, axes, strict=True)})


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a sweep."""

    hyperparams: Any  # [settings, ...]
    make_optimizer: Callable[[Any], Any]  # from the hyperparameters of a setting
    varied: dict[str, np.ndarray]  # by name: the hyperparameters that differ, [settings, ...]
    learning_rates: np.ndarray  # [settings]: the highest of each

    def select(self, mask: np.ndarray) -> "Settings":
        """Returns some of the settings."""
        hyperparams = jax.tree.map(lambda x: x[mask], self.hyperparams)
        varied = {name: x[mask] for name, x in self.varied.items()}
        return Settings(hyperparams, self.make_optimizer, varied, self.learning_rates[mask])

    def optimizer_repr(self, i: int) -> str:
        """Returns the repr of the optimizer of a setting, if it is a value, else the call that made it."""
        number = lambda x: x[i] if np.ndim(x[i]) else _round_float32(x[[i]])[0].item()
        optimizer = self.make_optimizer(jax.tree.map(number, self.hyperparams))
        if isinstance(optimizer, Value):
            return repr(optimizer)
        return f"{getattr(self.make_optimizer, '__name__', 'optimizer')}({self.learning_rates[i]:.3g})"


def settings_of(optimizer: Any, learning_rates: Any, steps: int) -> Settings:
    """Returns the settings of `sweep`: those of a batch of values, or one for each of the rates."""
    if learning_rates is not None:
        rates = _rates(learning_rates)
        if not isinstance(optimizer, Value):
            make_optimizer = optimizer_factory("sweep", optimizer, steps, rates)
            return Settings(rates.astype(np.float32), make_optimizer, {"learning_rate": rates}, rates)
        optimizer = _with_peak(optimizer, _peak("sweep", optimizer, steps), rates)
    if not isinstance(optimizer, GradientTransformation):
        words = "an lrjax optimizer, or with `learning_rates` a function from a rate to any optimizer"
        raise bad_argument("sweep", "optimizer", words, optimizer)
    if not jax.tree.leaves(optimizer):  # all its hyperparameters are in functions of another library
        return Settings(np.zeros(1, np.float32), FixedOptimizer(optimizer), {}, _peaks(optimizer, steps))
    if batch_length(optimizer) is None:
        batch_of_one = jax.tree.map(as_hyperparam, optimizer)
        return Settings(batch_of_one, as_is, {}, _peaks(batch_of_one, steps))
    value = batched(optimizer)
    hyperparams = jax.tree.map(lambda x: np.asarray(x, jnp.result_type(float)), value)
    paths = jax.tree_util.tree_leaves_with_path(optimizer)
    varied = {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(x) for path, x in paths if np.ndim(x)}
    return Settings(hyperparams, as_is, varied, _peaks(value, steps))


def _rates(learning_rates: Any) -> np.ndarray:
    rates = np.asarray(learning_rates)
    if (
        rates.ndim != 1
        or not len(rates)
        or rates.dtype.kind not in "iuf"
        or not np.all(np.isfinite(rates) & (rates >= 0))
    ):
        raise bad_argument("sweep", "learning_rates", "a sequence of finite numbers >= 0", learning_rates)
    return rates.astype(np.float64)


def _peaks(value: Any, steps: int) -> np.ndarray:
    """Returns [settings]: the highest rate of each in a batched value; nan where it has none."""
    leaves = jax.tree.leaves(value)
    count = len(leaves[0]) if leaves else 1
    rate = rate_of(value)
    if rate is None:
        return np.full(count, np.nan)
    highest = np.zeros(count)
    for one in jax.tree.leaves(rate, is_leaf=is_rate):
        peak = _schedule_peaks(one, steps) if isinstance(one, Schedule) else one
        highest = np.maximum(highest, np.asarray(peak, np.float64))
    return _round_float32(highest)


def _schedule_peaks(schedule: Schedule, steps: int) -> Any:
    peak = lambda s: jnp.max(s(jnp.arange(steps)))
    return jax.vmap(peak)(schedule) if jax.tree.leaves(schedule) else jax.jit(lambda: peak(schedule))()


def _round_float32(x: np.ndarray) -> np.ndarray:
    """Converts float32 numbers to the shortest float64 ones: the float32 number nearest to 0.4 becomes 0.4."""
    return np.array([float(str(np.float32(v))) if np.float32(v) == v else v for v in x])


def rate_of(x: Any) -> Any:
    """Returns the first `learning_rate` in a value; None where it has none."""
    if isinstance(x, Value):
        fields = vars(x)
        if "learning_rate" in fields:
            return fields["learning_rate"]
        return next((r for n in hyperparameter_names(x) if (r := rate_of(fields[n])) is not None), None)
    if isinstance(x, tuple):
        return next((r for item in x if (r := rate_of(item)) is not None), None)
    return None


@dataclasses.dataclass(frozen=True)
class _OptimizerWithPeak:
    """Makes the optimizer with another rate. Compares by value: equal ones share compiled programs."""

    optimizer: Value
    peak: float

    def __call__(self, rate: Any) -> Any:
        return _with_peak(self.optimizer, self.peak, rate)


@dataclasses.dataclass(frozen=True)
class BranchPerRate:
    """Makes the optimizer from a function that needs the rate as a Python number, as where a schedule of Optax checks
    whether it is 0: the program has one branch for each rate."""

    optimizer: Callable[[float], Any]
    rates: tuple[float, ...]

    NOTE = (
        "The function of the rate needs it as a Python number, so the program has a branch for each rate, and takes "
        "longer to compile. A schedule of lrjax, or an optimizer in place of the function, avoids this."
    )

    @property
    def __name__(self) -> str:
        return getattr(self.optimizer, "__name__", "optimizer")

    def __call__(self, rate: Any) -> Any:
        if not isinstance(rate, jax.core.Tracer):
            return self.optimizer(float(rate))
        optimizers = [as_transformation(self.optimizer(number)) for number in self.rates]
        index = jnp.argmin(jnp.abs(jnp.asarray(self.rates, rate.dtype) - rate))

        def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
            branches = [lambda *args, tx=tx: tx.update(*args, **extra) for tx in optimizers]
            return jax.lax.switch(index, branches, updates, state, params)

        init = lambda params: jax.lax.switch(index, [tx.init for tx in optimizers], params)
        return GradientTransformation(init, update)


def optimizer_factory(caller: str, optimizer: Any, steps: int, rates: Any = None) -> Callable[[Any], Any]:
    """Returns a function from a rate to the optimizer: a value with its rate replaced; a user's function unchanged, or,
    if it can't be traced, a branch for each of the `rates`."""
    if isinstance(optimizer, Value):
        return _OptimizerWithPeak(optimizer, _peak(caller, optimizer, steps))
    if not callable(optimizer):
        raise bad_argument(caller, "optimizer", "a value with a `learning_rate`, or a function of a rate", optimizer)
    return (
        optimizer if rates is None or _is_traceable(optimizer) else BranchPerRate(optimizer, tuple(map(float, rates)))
    )


def notes_of(make_optimizer: Any) -> tuple[str, ...]:
    return (make_optimizer.NOTE,) if isinstance(make_optimizer, BranchPerRate) else ()


def _is_traceable(function: Callable[[Any], Any]) -> bool:
    try:
        jax.eval_shape(lambda rate: (function(rate), 0)[1], jax.ShapeDtypeStruct((), jnp.float32))
    except jax.errors.ConcretizationTypeError:
        return False
    except Exception:  # raised again when the function is used
        return True
    return True


def _peak(caller: str, optimizer: Value, steps: int) -> float:
    """Returns the highest rate of the schedule in the first `steps` steps; 1 for a fixed rate."""
    rate = rate_of(optimizer)
    peak = float(jnp.max(rate(jnp.arange(steps)))) if isinstance(rate, Schedule) else 1.0
    if not isinstance(rate, (int, float, Schedule)) or not peak > 0:
        words = "a value with one `learning_rate`, a number or a schedule above 0"
        raise bad_argument(caller, "optimizer", words, optimizer)
    return peak


def _with_peak(optimizer: Value, peak: float, new_peak: Any) -> Any:
    """Replaces the rate of an optimizer by another, or several; scales a schedule, so that it keeps its shape."""
    rate = rate_of(optimizer)
    scaled = rate * (new_peak / peak) if isinstance(rate, Schedule) else new_peak
    return with_hyperparams(optimizer, learning_rate=scaled)
