"""The task: a model, its loss, its data and its evaluation, as one value."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from lrjax.domains import is_function
from lrjax.interop.equinox import EquinoxModel
from lrjax.interop.linen import LinenModel
from lrjax.interop.model import Model
from lrjax.interop.nnx import NnxModel
from lrjax.training.data import batch_shapes, count_examples, is_tree_of_arrays
from lrjax.training.objective import Metric, Objective, named_metrics
from lrjax.training.sharding import RunSharding, are_specs
from lrjax.value import bad_argument


def _is_init(x: Any) -> bool:
    return is_function(x) or (bool(jax.tree.leaves(x)) and all(map(_is_numeric, jax.tree.leaves(x))))


def _is_numeric(x: Any) -> bool:
    return isinstance(x, (np.ndarray, np.generic, jax.Array, int, float, complex))


def _is_count(x: Any) -> bool:
    return x is None or (isinstance(x, (int, np.integer)) and not isinstance(x, bool) and bool(x >= 1))


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "loss_fn": (lambda x: x is None or callable(x), "a function (params, batch) -> loss"),
    "init": (
        _is_init,
        "a function from a key to parameters, or a tree of arrays (of a model with functions in it: Task.from_equinox)",
    ),
    "value_and_grad_fn": (lambda x: x is None or callable(x), "a function as jax.value_and_grad makes it"),
    "as_model": (lambda x: x is None or callable(x), "a function (params, model_state) -> model"),
    **{
        name: (are_specs, "PartitionSpecs in a tree, or a function that returns them")
        for name in ("param_specs", "batch_specs")
    },
    "batch_size": (_is_count, "a whole number >= 1"),
    "steps": (_is_count, "a whole number >= 1"),
    "validation_batch_size": (_is_count, "a whole number >= 1"),
    **{
        name: (lambda x: isinstance(x, bool), "True or False")
        for name in ("stacked", "takes_key", "has_state", "has_aux")
    },
    "name": (lambda x: isinstance(x, str), "a string"),
    "description": (lambda x: isinstance(x, str), "a string"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A model, its loss, its data and its evaluation: what `train`, `sweep`, `tune`, `range_test` and `compare` take.

    The loss is `loss_fn(params, batch)`, a scalar. Three flags say what else it takes and returns:

    - `takes_key`: its last argument is a key, for dropout or noise: `jax.random.fold_in(jax.random.key(s), t)` in step
      t of seed s. Every step has its own key, and runs of one seed have the same keys.
    - `has_state`: the model has a state that no gradient changes, such as the running statistics of BatchNorm: the loss
      is `loss_fn(params, model_state, batch)` and returns `(loss, new_state)`. `init` returns `(params, model_state)`.
    - `has_aux`: it returns `(loss, aux)`, where aux is a tree of scalars, which are recorded; with `has_state` too
      `(loss, (new_state, aux))`.

    Parameters that are not floating (integers, keys) are passed to the loss but not trained: the optimizer sees None
    in their place.

    Models of flax and Equinox: `Task.from_linen`, `Task.from_nnx`, `Task.from_equinox`.

    Args:
      loss_fn: the loss of a batch, a function without side effects.
      init: key -> params, called with the key of each seed; or a tree of parameters.
      data: one of: arrays of examples, with `batch_size`, shuffled in another order for each epoch and seed; with
        `stacked`, arrays whose first axis is the step; a function from the step to a batch, which is traced; an
        iterable of batches, or a generator function that yields them, each loaded once, and iterated again at its end
        where that is possible. A last batch with fewer examples is dropped, with a warning.
      batch_size: examples in a batch, for arrays of examples.
      stacked: whether the first axis of the data is the step.
      metrics: what an evaluation measures: `(function, "min" or "max")`, or a dict of these by name; the first decides
        which run is best. Default: the loss on `validation`, or none without it: then the training loss decides.
      validation: arrays of examples for the metrics, or a list of batches. Without it a metric is a function of the
        parameters alone.
      validation_batch_size: examples that are evaluated at once; a metric is the mean over the batches, weighted with
        their sizes. Default: all of them.
      takes_key, has_state, has_aux: see above.
      value_and_grad_fn: computes the gradients in place of `jax.value_and_grad(loss_fn)`: it takes the arguments of the
        loss and returns (what the loss returns, gradients). For loss scaling, per-example gradients, or different
        losses for different parameters. With it `loss_fn` may be None.
      as_model: (params, model_state) -> the model that `Run.model` returns.
      param_specs, batch_specs: `PartitionSpec`s that shard parameters (with them the optimizer state) and batches over
        all axes but "runs" of the `mesh` that is passed to `train` or a search: a prefix tree, or a function from the
        parameters or the batch to one. Default: a run is on one device.
      steps: updates of a run, where a call doesn't say. Default: the number of batches, where that is known.
      name: the task's name on pages.
      description: a sentence about model and data, for pages.

    Raises:
      ValueError: an argument is invalid.

    >>> import jax.numpy as jnp, lrjax
    >>> loss_fn = lambda params, batch: jnp.mean((batch @ params - 1.0) ** 2)
    >>> task = lrjax.Task(loss_fn, jnp.zeros(2), jnp.eye(2), batch_size=2)
    >>> lrjax.train(task, lrjax.sgd(0.5), steps=20).params.round(3)
    Array([1., 1.], dtype=float32)
    """

    loss_fn: Callable[..., Any] | None
    init: Any
    data: Any
    batch_size: int | None = None
    _: dataclasses.KW_ONLY
    stacked: bool = False
    metrics: Any = None
    validation: Any = None
    validation_batch_size: int | None = None
    takes_key: bool = False
    has_state: bool = False
    has_aux: bool = False
    value_and_grad_fn: Callable[..., Any] | None = None
    as_model: Callable[[Any, Any], Any] | None = None
    param_specs: Any = None
    batch_specs: Any = None
    steps: int | None = None
    name: str = "task"
    description: str = ""

    def __post_init__(self) -> None:
        for name, (fits, words) in _FIELDS.items():
            if not fits(getattr(self, name)):
                raise bad_argument("Task", name, words, getattr(self, name))
        if self.loss_fn is None and self.value_and_grad_fn is None:
            raise bad_argument("Task", "loss_fn", "a function (params, batch) -> loss", None)
        if self.data is None:
            raise bad_argument("Task", "data", "arrays of examples, a function, or an iterable of batches", None)
        if self.has_state and not is_function(self.init) and not (isinstance(self.init, tuple) and len(self.init) == 2):
            raise bad_argument("Task", "init", "a pair (params, model_state), with `has_state`", self.init)
        object.__setattr__(self, "metrics", self._named_metrics())
        if self.validation is not None:
            object.__setattr__(self, "_validation", tuple(self._validation_batches()))

    @classmethod
    def from_linen(
        cls,
        module: Any,
        loss_fn: Callable[..., Any],
        data: Any,
        batch_size: int | None = None,
        *,
        variables: Any = None,
        rngs: Sequence[str] = (),
        train_arguments: Mapping[str, Any] | None = None,
        eval_arguments: Mapping[str, Any] | None = None,
        metrics: Any = None,
        **fields: Any,
    ) -> "Task":
        """Makes a task of a flax.linen module. Needs flax.

        The loss is `loss_fn(model, batch)`, where `model` is called as the module: `model(x)`. Metrics are functions of
        the same arguments, evaluated without random numbers, and the default metric is the loss. All collections but
        "params" are model state. `Run.model` is the module, bound to the trained variables.

        Args:
          module: the module.
          loss_fn: (model, batch) -> loss; with `takes_key` (model, batch, key); with `has_aux` it returns (loss, aux).
          data, batch_size: as of `Task`.
          variables: the initial variables, {"params": ..., ...}. Default: `module.init(key)`, called with the arguments
            of the loss's first call and `eval_arguments`.
          rngs: names of random streams, such as ("dropout",). In a step with the key k, stream i has the key
            `jax.random.fold_in(k, i)`; in the n-th call of the model after the first, n is folded in too.
          train_arguments, eval_arguments: keyword arguments of every call, such as {"train": True} and
            {"train": False}.
          metrics: as of `Task`.
          fields: further ones of `Task`: validation, takes_key, has_aux, steps, name, ...

        Raises:
          ValueError: an argument is not of these.
          ImportError: flax isn't there.

        >>> import flax.linen as nn, jax.numpy as jnp, lrjax
        >>> loss_fn = lambda model, x: jnp.mean((model(x) - 1.0) ** 2)
        >>> task = lrjax.Task.from_linen(nn.Dense(1), loss_fn, jnp.eye(2), batch_size=2)
        >>> lrjax.train(task, lrjax.sgd(0.5), steps=40).model(jnp.eye(2)).round(2)
        Array([[1.],
               [1.]], dtype=float32)
        """
        flags = {name: fields.get(name, False) for name in ("takes_key", "has_aux")}
        model = LinenModel(
            module,
            loss_fn,
            lambda: batch_shapes(data, batch_size, fields.get("stacked", False)),
            variables=variables,
            rngs=tuple(rngs),
            train_arguments=dict(train_arguments or {}),
            eval_arguments=dict(eval_arguments or {}),
            **flags,
        )
        return cls._of_model(model, data, batch_size, metrics, fields)

    @classmethod
    def from_nnx(
        cls,
        make_model: Any,
        loss_fn: Callable[..., Any],
        data: Any,
        batch_size: int | None = None,
        *,
        wrt: Any = None,
        metrics: Any = None,
        **fields: Any,
    ) -> "Task":
        """Makes a task of a flax.nnx model. Needs flax.

        The loss is `loss_fn(model, batch)`, with the model in training mode (`model.train()`); metrics are functions of
        the same arguments in evaluation mode (`model.eval()`), and the default metric is the loss. All variables that
        are not trained are model state: statistics, the counts and keys of `nnx.Rngs`. `Run.model` is a model, in the
        mode in which it was made.

        Args:
          make_model: nnx.Rngs -> model, called with `nnx.Rngs(jax.random.key(seed))`; or a model, which is not changed:
            its random streams are then reseeded in each step from the key of the step.
          loss_fn: (model, batch) -> loss; with `takes_key` (model, batch, key); with `has_aux` it returns (loss, aux).
          data, batch_size: as of `Task`.
          wrt: the nnx filter of the variables that are trained. Default: `nnx.Param`.
          metrics: as of `Task`.
          fields: further ones of `Task`: validation, takes_key, has_aux, steps, name, ...

        Raises:
          ValueError: an argument is not of these.
          ImportError: flax isn't there.

        >>> from flax import nnx
        >>> import jax.numpy as jnp, lrjax
        >>> loss_fn = lambda model, x: jnp.mean((model(x) - 1.0) ** 2)
        >>> task = lrjax.Task.from_nnx(lambda rngs: nnx.Linear(2, 1, rngs=rngs), loss_fn, jnp.eye(2), batch_size=2)
        >>> lrjax.train(task, lrjax.sgd(0.5), steps=40).model(jnp.eye(2)).round(2)
        Array([[1.],
               [1.]], dtype=float32)
        """
        flags = {name: fields.get(name, False) for name in ("takes_key", "has_aux")}
        return cls._of_model(NnxModel(make_model, loss_fn, wrt=wrt, **flags), data, batch_size, metrics, fields)

    @classmethod
    def from_equinox(
        cls,
        make_model: Any,
        loss_fn: Callable[..., Any],
        data: Any,
        batch_size: int | None = None,
        *,
        metrics: Any = None,
        **fields: Any,
    ) -> "Task":
        """Makes a task of an Equinox model. Needs equinox.

        The loss is `loss_fn(model, batch)`, with the model in training mode; with `has_state` it is
        `loss_fn(model, state, batch)` and returns `(loss, state)`; with `takes_key` its last argument is a key.
        Metrics are functions of (model, batch), or (model, state, batch), in inference mode, and the default metric is
        the loss. Floating arrays are trained. `Run.model` is the model, or (model, state).

        Args:
          make_model: key -> model, or, with `has_state`, key -> (model, state), such as `eqx.nn.make_with_state`
            returns; or the model, or the pair, itself.
          loss_fn: see above.
          data, batch_size: as of `Task`.
          metrics: as of `Task`.
          fields: further ones of `Task`: validation, takes_key, has_state, has_aux, steps, name, ...

        Raises:
          ValueError: an argument is not of these.
          ImportError: equinox isn't there.

        >>> import equinox as eqx, jax, jax.numpy as jnp, lrjax
        >>> loss_fn = lambda model, x: jnp.mean((jax.vmap(model)(x) - 1.0) ** 2)
        >>> task = lrjax.Task.from_equinox(lambda key: eqx.nn.Linear(2, 1, key=key), loss_fn, jnp.eye(2), batch_size=2)
        >>> jax.vmap(lrjax.train(task, lrjax.sgd(0.5), steps=40).model)(jnp.eye(2)).round(2)
        Array([[1.],
               [1.]], dtype=float32)
        """
        flags = {name: fields.get(name, False) for name in ("takes_key", "has_state", "has_aux")}
        return cls._of_model(EquinoxModel(make_model, loss_fn, **flags), data, batch_size, metrics, fields)

    @classmethod
    def _of_model(cls, model: Model, data: Any, batch_size: int | None, metrics: Any, fields: dict[str, Any]) -> "Task":
        if metrics is not None:
            given = named_metrics(metrics).items()
            metrics = {name: Metric(model.evaluated(metric.function), metric.mode) for name, metric in given}
        elif fields.get("validation") is not None:
            metrics = {"validation loss": Metric(model.evaluated_loss, "min")}
        flags = {"takes_key": model.takes_key, "has_state": model.has_state, "as_model": model.rebuild}
        return cls(model.loss, model.init, data, batch_size, metrics=metrics or None, **{**fields, **flags})

    @property
    def objective(self) -> Objective:
        return Objective(self.loss_fn, self.takes_key, self.has_state, self.has_aux, self.value_and_grad_fn)

    @property
    def run_sharding(self) -> RunSharding | None:
        return RunSharding.from_specs(self.param_specs, self.batch_specs)

    @property
    def validation_batches(self) -> tuple[Any, ...]:
        """Stacks [batches, examples, ...] of equally large batches, one for each size."""
        return () if self.validation is None else self._validation  # type: ignore[attr-defined]

    @property
    def decides(self) -> str:
        """The metric that decides which run is best, in words."""
        if not self.metrics:
            return "training loss, the mean of the last tenth"
        name, metric = next(iter(self.metrics.items()))
        return f"{name} after the last step, {'higher' if metric.mode == 'max' else 'lower'} is better"

    def score(self, metric: np.ndarray) -> np.ndarray:
        """Returns the deciding metric, with the sign changed where higher is better."""
        return -metric if next(iter(self.metrics.values())).mode == "max" else metric

    def _named_metrics(self) -> dict[str, Metric]:
        if self.metrics is not None:
            return named_metrics(self.metrics)
        if self.validation is None:
            return {}
        if self.takes_key or self.has_state or self.loss_fn is None:
            raise bad_argument("Task", "metrics", "given: the loss is that of training", None)
        plain = self.loss_fn if not self.has_aux else _WithoutAux(self.loss_fn)
        return {"validation loss": Metric(plain, "min")}

    def _validation_batches(self) -> Iterator[Any]:
        if isinstance(self.validation, list):
            sizes = [_length(batch, "validation") for batch in self.validation]
            for size in dict.fromkeys(sizes):
                same_size = [batch for batch, n in zip(self.validation, sizes, strict=True) if n == size]
                yield jax.tree.map(lambda *xs: np.stack(xs), *same_size)
            return
        count = _length(self.validation, "validation")
        size = min(self.validation_batch_size or count, count)
        full = count // size
        yield jax.tree.map(lambda x: x[: full * size].reshape(full, size, *x.shape[1:]), self.validation)
        if remainder := count % size:
            yield jax.tree.map(lambda x: x[None, -remainder:], self.validation)


@dataclasses.dataclass(frozen=True)
class _WithoutAux:
    loss_fn: Callable[..., Any]

    def __call__(self, params: Any, batch: Any) -> Any:
        return self.loss_fn(params, batch)[0]


def _length(tree: Any, name: str) -> int:
    count = count_examples(tree)
    if not is_tree_of_arrays(tree) or not count:
        raise bad_argument("Task", name, "arrays of examples of one length, or a list of such batches", tree)
    return count
