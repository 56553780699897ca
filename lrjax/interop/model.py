"""What a task needs of a model, whichever framework it is written in."""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol

import jax
import jax.numpy as jnp


class Model(Protocol):
    """A framework's model as pure functions of parameters and model state."""

    init: Callable[[Any], Any] | tuple[Any, Any] | Any  # from a key to what the engine carries, or that itself
    takes_key: bool  # whether the loss does
    has_state: bool

    def loss(self, *args: Any) -> Any:
        """The loss in training mode, as `Task.loss_fn`."""

    def evaluated(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The user's metric as a metric of parameters and model state, in evaluation mode."""
        ...

    def evaluated_loss(self, *args: Any) -> Any:
        """The loss in evaluation mode, as a metric."""

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
