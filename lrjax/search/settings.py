"""What the runs of a search differ in: rates and other hyperparameters."""

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
from lrjax.training.train import Always, as_number, itself
from lrjax.transforms.base import GradientTransformation, as_transformation
from lrjax.value import Value, bad_argument, hyperparameter_names


def grid(value: Any, **hyperparams: Any) -> Any:
    """The product of several hyperparameters, as a batch for `sweep`.

    Args:
      value: an optimizer or a schedule.
      **hyperparams: sequences of numbers, by name, at whatever depth of a chain the name stands.

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
    """The settings of a sweep: their numbers [runs, ...], how to make an optimizer of them, and what to call them."""

    tree: Any
    make: Callable[[Any], Any]
    settings: dict[str, np.ndarray]
    learning_rates: np.ndarray

    def of(self, some: np.ndarray) -> "Settings":
        """Those of some of them."""
        take = lambda x: x[some]
        varied = {name: x[some] for name, x in self.settings.items()}
        return Settings(jax.tree.map(take, self.tree), self.make, varied, self.learning_rates[some])

    def words(self, i: int) -> str:
        """The optimizer of a setting, as Python where it is a value."""
        made = self.make(jax.tree.map(lambda x: x[i] if np.ndim(x[i]) else _as_written(x[[i]])[0].item(), self.tree))
        if isinstance(made, Value):
            return repr(made)
        return f"{getattr(self.make, '__name__', 'optimizer')}({self.learning_rates[i]:.3g})"


def settings_of(optimizer: Any, learning_rates: Any, steps: int) -> Settings:
    """The settings of `sweep`: those of a batch of values, or one for each of the rates."""
    if learning_rates is not None:
        rates = _rates(learning_rates)
        if not isinstance(optimizer, Value):
            make = at_rate("sweep", optimizer, steps, rates)
            return Settings(rates.astype(np.float32), make, {"learning_rate": rates}, rates)
        optimizer = _with_peak(optimizer, _peak("sweep", optimizer, steps), rates)
    if not isinstance(optimizer, GradientTransformation):
        words = "an lrjax optimizer, or with `learning_rates` a function from a rate to any optimizer"
        raise bad_argument("sweep", "optimizer", words, optimizer)
    if not jax.tree.leaves(optimizer):  # all its numbers are in somebody's functions
        return Settings(np.zeros(1, np.float32), Always(optimizer), {}, _peaks(optimizer, steps))
    if batch_length(optimizer) is None:
        return Settings(
            jax.tree.map(as_number, optimizer), itself, {}, _peaks(jax.tree.map(as_number, optimizer), steps)
        )
    value = batched(optimizer)
    tree = jax.tree.map(lambda x: np.asarray(x, jnp.result_type(float)), value)
    paths = jax.tree_util.tree_leaves_with_path(optimizer)
    varied = {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(x) for path, x in paths if np.ndim(x)}
    return Settings(tree, itself, varied, _peaks(value, steps))


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
    """[runs]: the highest rate of each, of a batched value; nan where it has none."""
    leaves = jax.tree.leaves(value)
    runs = len(leaves[0]) if leaves else 1
    rate = rate_of(value)
    if rate is None:
        return np.full(runs, np.nan)
    highest = np.zeros(runs)
    for one in jax.tree.leaves(rate, is_leaf=is_rate):
        curve = _highest(one, steps) if isinstance(one, Schedule) else one
        highest = np.maximum(highest, np.asarray(curve, np.float64))
    return _as_written(highest)


def _highest(schedule: Schedule, steps: int) -> Any:
    peak = lambda s: jnp.max(s(jnp.arange(steps)))
    return jax.vmap(peak)(schedule) if jax.tree.leaves(schedule) else jax.jit(lambda: peak(schedule))()


def _as_written(x: np.ndarray) -> np.ndarray:
    """In float64, the float32 number nearest to 0.4 as 0.4."""
    return np.array([float(str(np.float32(v))) if np.float32(v) == v else v for v in x])


def rate_of(x: Any) -> Any:
    """The first `learning_rate` in a value; None where it has none."""
    if isinstance(x, Value):
        fields = vars(x)
        if "learning_rate" in fields:
            return fields["learning_rate"]
        return next((r for n in hyperparameter_names(x) if (r := rate_of(fields[n])) is not None), None)
    if isinstance(x, tuple):
        return next((r for item in x if (r := rate_of(item)) is not None), None)
    return None


@dataclasses.dataclass(frozen=True)
class _AtRate:
    """Makes the optimizer with another rate. Equal ones share what is compiled."""

    optimizer: Value
    peak: float

    def __call__(self, rate: Any) -> Any:
        return _with_peak(self.optimizer, self.peak, rate)


@dataclasses.dataclass(frozen=True)
class EachRate:
    """Makes the optimizer of a function that needs the rate as a Python number, as where a schedule of Optax asks
    whether it is 0: one branch of the program for each rate."""

    optimizer: Callable[[float], Any]
    rates: tuple[float, ...]

    NOTE = (
        "The function of the rate needs it as a Python number, so the program has a branch for each rate, and takes "
        "longer to compile; with a schedule of lrjax, or an optimizer with a rate in place of the function, it hasn't."
    )

    @property
    def __name__(self) -> str:
        return getattr(self.optimizer, "__name__", "optimizer")

    def __call__(self, rate: Any) -> Any:
        if not isinstance(rate, jax.core.Tracer):
            return self.optimizer(float(rate))
        made = [as_transformation(self.optimizer(number)) for number in self.rates]
        index = jnp.argmin(jnp.abs(jnp.asarray(self.rates, rate.dtype) - rate))

        def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
            branches = [lambda *args, tx=tx: tx.update(*args, **extra) for tx in made]
            return jax.lax.switch(index, branches, updates, state, params)

        return GradientTransformation(lambda params: jax.lax.switch(index, [tx.init for tx in made], params), update)


def at_rate(of: str, optimizer: Any, steps: int, rates: Any = None) -> Callable[[Any], Any]:
    """From a rate to the optimizer: a function as it is, or, if it needs numbers, for `rates` alone; a value with its
    rate replaced."""
    if isinstance(optimizer, Value):
        return _AtRate(optimizer, _peak(of, optimizer, steps))
    if not callable(optimizer):
        raise bad_argument(of, "optimizer", "a value with a `learning_rate`, or a function of a rate", optimizer)
    return optimizer if rates is None or _is_traceable(optimizer) else EachRate(optimizer, tuple(map(float, rates)))


def notes_of(make: Any) -> tuple[str, ...]:
    return (make.NOTE,) if isinstance(make, EachRate) else ()


def _is_traceable(function: Callable[[Any], Any]) -> bool:
    try:
        jax.eval_shape(lambda rate: (function(rate), 0)[1], jax.ShapeDtypeStruct((), jnp.float32))
    except jax.errors.ConcretizationTypeError:
        return False
    except Exception:  # raised again where it is used
        return True
    return True


def _peak(of: str, optimizer: Value, steps: int) -> float:
    """The highest rate of its schedule within so many steps, or 1."""
    shape = rate_of(optimizer)
    peak = float(jnp.max(shape(jnp.arange(steps)))) if isinstance(shape, Schedule) else 1.0
    if not isinstance(shape, (int, float, Schedule)) or not peak > 0:
        words = "a value with one `learning_rate`, a number or a schedule above 0"
        raise bad_argument(of, "optimizer", words, optimizer)
    return peak


def _with_peak(optimizer: Value, peak: float, rate: Any) -> Any:
    """With another rate, or several; a schedule keeps its shape."""
    shape = rate_of(optimizer)
    return with_hyperparams(optimizer, learning_rate=shape * (rate / peak) if isinstance(shape, Schedule) else rate)
