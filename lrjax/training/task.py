"""What is trained: a model, its loss, its data and its evaluation, as one value."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
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

    loss_fn: Callable[..., Any]
    takes_key: bool
    has_state: bool
    has_aux: bool

    def __call__(self, params: Any, model_state: Any, batch: Any, key: Any) -> tuple[Any, tuple[Any, Any]]:
        arguments = [params, *([model_state] if self.has_state else []), batch, *([key] if self.takes_key else [])]
        found = self.loss_fn(*arguments)
        aux = None
        if self.has_state and self.has_aux:
            found, (model_state, aux) = self._parts(found, "(loss, (new_state, aux))", 2)
        elif self.has_state:
            found, model_state = self._parts(found, "(loss, new_state)", None)
        elif self.has_aux:
            found, aux = self._parts(found, "(loss, aux)", None)
        if not hasattr(found, "shape") and not isinstance(found, (int, float)) or np.shape(found) != ():
            flags = "" if self.has_state or self.has_aux else "; with more than the loss say `has_aux` or `has_state`"
            raise bad_argument("Task", "loss_fn", f"a function that returns a scalar loss{flags}", _described(found))
        return found, (model_state, aux)

    def _parts(self, found: Any, words: str, second: int | None) -> Any:
        pair = isinstance(found, tuple) and len(found) == 2
        if not pair or (second is not None and not (isinstance(found[1], tuple) and len(found[1]) == second)):
            flags = ", ".join(name for name in ("has_state", "has_aux") if getattr(self, name))
            raise bad_argument("Task", "loss_fn", f"a function that returns {words}, with {flags}", _described(found))
        return found


def _described(x: Any) -> Any:
    return jax.tree.map(lambda leaf: f"{jax.numpy.result_type(leaf)}{list(np.shape(leaf))}", x)


def _is_tree(x: Any) -> bool:
    return callable(x) or bool(jax.tree.leaves(x))


def _is_count(x: Any) -> bool:
    return x is None or (isinstance(x, (int, np.integer)) and not isinstance(x, bool) and bool(x >= 1))


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "loss_fn": (callable, "a function (params, batch) -> loss"),
    "init": (_is_tree, "a function from a key to parameters, or a tree of parameters"),
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

    The loss is `loss_fn(params, batch)`, a scalar. Three flags say what else it takes and gives:

    - `takes_key`: its last argument is a key, for dropout, noise and the like: `jax.random.fold_in(jax.random.key(s),
      t)` in step t of seed s, so that every step has a key of its own and runs of one seed differ in nothing else.
    - `has_state`: the model has a state that no gradient changes, as the running statistics of BatchNorm: the loss is
      `loss_fn(params, model_state, batch)`, and returns `(loss, new_state)`. `init` gives `(params, model_state)`.
    - `has_aux`: it returns `(loss, aux)`, where aux are scalars, such as a dict of them, which are recorded; with
      `has_state` too `(loss, (new_state, aux))`.

    Parameters that are not floating (whole numbers, keys) are carried as they are: the loss gets them, no optimizer
    does, it sees None in their place.

    Args:
      loss_fn: the loss of a batch, a function without side effects.
      init: key -> params, so that each seed has a start of its own; or a tree of parameters.
      data: arrays of examples, with `batch_size`: shuffled, each epoch and each seed in another order; or with
        `stacked` arrays with one batch a step in front; or a function from the step to a batch, which is compiled; or
        an iterable of batches, each of which is loaded once; what can be gone through again is, at its end.
      batch_size: of the data that are examples.
      stacked: whether the first axis of the data are steps.
      metrics: what an evaluation measures: `(function, "min" or "max")`, or a dict of these by name; the first decides
        which run is best. Default: with `validation` the loss there, else none: the training loss decides.
      validation: arrays of examples for the metrics, or a list of batches. Without it a metric is a function of the
        parameters alone.
      validation_batch_size: examples that are evaluated at once; a metric is the mean over the batches, weighted with
        their sizes. Default: all of them.
      takes_key, has_state, has_aux: see above.
      steps: of a run, where a call doesn't say. Default: as many as there are batches, where that is known.
      name: what a page calls it.
      description: a sentence about model and data, for a page.

    Raises:
      ValueError: an argument is not of these.

    >>> import jax.numpy as jnp, lrjax
    >>> loss_fn = lambda params, batch: jnp.mean((batch @ params - 1.0) ** 2)
    >>> task = lrjax.Task(loss_fn, jnp.zeros(2), jnp.eye(2), batch_size=2)
    >>> lrjax.train(task, lrjax.sgd(0.5), steps=20).params.round(3)
    Array([1., 1.], dtype=float32)
    """

    loss_fn: Callable[..., Any]
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
    steps: int | None = None
    name: str = "task"
    description: str = ""

    def __post_init__(self) -> None:
        for name, (fits, words) in _FIELDS.items():
            if not fits(getattr(self, name)):
                raise bad_argument("Task", name, words, getattr(self, name))
        if self.data is None:
            raise bad_argument("Task", "data", "arrays of examples, a function, or an iterable of batches", None)
        if self.has_state and not callable(self.init) and not (isinstance(self.init, tuple) and len(self.init) == 2):
            raise bad_argument("Task", "init", "a pair (params, model_state), with `has_state`", self.init)
        object.__setattr__(self, "metrics", self._named_metrics())
        if self.validation is not None:
            object.__setattr__(self, "_validation", tuple(self._validation_batches()))

    @property
    def objective(self) -> Objective:
        return Objective(self.loss_fn, self.takes_key, self.has_state, self.has_aux)

    @property
    def validation_batches(self) -> tuple[Any, ...]:
        """[batches, examples, ...]: those of one size, and what is left over."""
        return () if self.validation is None else self._validation  # type: ignore[attr-defined]

    @property
    def decides(self) -> str:
        """What decides which run is best, in words."""
        if not self.metrics:
            return "training loss, the mean of the last tenth"
        name, metric = next(iter(self.metrics.items()))
        return f"{name} after the last step, {'higher' if metric.mode == 'max' else 'lower'} is better"

    def score(self, metric: np.ndarray) -> np.ndarray:
        """The metric that decides, with its sign such that lower is better."""
        return -metric if next(iter(self.metrics.values())).mode == "max" else metric

    def _named_metrics(self) -> dict[str, Metric]:
        given, words = self.metrics, '(function, "min" or "max"), or a dict of these by name'
        if given is None:
            if self.validation is None:
                return {}
            if self.takes_key or self.has_state:
                raise bad_argument("Task", "metrics", f"{words}: the loss is that of training", None)
            plain = self.loss_fn if not self.has_aux else _WithoutAux(self.loss_fn)
            return {"validation loss": Metric(plain, "min")}
        if isinstance(given, tuple) and len(given) == 2:
            given = {getattr(given[0], "__name__", "metric").strip("_<>"): given}
        if not isinstance(given, Mapping):
            raise bad_argument("Task", "metrics", words, given)
        for name, metric in given.items():
            fits = isinstance(metric, tuple) and len(metric) == 2 and callable(metric[0])
            if not isinstance(name, str) or not fits or metric[1] not in get_args(Mode):
                raise bad_argument("Task", "metrics", words, {name: metric})
        return {name: Metric(*metric) for name, metric in given.items()}

    def _validation_batches(self) -> Iterator[Any]:
        if isinstance(self.validation, list):
            sizes = [_length(batch, "validation") for batch in self.validation]
            for size in dict.fromkeys(sizes):
                some = [batch for batch, n in zip(self.validation, sizes, strict=True) if n == size]
                yield jax.tree.map(lambda *xs: np.stack(xs), *some)
            return
        count = _length(self.validation, "validation")
        size = min(self.validation_batch_size or count, count)
        whole = count // size
        yield jax.tree.map(lambda x: x[: whole * size].reshape(whole, size, *x.shape[1:]), self.validation)
        if left := count % size:
            yield jax.tree.map(lambda x: x[None, -left:], self.validation)


@dataclasses.dataclass(frozen=True)
class _WithoutAux:
    loss_fn: Callable[..., Any]

    def __call__(self, params: Any, batch: Any) -> Any:
        return self.loss_fn(params, batch)[0]


def _length(tree: Any, name: str) -> int:
    """The one length of the first axis of all arrays."""
    leaves = jax.tree.leaves(tree)
    lengths = {len(x) if np.ndim(x) else 0 for x in leaves}
    if not all(isinstance(x, (np.ndarray, jax.Array)) for x in leaves) or len(lengths) != 1 or lengths == {0}:
        raise bad_argument("Task", name, "arrays of examples of one length, or a list of such batches", tree)
    return lengths.pop()
