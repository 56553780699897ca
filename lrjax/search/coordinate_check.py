"""Compares the sizes of updates over widths of a model: `coordinate_check`."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import jax
import numpy as np

from lrjax.domains import NotInDomain, is_function
from lrjax.numerics import path_name
from lrjax.schedules.transfer import check_axes, layer_axes
from lrjax.training.parameters import split
from lrjax.training.task import Task
from lrjax.training.train import positive_integer, seed_list, train
from lrjax.transforms.base import TransformationLike, as_transformation
from lrjax.value import bad_argument

MARGIN = 0.25  # half of the smallest exponent with which updates grow where a parametrisation is not right, 1/2
CONFIDENCE = 0.975  # of each side of an exponent's interval


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class CoordinateCheck:
    """The sizes of the updates of each parameter, and of activations, over widths. Returned by `coordinate_check`.

    >>> import numpy as np, lrjax
    >>> sizes = np.array([[[0.1, 0.1], [0.2, 0.2], [0.4, 0.4], [0.8, 0.8]]])
    >>> check = lrjax.CoordinateCheck(np.array([32, 64, 128, 256]), ("hidden/w",), sizes, steps=4)
    >>> check.exponents, check.verdict
    (array([1.]), 'Updates grow with the width in hidden/w (1.00): the rate of one width is too high for a larger one.')
    """

    widths: np.ndarray  # [widths]
    names: tuple[str, ...]  # paths of parameters, and of activations
    sizes: np.ndarray  # [names, widths, seeds]: of the change from the start to the end
    steps: int

    @cached_property
    def _fits(self) -> np.ndarray:
        """[names, 2]: (the exponent b of size ∝ widthᵇ, half the width of its interval); nan where it isn't known."""
        return np.array([_fit(self.widths, sizes) for sizes in self.sizes])

    @property
    def exponents(self) -> np.ndarray:
        """[names]: b of size ∝ widthᵇ, by least squares; nan where a size is 0 or not finite."""
        return self._fits[:, 0]

    @property
    def errors(self) -> np.ndarray:
        """[names]: half the width of the 95 % interval of each exponent; inf where there are too few runs for one."""
        return self._fits[:, 1]

    @property
    def verdicts(self) -> tuple[str, ...]:
        """Of each name: "alike", "grows", "falls", "cannot tell", "no update" or "not finite"."""
        return tuple(map(_verdict, self.sizes, self.exponents, self.errors))

    @property
    def verdict(self) -> str:
        """Whether a rate can be carried over from one width to another, in words."""
        verdicts, sentences = self.verdicts, []
        listed = lambda kind: ", ".join(
            name if kind == "not finite" else f"{name} ({exponent:.2f})"
            for name, exponent, found in zip(self.names, self.exponents, verdicts, strict=True)
            if found == kind
        )
        if names := listed("not finite"):
            sentences.append(f"Not finite in {names}: take a lower rate.")
        if names := listed("grows"):
            sentences.append(
                f"Updates grow with the width in {names}: the rate of one width is too high for a larger one."
            )
        if names := listed("falls"):
            sentences.append(
                f"Updates fall with the width in {names}: the rate of one width is too low for a larger one."
            )
        if names := listed("cannot tell"):
            sentences.append(f"Cannot tell for {names}: take more seeds or widths.")
        if not sentences:
            if "alike" not in verdicts:
                return "Nothing was updated."
            span = f"{self.widths.min()} to {self.widths.max()}"
            sentences.append(f"Alike from width {span}: every update is within width^±{MARGIN}.")
        return " ".join(sentences)

    def rows(self) -> list[dict[str, Any]]:
        """Returns a dict for each name, for `pandas.DataFrame`: the mean size at each width, exponent and verdict."""
        known = lambda x: float(x) if np.isfinite(x) else None
        return [
            {
                "name": name,
                **{f"width {width}": known(size) for width, size in zip(self.widths, sizes.mean(axis=1), strict=True)},
                "exponent": known(exponent),
                "error": known(error),
                "verdict": verdict,
            }
            for name, sizes, exponent, error, verdict in zip(
                self.names, self.sizes, self.exponents, self.errors, self.verdicts, strict=True
            )
        ]

    def __repr__(self) -> str:
        count, widths, seeds = self.sizes.shape
        return f"CoordinateCheck({count} names, {widths} widths, {seeds} seeds, {self.steps} steps: {self.verdict})"

    def plot(self, ax: Any = None) -> Any:
        """Plots the sizes over the width with matplotlib (extra: plot), a line for each name. Returns the axes."""
        from lrjax.report.plots import plot_coordinates

        return plot_coordinates(self, ax)

    def _repr_html_(self) -> str:
        from lrjax.report.plots import as_html

        return as_html(self.rows(), None, self.verdict)


def _fit(widths: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    """Returns (slope of log size over log width, half the width of its interval), over all widths and seeds."""
    if not (np.isfinite(sizes) & (sizes > 0)).all():
        return np.nan, np.nan
    x = np.log(widths)[:, None] + np.zeros_like(sizes)
    x, y = x.ravel() - x.mean(), np.log(sizes).ravel()
    spread, degrees = float(x @ x), y.size - 2
    slope = float(x @ y) / spread
    if degrees < 1:
        return slope, np.inf
    rest = y - y.mean() - slope * x
    from scipy.special import stdtrit  # here, for the time of the import

    return slope, float(stdtrit(degrees, CONFIDENCE)) * float(np.sqrt(rest @ rest / degrees / spread))


def _verdict(sizes: np.ndarray, exponent: float, error: float) -> str:
    if not np.isfinite(sizes).all():
        return "not finite"
    if not sizes.any():
        return "no update"
    if np.isnan(exponent):
        return "cannot tell"
    if exponent - error > MARGIN:
        return "grows"
    if exponent + error < -MARGIN:
        return "falls"
    return "alike" if abs(exponent) + error <= MARGIN else "cannot tell"


def coordinate_check(
    task_of_width: Callable[[int], Task],
    widths: Sequence[int],
    optimizer: TransformationLike | Callable[[int], TransformationLike],
    *,
    steps: int = 5,
    seeds: int | Sequence[int] = 3,
    activations: Callable[..., Any] | None = None,
    axes: Any = (-2, -1),
) -> CoordinateCheck:
    """Coordinate check: whether updates are as large at every width, so that a rate can be carried over.

    size = ‖ΔW‖₂·√(fan-in / fan-out), of a vector its root mean square; ΔW: the change in the first steps

    Trains each width for a few steps and measures what the change of a parameter can do to the outputs of its layer:
    their root mean square for inputs of root mean square 1 that point in the worst direction, which is where training
    pushes them. It needs no look into the model. A size that goes with a power of the width between −0.25 and 0.25 is
    alike at all widths, since a parameter with the wrong rate goes with a power of 1/2 or 1; a power is known within an
    interval, and the verdict says where that is too wide to tell.

    Check with the rate of the later run or a higher one: updates of a low rate tell little, but for the first step.

    Args:
      task_of_width: width -> the task of that width.
      widths: two or more widths; powers of 2 over a factor of 8 or more tell most.
      optimizer: an optimizer for all widths, lrjax's or Optax's; or a function from the width to one, for
        `width_multipliers`.
      steps: updates of each run.
      seeds: how many runs of each width, or a list of seeds.
      activations: params -> a tree of arrays, such as activations and logits of a batch of yours; with a model state
        (params, model_state) -> a tree. The root mean square of their change is measured too.
      axes: where inputs and outputs are in a parameter, as for `width_multipliers`. Its other axes are those of a stack
        of matrices, of which the largest counts.

    Raises:
      ValueError: an argument is invalid, or two widths have other parameters than each other.

    >>> import jax, jax.numpy as jnp, lrjax
    >>> x, y = jnp.ones((8, 4)), jnp.ones((8, 1))
    >>> loss_fn = lambda p, batch: jnp.mean((jnp.tanh(batch[0] @ p["in"]) @ p["out"] - batch[1]) ** 2)
    >>> def task_of(width):
    ...     init = lambda key: {"in": jax.random.normal(key, (4, width)) / 2, "out": jnp.zeros((width, 1))}
    ...     return lrjax.Task(loss_fn, init, (x, y), batch_size=8)
    >>> check = lrjax.coordinate_check(task_of, [16, 32, 64, 128], lrjax.adam(0.01), steps=1)
    >>> check.rows()[1]["name"], round(check.rows()[1]["exponent"], 2), check.verdicts[1]
    ('out', 1.0, 'grows')

    Source: Yang et al. 2022, Tensor Programs V, arXiv:2203.03466, appendix D.1 (the check); Yang, Simon & Bernstein
    2023, A Spectral Condition for Feature Learning, arXiv:2310.17813, condition 1 (the size).
    """
    if not is_function(task_of_width):
        raise bad_argument("coordinate_check", "task_of_width", "a function from a width to a task", task_of_width)
    if activations is not None and not is_function(activations):
        raise bad_argument("coordinate_check", "activations", "a function from the parameters to arrays", activations)
    check_axes("coordinate_check", axes)
    steps = positive_integer("coordinate_check", "steps", steps)
    of_width, checked, given = _optimizers(optimizer), _widths(widths), seed_list("coordinate_check", seeds)
    found = []
    for width in checked:
        task = task_of_width(width)
        if not isinstance(task, Task):
            raise bad_argument("coordinate_check", "task_of_width", "a function that returns a lrjax.Task", task)
        each = [_sizes(task, of_width(width), steps, seed, activations, axes) for seed in given]
        found.append(each)
        if each[0].keys() != found[0][0].keys():
            names = sorted(each[0].keys() ^ found[0][0].keys())
            raise ValueError(
                f"coordinate_check: widths {checked[0]} and {width} must have the same parameters and activations, "
                f"but only one has {names}."
            )
    names = tuple(found[0][0])
    sizes = np.array([[[one[name] for one in each] for each in found] for name in names])
    return CoordinateCheck(np.array(checked), names, sizes.reshape(len(names), len(checked), len(given)), steps)


def _widths(widths: Any) -> list[int]:
    fits = isinstance(widths, (list, tuple, range, np.ndarray)) and len(set(widths)) == len(widths) >= 2
    if not fits:
        raise bad_argument("coordinate_check", "widths", "two or more different whole numbers", widths)
    return sorted(positive_integer("coordinate_check", "widths", width) for width in widths)


def _optimizers(optimizer: Any) -> Callable[[int], Any]:
    if is_function(optimizer) and not isinstance(optimizer, type):
        return optimizer
    try:
        if isinstance(optimizer, type):  # `lrjax.adam`, which would take the width for a rate
            raise NotInDomain
        as_transformation(optimizer)
    except NotInDomain:
        words = "an optimizer, lrjax's or Optax's, or a function from the width to one"
        raise bad_argument("coordinate_check", "optimizer", words, optimizer) from None
    return lambda width: optimizer


def _sizes(task: Task, optimizer: Any, steps: int, seed: int, activations: Any, axes: Any) -> dict[str, float]:
    """Trains one run, and returns the size of each change by its name."""
    start = jax.jit(task.init)(jax.random.key(seed)) if is_function(task.init) else task.init
    run = train(task, optimizer, steps=steps, seed=seed, progress=False)
    params, model_state = start if task.has_state else (start, None)
    sizes = {}
    before, after = (jax.tree_util.tree_flatten_with_path(split(x)[0])[0] for x in (params, run.params))
    for (path, old), (_, new) in zip(before, after, strict=True):
        name = path_name(path)
        sizes[name] = _operator_size(_difference(new, old), *layer_axes("coordinate_check", name, np.ndim(old), axes))
    if activations is not None:
        ends = ((run.params, run.model_state), (params, model_state))
        new, old = (jax.jit(activations)(*(end if task.has_state else end[:1])) for end in ends)
        for path, change in jax.tree_util.tree_flatten_with_path(jax.tree.map(_difference, new, old))[0]:
            name = "/".join(filter(None, ("activations", path_name(path))))
            sizes[name] = float(np.sqrt(np.mean(np.abs(change) ** 2)))
    return sizes


def _difference(new: Any, old: Any) -> np.ndarray:
    dtype = np.complex128 if np.iscomplexobj(new) else np.float64
    return np.asarray(new, dtype) - np.asarray(old, dtype)


def _operator_size(change: np.ndarray, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> float:
    """Returns the largest root mean square of the outputs for inputs of root mean square 1."""
    if not change.size:
        return 0.0
    if not np.isfinite(change).all():
        return np.nan
    others = tuple(axis for axis in range(change.ndim) if axis not in inputs + outputs)
    fan_in, fan_out = (int(np.prod([change.shape[axis] for axis in part])) for part in (inputs, outputs))
    matrices = change.transpose(*others, *inputs, *outputs).reshape(-1, fan_in, fan_out)
    return float(np.linalg.norm(matrices, 2, axis=(1, 2)).max() * np.sqrt(fan_in / fan_out))
