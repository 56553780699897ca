"""Trains models of Equinox: see `Task.from_equinox`."""

from collections.abc import Callable
from typing import Any

import jax

from lrjax.interop.model import Model, import_framework
from lrjax.value import bad_argument


class EquinoxModel(Model):
    """A model of Equinox. Its arrays are parameters; all else, such as functions and Python numbers, is static."""

    def __init__(self, model: Any, loss_fn: Callable[..., Any], *, takes_key: bool, has_state: bool, has_aux: bool):
        eqx = import_framework("Task.from_equinox", "equinox")
        super().__init__(loss_fn, takes_key, has_state or has_aux)
        self._eqx, self._make = eqx, model
        self.takes_key, self.has_state = takes_key, has_state
        given = model[0] if has_state and isinstance(model, tuple) and len(model) == 2 else model
        is_given = isinstance(given, eqx.Module) or not callable(model)
        output: Any = model if is_given else eqx.filter_eval_shape(model, jax.random.key(0))
        if has_state and not (isinstance(output, tuple) and len(output) == 2 and isinstance(output[1], eqx.nn.State)):
            words = "a function that returns (model, state), as eqx.nn.make_with_state makes it, with `has_state`"
            raise bad_argument("Task.from_equinox", "make_model", words, type(output).__name__)
        module = output[0] if has_state else output
        if not any(map(_is_array, jax.tree.leaves(module))):
            words = "a function from a key to a model with arrays, or a model"
            raise bad_argument("Task.from_equinox", "make_model", words, type(module).__name__)
        if not has_state and isinstance(module, tuple) and any(isinstance(part, eqx.nn.State) for part in module):
            raise bad_argument("Task.from_equinox", "has_state", "True for a model with a state", has_state)
        self._static = eqx.partition(module, _is_array)[1]
        self.init = self._arrays(output) if is_given else self._initialize

    def _initialize(self, key: Any) -> Any:
        return self._arrays(self._make(key))

    def _arrays(self, output: Any) -> Any:
        """Returns the arrays of a model, with its state if it has one."""
        if not self.has_state:
            return self._eqx.partition(output, _is_array)[0]
        model, state = output
        return self._eqx.partition(model, _is_array)[0], state

    def loss(self, params: Any, *others: Any) -> Any:
        """Computes the loss in training mode; `others`: the state, the batch and the key, as the user's loss takes
        them."""
        model = self._eqx.nn.inference_mode(self._eqx.combine(params, self._static), value=False)
        return self._loss_fn(model, *others)

    def evaluated(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def metric(params: Any, *others: Any) -> Any:
            return function(self._eqx.nn.inference_mode(self._eqx.combine(params, self._static)), *others)

        return metric

    def rebuild(self, params: Any, model_state: Any) -> Any:
        model = self._eqx.combine(params, self._static)
        return (model, model_state) if self.has_state else model


def _is_array(x: Any) -> bool:
    return hasattr(x, "shape") and hasattr(x, "dtype")
