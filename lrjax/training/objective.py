"""What a loss takes and gives, and what an evaluation measures."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np

from lrjax.value import bad_argument

Mode = Literal["min", "max"]


class Metric(NamedTuple):
    """What an evaluation measures. `Task` takes `(function, mode)` as well.

    Args:
      function: (params, batch) -> a scalar, the mean over the batch; (params, model_state, batch) where the task has a
        model state; without the batch where the task has no `validation`. It is called in evaluation: without a key,
        and the model state that it gets is that of training.
      mode: "min" where lower is better, "max" where higher is better.

    >>> import jax.numpy as jnp, lrjax
    >>> lrjax.Metric(lambda params, batch: jnp.mean(batch * params), "max").mode
    'max'
    """

    function: Callable[..., Any]
    mode: Mode


@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss in one form, whatever it takes and gives: (params, model_state, batch, key) -> (loss, (model_state,
    auxiliary numbers)). Compares by value, as part of what a program is compiled for."""

    loss_fn: Callable[..., Any] | None
    takes_key: bool
    has_state: bool
    has_aux: bool
    value_and_grad_fn: Callable[..., Any] | None = None

    def __call__(self, params: Any, model_state: Any, batch: Any, key: Any) -> tuple[Any, tuple[Any, Any]]:
        assert self.loss_fn is not None
        return self._loss_of("loss_fn", self.loss_fn(*self._arguments(params, model_state, batch, key)), model_state)

    def own_gradients(self, params: Any, model_state: Any, batch: Any, key: Any) -> tuple[tuple[Any, Any], Any]:
        """((loss, (model_state, auxiliary numbers)), gradients) of the user's `value_and_grad_fn`."""
        assert self.value_and_grad_fn is not None
        found = self.value_and_grad_fn(*self._arguments(params, model_state, batch, key))
        if not (isinstance(found, tuple) and len(found) == 2):
            words = "a function that returns (what the loss returns, gradients), as jax.value_and_grad makes it"
            raise bad_argument("Task", "value_and_grad_fn", words, _described(found))
        return self._loss_of("value_and_grad_fn", found[0], model_state), found[1]

    def _arguments(self, params: Any, model_state: Any, batch: Any, key: Any) -> list[Any]:
        return [params, *([model_state] if self.has_state else []), batch, *([key] if self.takes_key else [])]

    def _loss_of(self, name: str, found: Any, model_state: Any) -> tuple[Any, tuple[Any, Any]]:
        aux = None
        if self.has_state and self.has_aux:
            found, (model_state, aux) = self._parts(name, found, "(loss, (new_state, aux))", 2)
        elif self.has_state:
            found, model_state = self._parts(name, found, "(loss, new_state)", None)
        elif self.has_aux:
            found, aux = self._parts(name, found, "(loss, aux)", None)
        if not hasattr(found, "shape") and not isinstance(found, (int, float)) or np.shape(found) != ():
            flags = "" if self.has_state or self.has_aux else "; with more than the loss say `has_aux` or `has_state`"
            raise bad_argument("Task", name, f"a function that returns a scalar loss{flags}", _described(found))
        return found, (model_state, aux)

    def _parts(self, name: str, found: Any, words: str, second: int | None) -> Any:
        pair = isinstance(found, tuple) and len(found) == 2
        if not pair or (second is not None and not (isinstance(found[1], tuple) and len(found[1]) == second)):
            flags = ", ".join(flag for flag in ("has_state", "has_aux") if getattr(self, flag))
            raise bad_argument("Task", name, f"a function that returns {words}, with {flags}", _described(found))
        return found


def _described(x: Any) -> Any:
    return jax.tree.map(lambda leaf: f"{jax.numpy.result_type(leaf)}{list(np.shape(leaf))}", x)


def named_metrics(given: Any) -> dict[str, Metric]:
    """Metrics by name, however they are given.

    Raises:
      ValueError: a metric isn't a pair of a function and a direction.
    """
    words = '(function, "min" or "max"), or a dict of these by name'
    if isinstance(given, tuple) and len(given) == 2:
        given = {getattr(given[0], "__name__", "metric").strip("_<>"): given}
    if not isinstance(given, Mapping):
        raise bad_argument("Task", "metrics", words, given)
    for name, metric in given.items():
        fits = isinstance(metric, tuple) and len(metric) == 2 and callable(metric[0])
        if not isinstance(name, str) or not fits or metric[1] not in get_args(Mode):
            raise bad_argument("Task", "metrics", words, {name: metric})
    return {name: Metric(*metric) for name, metric in given.items()}
