"""Calls the loss of a task, whatever its arguments and results, and its metrics."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np

from lrjax.value import bad_argument

Mode = Literal["min", "max"]


class Metric(NamedTuple):
    """A number that an evaluation measures. `Task` takes `(function, mode)` as well.

    Args:
      function: (params, batch) -> a scalar, the mean over the batch; (params, model_state, batch) where the task has a
        model state; without the batch where the task has no `validation`. It gets no key, the model state of training,
        and the parameters to evaluate with (see `lrjax.evaluation_params`).
      mode: "min" where lower is better, "max" where higher is better.

    >>> import jax.numpy as jnp, lrjax
    >>> lrjax.Metric(lambda params, batch: jnp.mean(batch * params), "max").mode
    'max'
    """

    function: Callable[..., Any]
    mode: Mode


@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss as (params, model_state, batch, key) -> (loss, (model_state, aux)), whatever arguments and results the
    user's has. Compares by value, since it is part of the key of a compiled program."""

    loss_fn: Callable[..., Any] | None
    takes_key: bool
    has_state: bool
    has_aux: bool
    value_and_grad_fn: Callable[..., Any] | None = None

    def __call__(self, params: Any, model_state: Any, batch: Any, key: Any) -> tuple[Any, tuple[Any, Any]]:
        assert self.loss_fn is not None
        return self._unpack("loss_fn", self.loss_fn(*self._arguments(params, model_state, batch, key)), model_state)

    def user_value_and_grad(self, params: Any, model_state: Any, batch: Any, key: Any) -> tuple[tuple[Any, Any], Any]:
        """Returns ((loss, (model_state, aux)), gradients) of the user's `value_and_grad_fn`."""
        assert self.value_and_grad_fn is not None
        output = self.value_and_grad_fn(*self._arguments(params, model_state, batch, key))
        if not (isinstance(output, tuple) and len(output) == 2):
            words = "a function that returns (what the loss returns, gradients), as jax.value_and_grad makes it"
            raise bad_argument("Task", "value_and_grad_fn", words, _shapes(output))
        return self._unpack("value_and_grad_fn", output[0], model_state), output[1]

    def _arguments(self, params: Any, model_state: Any, batch: Any, key: Any) -> list[Any]:
        return [params, *([model_state] if self.has_state else []), batch, *([key] if self.takes_key else [])]

    def _unpack(self, name: str, output: Any, model_state: Any) -> tuple[Any, tuple[Any, Any]]:
        """Returns (loss, (model_state, aux)) from the output of the user's function `name`."""
        loss, aux = output, None
        if self.has_state and self.has_aux:
            loss, (model_state, aux) = self._pair(name, output, "(loss, (new_state, aux))", nested=True)
        elif self.has_state:
            loss, model_state = self._pair(name, output, "(loss, new_state)")
        elif self.has_aux:
            loss, aux = self._pair(name, output, "(loss, aux)")
        if not hasattr(loss, "shape") and not isinstance(loss, (int, float)) or np.shape(loss) != ():
            flags = "" if self.has_state or self.has_aux else "; with more than the loss say `has_aux` or `has_state`"
            raise bad_argument("Task", name, f"a function that returns a scalar loss{flags}", _shapes(loss))
        return loss, (model_state, aux)

    def _pair(self, name: str, output: Any, words: str, nested: bool = False) -> Any:
        is_pair = lambda x: isinstance(x, tuple) and len(x) == 2
        if not is_pair(output) or (nested and not is_pair(output[1])):
            flags = ", ".join(flag for flag in ("has_state", "has_aux") if getattr(self, flag))
            raise bad_argument("Task", name, f"a function that returns {words}, with {flags}", _shapes(output))
        return output


def _shapes(x: Any) -> Any:
    return jax.tree.map(lambda leaf: f"{jax.numpy.result_type(leaf)}{list(np.shape(leaf))}", x)


def named_metrics(given: Any) -> dict[str, Metric]:
    """Returns the `metrics` argument of a task as a dict.

    Raises:
      ValueError: a metric isn't a pair of a function and a mode.
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
