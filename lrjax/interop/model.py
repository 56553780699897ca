"""The interface of models to tasks, whichever framework they are written in."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp


class Model(ABC):
    """A framework's model as pure functions of parameters and model state.

    Args:
      loss_fn: the user's loss.
      loss_takes_key: whether it takes a key.
      returns_pair: whether it returns more than the loss.
    """

    init: Any  # as `Task.init`
    takes_key: bool  # whether `loss` takes a key
    has_state: bool

    def __init__(self, loss_fn: Callable[..., Any], loss_takes_key: bool, returns_pair: bool):
        self._loss_fn, self._loss_takes_key, self._returns_pair = loss_fn, loss_takes_key, returns_pair

    @abstractmethod
    def loss(self, *args: Any) -> Any:
        """Computes the loss in training mode, as `Task.loss_fn`."""

    @abstractmethod
    def evaluated(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Converts the user's metric to one of parameters and model state, in evaluation mode."""

    def evaluated_loss(self, *args: Any) -> Any:
        """Computes the loss in evaluation mode, as a metric."""
        key = [jax.random.key(0)] if self._loss_takes_key else []
        output = self.evaluated(self._loss_fn)(*args, *key)
        return output[0] if self._returns_pair else output

    @abstractmethod
    def rebuild(self, params: Any, model_state: Any) -> Any:
        """Returns the model as an object of its framework."""


def import_framework(caller: str, name: str) -> ModuleType:
    """Imports a module of an optional library."""
    try:
        return importlib.import_module(name)
    except ImportError:
        library = name.split(".")[0]
        raise ImportError(f"{caller} needs {library}: pip install {library}.") from None


def with_state(output: Any, model_state: Any, has_aux: bool) -> Any:
    """Adds the model state to the output of the user's loss."""
    if not has_aux:
        return output, model_state
    loss, aux = output
    return loss, (model_state, aux)


def zeros_of(shapes: Any) -> Any:
    """Returns a batch of zeros."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
