"""Trains models of flax.linen: see `Task.from_linen`."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from lrjax.interop.model import Model, import_framework, with_state, zeros_of
from lrjax.value import bad_argument


class Applied:
    """A module with its variables, called like the module itself; each call updates the model state.

    Args:
      module: the linen module.
      variables: its collections, such as {"params": ..., "batch_stats": ...}.
      arguments: default keyword arguments of every call.
      rngs: the key of each random stream for the first call; the n-th call after it folds n in.
      mutable: the collections that a call may update.
    """

    def __init__(self, module: Any, variables: Any, arguments: Any, rngs: dict[str, Any], mutable: list[str]):
        self.module, self.variables, self._arguments = module, variables, arguments
        self._rngs, self._mutable, self._calls = rngs, mutable, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        calls, self._calls = self._calls, self._calls + 1
        rngs = {name: jax.random.fold_in(key, calls) if calls else key for name, key in self._rngs.items()}
        kwargs = {**self._arguments, **kwargs}
        if not self._mutable:
            return self.module.apply(self.variables, *args, rngs=rngs, **kwargs)
        output, new = self.module.apply(self.variables, *args, rngs=rngs, mutable=self._mutable, **kwargs)
        self.variables = {**self.variables, **new}
        return output


class _Uninitialized(Applied):
    """A module that initialises its variables in its first call."""

    def __init__(self, module: Any, key: Any, arguments: Any):
        super().__init__(module, {}, arguments, {"params": key}, [])
        self.initial: Any = None  # the variables before any update

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.initial is not None:
            return super().__call__(*args, **kwargs)
        kwargs = {**self._arguments, **kwargs}
        output, self.initial = self.module.init_with_output(self._rngs["params"], *args, **kwargs)
        self.variables, self._mutable = self.initial, [name for name in self.initial if name != "params"]
        return output


class LinenModel(Model):
    """A model of flax.linen. Its variables are initialised by calling the loss with a batch of the shapes that
    `get_shapes` returns, which shows how the module is called."""

    has_state = True

    def __init__(
        self,
        module: Any,
        loss_fn: Callable[..., Any],
        get_shapes: Callable[[], Any],
        *,
        variables: Any,
        rngs: tuple[str, ...],
        train_arguments: Mapping[str, Any],
        eval_arguments: Mapping[str, Any],
        takes_key: bool,
        has_aux: bool,
    ):
        nn = import_framework("Task.from_linen", "flax.linen")
        if not isinstance(module, nn.Module):
            raise bad_argument("Task.from_linen", "module", "a flax.linen.Module", module)
        super().__init__(loss_fn, takes_key, has_aux)
        self._module, self._rngs = module, rngs
        self._train_arguments, self._eval_arguments = train_arguments, eval_arguments
        self.takes_key = takes_key or bool(rngs)
        if variables is not None and not (isinstance(variables, Mapping) and "params" in variables):
            raise bad_argument("Task.from_linen", "variables", 'collections with "params", as of init', variables)
        self._shapes = get_shapes() if variables is None else None
        if variables is None and self._shapes is None:
            words = "given, as `module.init` returns them: these data show no batch before the first step"
            raise bad_argument("Task.from_linen", "variables", words, None)
        self.init = self._initialize if variables is None else _split(variables)

    def _initialize(self, key: Any) -> tuple[Any, Any]:
        model = _Uninitialized(self._module, key, self._eval_arguments)
        self._loss_fn(model, zeros_of(self._shapes), *([key] if self._loss_takes_key else []))
        if model.initial is None:
            raise bad_argument(
                "Task.from_linen", "loss_fn", "a function that calls the model it is given", self._loss_fn
            )
        return _split(model.initial)

    def loss(self, params: Any, model_state: Any, batch: Any, key: Any = None) -> Any:
        rngs = {name: jax.random.fold_in(key, i) for i, name in enumerate(self._rngs)}
        variables = {"params": params, **model_state}
        model = Applied(self._module, variables, self._train_arguments, rngs, list(model_state))
        output = self._loss_fn(model, batch, *([key] if self._loss_takes_key else []))
        new_state = {name: model.variables[name] for name in model_state}
        return with_state(output, new_state, self._returns_pair)

    def evaluated(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def metric(params: Any, model_state: Any, *batch: Any) -> Any:
            variables = {"params": params, **model_state}
            return function(Applied(self._module, variables, self._eval_arguments, {}, []), *batch)

        return metric

    def rebuild(self, params: Any, model_state: Any) -> Any:
        return self._module.bind({"params": params, **model_state})


def _split(variables: Any) -> tuple[Any, Any]:
    """Returns (parameters, the other collections)."""
    return variables["params"], {name: x for name, x in variables.items() if name != "params"}
