"""Trains models of flax.nnx: see `Task.from_nnx`."""

from collections.abc import Callable
from typing import Any

import jax

from lrjax.interop.model import Model, import_framework, with_state
from lrjax.value import bad_argument


class NnxModel(Model):
    """A model of flax.nnx. All variables that aren't trained are model state: statistics, counts and keys of rngs."""

    has_state = True

    def __init__(self, model: Any, loss_fn: Callable[..., Any], *, wrt: Any, takes_key: bool, has_aux: bool):
        nnx = import_framework("Task.from_nnx", "flax.nnx")
        super().__init__(loss_fn, takes_key, has_aux)
        self._nnx, self._make = nnx, model
        self._wrt = nnx.Param if wrt is None else wrt
        is_given = isinstance(model, nnx.Module)
        if not is_given and not callable(model):
            raise bad_argument("Task.from_nnx", "make_model", "a function from nnx.Rngs to a model, or a model", model)
        module = model if is_given else nnx.eval_shape(lambda: model(nnx.Rngs(jax.random.key(0))))
        if not isinstance(module, nnx.Module):
            raise bad_argument("Task.from_nnx", "make_model", "a function that returns an nnx.Module", module)
        self._graphdef, params, model_state = nnx.split(module, self._wrt, ...)
        # a given model has the same random streams for every seed, so they are reseeded with the key of each step
        self._reseeds = is_given and any(True for _ in self._streams(module))
        self.takes_key = takes_key or self._reseeds
        self.init = (params, model_state) if is_given else self._initialize

    def _initialize(self, key: Any) -> tuple[Any, Any]:
        _, params, model_state = self._nnx.split(self._make(self._nnx.Rngs(key)), self._wrt, ...)
        return params, model_state

    def loss(self, params: Any, model_state: Any, batch: Any, key: Any = None) -> Any:
        model = self.rebuild(params, model_state)
        model.train()
        if self._reseeds:
            for i, stream in enumerate(self._streams(model)):
                stream.key.set_value(jax.random.fold_in(key, i))
        output = self._loss_fn(model, batch, *([key] if self._loss_takes_key else []))
        _, _, new_state = self._nnx.split(model, self._wrt, ...)
        return with_state(output, new_state, self._returns_pair)

    def evaluated(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def metric(params: Any, model_state: Any, *batch: Any) -> Any:
            model = self.rebuild(params, model_state)
            model.eval()
            return function(model, *batch)

        return metric

    def rebuild(self, params: Any, model_state: Any) -> Any:
        return self._nnx.merge(
            self._graphdef, params, model_state, copy=True
        )  # copied, since a Variable belongs to one trace

    def _streams(self, model: Any) -> Any:
        return (node for _, node in self._nnx.iter_graph(model) if isinstance(node, self._nnx.RngStream))
