"""What a task needs of a model, whichever framework it is written in."""

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
      loss_fn: the user's.
      loss_takes_key: whether it takes a key.
      returns_pair: whether it returns more than the loss.
    """

    init: Any  # from a key to what the engine carries, or that itself
    takes_key: bool  # whether `loss` takes a key
    has_state: bool

    def __init__(self, loss_fn: Callable[..., Any], loss_takes_key: bool, returns_pair: bool):
        self._loss_fn, self._loss_takes_key, self._returns_pair = loss_fn, loss_takes_key, returns_pair

    @abstractmethod
    def loss(self, *args: Any) -> Any:
        """The loss in training mode, as `Task.loss_fn`."""

    @abstractmethod
    def evaluated(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The user's metric as a metric of parameters and model state, in evaluation mode."""

    def evaluated_loss(self, *args: Any) -> Any:
        """The loss in evaluation mode, as a metric."""
        key = [jax.random.key(0)] if self._loss_takes_key else []
        found = self.evaluated(self._loss_fn)(*args, *key)
        return found[0] if self._returns_pair else found

    @abstractmethod
    def rebuild(self, params: Any, model_state: Any) -> Any:
        """The framework's own model."""


def framework(caller: str, name: str) -> ModuleType:
    """A module of an optional library."""
    try:
        return importlib.import_module(name)
    except ImportError:
        library = name.split(".")[0]
        raise ImportError(f"{caller} needs {library}: pip install {library}.") from None


def with_state(found: Any, model_state: Any, has_aux: bool) -> Any:
    """What a loss with a model state returns, of what the user's loss returned."""
    if not has_aux:
        return found, model_state
    loss, aux = found
    return loss, (model_state, aux)


def zeros_of(example: Any) -> Any:
    """A batch of these shapes."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), example)
