"""Transfer of a learning rate to another batch size or another width of the model."""

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from lrjax.domains import NotInDomain, Positive, known_domain
from lrjax.numerics import ArrayTree, path_name
from lrjax.schedules.base import RateOrSchedule, Schedule
from lrjax.schedules.groups import ScalarOrSchedule, by_path, is_rate
from lrjax.value import bad_argument

_BATCH_RULES = {"sqrt": 0.5, "linear": 1.0, "none": 0.0}  # powers of the batch size
_IS_VECTOR = re.compile("(^|/)(bias|scale)$")  # of any rank: no axis is summed over


def scale_rate(
    rate: ScalarOrSchedule, batch_size: Any, to: Any, rule: Literal["sqrt", "linear", "none"] = "sqrt"
) -> Any:
    """Learning rate for another batch size.

    sqrt: rate·√k; linear: rate·k; none: rate; k = to / batch_size

    - "sqrt" for Adam, RMSprop and their like, where the noise of the gradient is larger than its mean. The whole rule
      also makes 1 − b1 and 1 − b2 k times as large and eps 1/√k times, which this function leaves to the user.
    - "linear" for SGD, with or without momentum, and with a warmup.
    - "none" beyond the critical batch size, where both rules end: there a larger batch has hardly less noise that
      matters, and the best rate stays, or for Adam even falls. For the ratio of the noise to the mean, and so for this
      size, see McCandlish et al. 2018, arXiv:1812.06162; Li et al. 2024, arXiv:2405.14578, for Adam.

    Both rules are of the same number of examples, not of the same number of steps.

    Args:
      rate: a number, traced too, an array, a schedule, which is multiplied, or a tree of these.
      batch_size: examples in a batch with which the rate was found, > 0.
      to: examples in a batch with which it will be used, > 0.
      rule: see above.

    Raises:
      ValueError: an argument is out of its range.

    >>> import lrjax
    >>> lrjax.scale_rate(1e-3, batch_size=64, to=256)
    0.002
    >>> lrjax.scale_rate(lrjax.cosine_decay_schedule(0.1, 100), 256, to=1024, rule="linear")([0, 50])
    Array([0.4, 0.2], dtype=float32)

    Source: linear: Goyal et al. 2017, Accurate, Large Minibatch SGD, arXiv:1706.02677, section 2.1; sqrt: Malladi et
    al. 2022, On the SDEs and Scaling Rules for Adaptive Gradient Algorithms, arXiv:2205.10287, section 5; Krizhevsky
    2014, One weird trick for parallelizing convolutional neural networks, arXiv:1404.5997.
    """
    if rule not in _BATCH_RULES:
        raise bad_argument("scale_rate", "rule", f"one of {list(_BATCH_RULES)}", rule)
    sizes = []
    for name, size in (("batch_size", batch_size), ("to", to)):
        try:
            sizes.append(known_domain(Positive).validate(size))
        except NotInDomain:
            raise bad_argument("scale_rate", name, known_domain(Positive).description, size) from None
    factor = (sizes[1] / sizes[0]) ** _BATCH_RULES[rule]
    if isinstance(rate, by_path):
        raise bad_argument("scale_rate", "rate", "a number, a schedule, or a tree of these; scale those in it", rate)
    return _multiplied("scale_rate", rate, factor)


def _multiplied(caller: str, rate: Any, factor: Any) -> Any:
    """Returns a rate, or a tree of rates, times a number."""
    domain = known_domain(ScalarOrSchedule)
    try:
        return jax.tree.map(lambda each: each * factor, domain.validate(rate), is_leaf=is_rate)
    except NotInDomain:
        words = domain.description.removesuffix(", or by_path(...)")
        raise bad_argument(caller, "rate", words, rate) from None


class Growth(NamedTuple):
    """How many times as many inputs and outputs a parameter has in the larger model."""

    inputs: float
    outputs: float

    @property
    def is_output(self) -> bool:
        """Whether it maps an axis that grows to one that doesn't."""
        return self.inputs != 1 and self.outputs == 1


def width_multipliers(
    params_small: ArrayTree,
    params_big: ArrayTree,
    rate: Any = 1.0,
    *,
    method: Literal["adam", "sgd"] = "adam",
    output: Literal["rate", "forward"] = "rate",
    axes: Any = (-2, -1),
) -> Any:
    """Learning rates with which a model of another width has the best base rate of the small one (μP), as a tree.

    With i and o, the growth of a parameter's inputs (fan-in) and outputs (fan-out) from the small to the big model:

    | parameter | adam | sgd |
    |---|---|---|
    | hidden matrix: both grow | rate/i | rate·o/i |
    | input matrix, embedding: o grows | rate | rate·o |
    | bias, norm of a layer that grows | rate | rate·o |
    | output matrix: i grows | rate/i | rate/i |
    | … with `output="forward"` | rate | rate·i |
    | nothing grows | rate | rate |

    These are the rates alone. μP also needs of the model, where it is initialised and called:

    - matrices that begin with a variance ∝ 1/fan-in, as is usual;
    - output matrices that begin 1/√i times as large as that, or at 0; `width_init_multipliers` has this factor. Or,
      with `output="forward"`, a constant variance in all widths, or 0, and outputs divided by i in the forward pass;
    - attention with q·k divided by the size of a head instead of its root, where heads grow, and not their number.

    Both forms train alike. The first changes nothing in the forward pass; the second is that of the package mup, and
    allows an embedding that is also the output matrix.

    "adam" is for every optimizer whose updates don't depend on the scale of the gradient, such as Adam, RMSprop and
    Lion, with an eps far below the gradients, which fall with the width. "sgd" is with and without momentum. Muon, LARS
    and LAMB have rules of their own. The decay of `adamw` is multiplied by the rate of its parameter, so in hidden
    matrices it becomes i times smaller.

    Args:
      params_small: parameters of the model on which the rate is found, or their shapes, as of `jax.eval_shape`.
      params_big: those of the same model in another width. Anything else must be the same, such as depth and classes.
      rate: the base rate: a number, traced too, an array of them, or a schedule.
      method: see above.
      output: see above.
      axes: (inputs, outputs), each an axis or a tuple of axes: where they are in a matrix. The default is that of flax;
        that of PyTorch and Equinox is (-1, -2), with a convolution (1, 0). Or a dict from regular expressions to such
        pairs, of which the first found in a path applies, and (-2, -1) where none is. Where all of that isn't said by a
        dict: vectors, and parameters of any rank of the name bias or scale, have outputs only. Shapes can't tell an
        output vector from a bias: say `axes={"head": (0, ())}`, or for attention with kernels [width, heads, size]
        `axes={"(query|key|value)/kernel": (0, (1, 2)), "out/kernel": ((0, 1), 2)}`.

    Raises:
      ValueError: the trees are not of one model, or an axis grows of which `axes` doesn't say what it is; the message
        names the parameter.

    >>> import jax, jax.numpy as jnp, lrjax
    >>> init = lambda n: {"in": jnp.ones((8, n)), "b": jnp.ones(n), "mid": jnp.ones((n, n)), "out": jnp.ones((n, 2))}
    >>> small, big = init(16), jax.eval_shape(lambda: init(64))
    >>> lrjax.width_multipliers(small, big, 0.1)
    {'b': 0.1, 'in': 0.1, 'mid': 0.025, 'out': 0.025}
    >>> tx = lrjax.adam(lrjax.width_multipliers(small, big, lrjax.cosine_decay_schedule(0.1, 1000)))
    >>> lrjax.get_learning_rate(tx.init(init(64)))["mid"]
    Array(0.025, dtype=float32)

    Source: Yang et al. 2022, Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter Transfer,
    arXiv:2203.03466, tables 3 and 8 ("forward").
    """
    if method not in ("adam", "sgd"):
        raise bad_argument("width_multipliers", "method", '"adam" or "sgd"', method)
    _check_output("width_multipliers", output)
    try:
        base = known_domain(RateOrSchedule).validate(rate)
    except NotInDomain:
        raise bad_argument("width_multipliers", "rate", known_domain(RateOrSchedule).description, rate) from None

    def multiplier(growth: Growth) -> float:
        if growth.is_output and output == "forward":
            return 1.0 if method == "adam" else growth.inputs
        return (1.0 if method == "adam" else growth.outputs) / growth.inputs

    growths = _growths("width_multipliers", params_small, params_big, axes)
    is_one = lambda growth: isinstance(base, Schedule) and multiplier(growth) == 1  # a product would be longer
    rate_of = lambda growth: base if is_one(growth) else base * multiplier(growth)
    return jax.tree.map(rate_of, growths, is_leaf=_is_growth)


def width_init_multipliers(
    params_small: ArrayTree,
    params_big: ArrayTree,
    *,
    output: Literal["rate", "forward"] = "rate",
    axes: Any = (-2, -1),
) -> Any:
    """Factors for the initial parameters of a wider model, for `width_multipliers`: of output matrices, else 1.

    1/√i with `output="rate"`, √i with "forward"; i is the growth of the inputs

    The parameters are those of an initialisation with a variance ∝ 1/fan-in. Arguments and errors are those of
    `width_multipliers`.

    >>> import jax, jax.numpy as jnp, lrjax
    >>> init = lambda n: {"in": jnp.ones((8, n)), "out": jnp.ones((n, 2))}
    >>> factors = lrjax.width_init_multipliers(init(16), init(64))
    >>> factors
    {'in': 1.0, 'out': 0.5}
    >>> params = jax.tree.map(jnp.multiply, init(64), factors)

    Source: Yang et al. 2022, Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter Transfer,
    arXiv:2203.03466, tables 3 and 8 ("forward").
    """
    _check_output("width_init_multipliers", output)
    power = -0.5 if output == "rate" else 0.5
    growths = _growths("width_init_multipliers", params_small, params_big, axes)
    factor = lambda growth: growth.inputs**power if growth.is_output else 1.0
    return jax.tree.map(factor, growths, is_leaf=_is_growth)


def _is_growth(x: Any) -> bool:
    return isinstance(x, Growth)


def _check_output(caller: str, output: Any) -> None:
    if output not in ("rate", "forward"):
        raise bad_argument(caller, "output", '"rate" or "forward"', output)


def _growths(caller: str, small: Any, big: Any, axes: Any) -> Any:
    """Returns a tree like `big` with the growth of each parameter."""
    check_axes(caller, axes)
    paths, structure = jax.tree_util.tree_flatten_with_path(big)
    of_big = {path_name(path): np.shape(x) for path, x in paths}
    # the structures themselves may differ: modules of Equinox have their widths in them
    of_small = {path_name(path): np.shape(x) for path, x in jax.tree_util.tree_flatten_with_path(small)[0]}
    for path in [*of_big, *of_small]:
        if path not in of_small or path not in of_big:
            where = "params_big" if path in of_big else "params_small"
            raise ValueError(f"{caller}: both trees must be of one model, but {path!r} is in `{where}` only.")
    return structure.unflatten([_growth(caller, path, of_small[path], shape, axes) for path, shape in of_big.items()])


def _growth(caller: str, path: str, small: tuple[int, ...], big: tuple[int, ...], axes: Any) -> Growth:
    if len(small) != len(big):
        raise ValueError(f"{caller}: {path!r} must have as many axes in both models, got shapes {small} and {big}.")
    if 0 in small + big:
        return Growth(1.0, 1.0)
    inputs, outputs = layer_axes(caller, path, len(big), axes)
    for axis in set(range(len(big))) - {*inputs, *outputs}:
        if small[axis] != big[axis]:
            raise ValueError(
                f"{caller}: axis {axis} of {path!r} grows from {small} to {big}, and is neither of the inputs nor of "
                f"the outputs. Say which axes are: axes={{{path!r}: (inputs, outputs)}}."
            )
    ratio = lambda of: float(np.prod([big[i] for i in of]) / np.prod([small[i] for i in of]))
    return Growth(ratio(inputs), ratio(outputs))


def check_axes(caller: str, axes: Any) -> None:
    """Raises ValueError where `axes` is neither a pair nor a dict of pairs."""
    try:
        pairs = axes.values() if isinstance(axes, Mapping) else [axes]
        fits = all(_is_pair(pair) for pair in pairs)
        if isinstance(axes, Mapping):
            for pattern in axes:
                re.compile(pattern)
    except (re.error, TypeError):
        fits = False
    if not fits:
        words = "(inputs, outputs), each an axis or a tuple of axes, or a dict from expressions to such pairs"
        raise bad_argument(caller, "axes", words, axes)


def _is_pair(x: Any) -> bool:
    is_axis = lambda i: isinstance(i, (int, np.integer)) and not isinstance(i, bool)
    return isinstance(x, tuple) and len(x) == 2 and all(is_axis(i) for part in x for i in _as_tuple(part))


def _as_tuple(x: Any) -> tuple[Any, ...]:
    return x if isinstance(x, tuple) else (x,)


def layer_axes(caller: str, path: str, rank: int, axes: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns (the axes of inputs, the axes of outputs), not negative, of a parameter."""
    found = next((pair for p, pair in axes.items() if re.search(p, path)), None) if isinstance(axes, Mapping) else None
    if found is None and _IS_VECTOR.search(path):
        return (), tuple(range(rank))
    pair = found or ((-2, -1) if isinstance(axes, Mapping) else axes)
    inputs, outputs = map(_as_tuple, pair)
    if not all(-rank <= axis < rank for axis in inputs + outputs):
        if rank < 2:  # a vector or a number, of a rule for matrices
            return (), tuple(range(rank))
        raise bad_argument(caller, "axes", f"axes of {path!r}, which has {rank}", pair)
    positive = lambda part: tuple(axis % rank for axis in part)
    if len({*positive(inputs), *positive(outputs)}) < len(inputs + outputs):
        raise bad_argument(caller, "axes", f"different axes of {path!r}, which has {rank}", pair)
    return positive(inputs), positive(outputs)
