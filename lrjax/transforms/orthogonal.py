"""Muon: orthogonalization of momentum matrices by Newton–Schulz iteration."""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from lrjax.domains import Domain, DType, Momentum, NonNegative, NotInDomain, Positive, Size, is_function
from lrjax.numerics import Array, ArrayTree, bias_correction, cast_to, safe_increment
from lrjax.static import HashableTree
from lrjax.transforms.base import EmptyState, no_state, transformation
from lrjax.transforms.elementwise import (
    cast_like,
    compute_dtype,
    inexact_dtype,
    is_none,
    map_updates,
    real_dtype,
    zeros_like,
)

# The quintic's coefficients by name: those of Jordan et al. for every step, and those of Ahn et al. 2025 (Dion,
# arXiv:2504.05295), one triple per step.
PRESETS = {
    "standard": (3.4445, -4.7750, 2.0315),
    "dion": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
}


class MuonState(NamedTuple):
    count: Array  # int32 (): updates so far
    mu: ArrayTree  # like params: moving average of g
    ns_coeffs: Array  # float32 (3,) or (steps, 3): the quintic's coefficients


class MuonDimensionNumbers(NamedTuple):
    """Which axes of a parameter are the rows (`reduction_axis`) and the columns (`output_axis`) of its matrix.

    All other axes are batch axes.

    >>> import lrjax
    >>> lrjax.MuonDimensionNumbers(reduction_axis=(0, 1), output_axis=2)
    MuonDimensionNumbers(reduction_axis=(0, 1), output_axis=2)
    """

    reduction_axis: Sequence[int] | int = 0
    output_axis: Sequence[int] | int = 1


_MATRIX = MuonDimensionNumbers()
PRECONDITIONINGS = ("frobenius", "spectral", "aol", "schatten")


def _coefficients(x: Any) -> Any:
    x = PRESETS.get(x, x) if isinstance(x, str) else x
    try:
        rows = tuple(tuple(float(c) for c in row) for row in (x if isinstance(x[0], Sequence) else (x,)))
    except (TypeError, ValueError, IndexError, KeyError):
        raise NotInDomain from None
    if not rows or any(len(row) != 3 or not all(map(math.isfinite, row)) for row in rows):
        raise NotInDomain
    return rows[0] if len(rows) == 1 else rows


def _is_dimension_numbers(x: Any) -> bool:
    return x is None or getattr(x, "_fields", None) == MuonDimensionNumbers._fields  # lrjax's or Optax's


def _dimension_numbers(x: Any) -> Any:
    if isinstance(x, HashableTree) or is_function(x):
        return x
    if not all(map(_is_dimension_numbers, jax.tree.leaves(x, is_leaf=_is_dimension_numbers))):
        raise NotInDomain
    axes = lambda a: a if isinstance(a, int) else tuple(a)
    hashable = jax.tree.map(lambda n: n and MuonDimensionNumbers(*map(axes, n)), x, is_leaf=_is_dimension_numbers)
    return hashable if _is_dimension_numbers(x) else HashableTree(hashable)


Coefficients = Annotated[
    Any,
    Domain("three numbers, or one triple for each of the steps, or 'standard' or 'dion'", _coefficients, static=True),
]
DimensionNumbers = Annotated[
    Any,
    Domain(
        "MuonDimensionNumbers, a tree of them like the parameters (or a prefix of it) with None for the rest, "
        "a function from the parameters to one, or None",
        _dimension_numbers,
        static=True,
    ),
]


def dimension_numbers_like(params: Any, given: Any) -> Any:
    """Returns a tree like `params` of MuonDimensionNumbers, with None for parameters that aren't matrices."""
    if callable(given) or isinstance(given, HashableTree):
        tree = given.tree if isinstance(given, HashableTree) else given(params)
        broadcast = lambda n, subtree: jax.tree.map(lambda _: n, subtree)
        try:
            return jax.tree.map(broadcast, tree, params, is_leaf=_is_dimension_numbers)
        except ValueError as error:
            expected = "a tree like the parameters, or a prefix of it"
            raise ValueError(f"scale_by_muon: `weight_dimension_numbers` must be {expected}. {error}") from None
    one = _MATRIX if given is None else given
    return jax.tree.map(lambda p: one if given is not None or jnp.ndim(p) == 2 else None, params)


def _axes(x: Any, numbers: MuonDimensionNumbers) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Returns the batch, row and column axes."""
    nonnegative = lambda axes: tuple(axis % x.ndim for axis in ((axes,) if isinstance(axes, int) else axes))
    rows, columns = nonnegative(numbers.reduction_axis), nonnegative(numbers.output_axis)
    if x.ndim < 2 or set(rows) & set(columns):
        raise ValueError(f"scale_by_muon: {numbers} must name different axes of an array, got shape {x.shape}.")
    return tuple(i for i in range(x.ndim) if i not in rows + columns), rows, columns


def _matrix_shape(x: Any, numbers: MuonDimensionNumbers) -> tuple[int, int]:
    _, rows, columns = _axes(x, numbers)
    return math.prod(x.shape[i] for i in rows), math.prod(x.shape[i] for i in columns)


def _newton_schulz(x: jax.Array, coefficients: jax.Array, steps: int, preconditioning: str, eps: Any) -> jax.Array:
    """Iterates X ← a·X + (b·A + c·A²)·X with A = X·Xᵀ, for a batch of matrices with rows ≤ columns."""
    transposed = lambda m: jnp.conj(jnp.swapaxes(m, -1, -2))
    if preconditioning == "frobenius":
        x = x / (jnp.linalg.norm(x, axis=(-2, -1), keepdims=True) + eps)
    elif preconditioning == "spectral":
        x = x / (jnp.linalg.norm(x, ord=2, axis=(-2, -1), keepdims=True) + eps)
    else:
        gram = x @ transposed(x)
        if (
            preconditioning == "aol"
        ):  # almost-orthogonal layers: each row by the sum of its absolute products with all rows
            size = jnp.sum(jnp.abs(gram), axis=-1, keepdims=True)
        else:  # schatten
            size = jnp.linalg.norm(gram, axis=(-2, -1), keepdims=True)
        x = x * jax.lax.rsqrt(jnp.maximum(size, eps)).astype(x.dtype)

    def step(x: jax.Array, abc: jax.Array) -> tuple[jax.Array, None]:
        a, b, c = abc.astype(real_dtype(x.dtype))
        gram = x @ transposed(x)
        return a * x + (b * gram + c * (gram @ gram)) @ x, None

    if coefficients.ndim == 1:
        for _ in range(steps):
            x, _ = step(x, coefficients)
        return x
    return jax.lax.scan(step, x, coefficients)[0]


def orthogonalize_via_newton_schulz(
    x: jax.Array,
    ns_coeffs: jax.Array,
    ns_steps: int = 5,
    preconditioning: Literal["frobenius", "spectral", "aol", "schatten"] = "frobenius",
    eps: Any = 1e-8,
    dimension_numbers: MuonDimensionNumbers | None = None,
) -> jax.Array:
    """Newton–Schulz orthogonalization: approximates U·Vᵀ of the singular value decomposition U·S·Vᵀ of each matrix.

    `ns_coeffs` has the shape (3,), or (steps, 3), which sets the number of steps. An array that doesn't have two axes
    needs `dimension_numbers`.

    >>> import jax.numpy as jnp, lrjax
    >>> x = jnp.array([[2.0, 0.0], [0.0, 2.0]])
    >>> lrjax.orthogonalize_via_newton_schulz(x, jnp.array([3.4445, -4.7750, 2.0315])).round(2)
    Array([[1.11, 0.  ],
           [0.  , 1.11]], dtype=float32)

    Source: Jordan et al. 2024, Muon, kellerjordan.github.io/posts/muon, `zeropower_via_newtonschulz5`.
    """
    if preconditioning not in PRECONDITIONINGS:
        raise ValueError(
            f"orthogonalize_via_newton_schulz: `preconditioning` must be one of {PRECONDITIONINGS}, "
            f"got {preconditioning!r}."
        )
    coefficients, steps = jnp.asarray(ns_coeffs), ns_steps
    if coefficients.ndim not in (1, 2) or coefficients.shape[-1] != 3:
        raise ValueError(
            "orthogonalize_via_newton_schulz: `ns_coeffs` must have the shape (3,) or (steps, 3), "
            f"got {coefficients.shape}."
        )
    if dimension_numbers is None and x.ndim != 2:
        raise ValueError(f"orthogonalize_via_newton_schulz: `dimension_numbers` must be given for the shape {x.shape}.")
    if not x.size:
        return x
    numbers = _MATRIX if dimension_numbers is None else dimension_numbers
    batch, rows, columns = _axes(x, numbers)
    order = batch + rows + columns
    m, n = _matrix_shape(x, numbers)
    matrices = x.transpose(order).reshape(-1, m, n)
    if m > n:  # so that X·Xᵀ has the size of the shorter side
        matrices = jnp.swapaxes(
            _newton_schulz(jnp.swapaxes(matrices, 1, 2), coefficients, steps, preconditioning, eps), 1, 2
        )
    else:
        matrices = _newton_schulz(matrices, coefficients, steps, preconditioning, eps)
    return matrices.reshape([x.shape[i] for i in order]).transpose([order.index(i) for i in range(x.ndim)])


def _init_muon(params: Any, tx: Any) -> MuonState:
    coefficients = jnp.asarray(tx.ns_coeffs, jnp.result_type(float))
    if coefficients.ndim == 2:
        if len(coefficients) < tx.ns_steps:
            raise ValueError(
                f"scale_by_muon: `ns_coeffs` must be one triple, or one for each of {tx.ns_steps} steps, "
                f"got {len(coefficients)}."
            )
        coefficients = coefficients[-tx.ns_steps :]
    mu = jax.tree.map(lambda p: zeros_like(p, tx.mu_dtype), params)
    return MuonState(jnp.zeros([], jnp.int32), mu, coefficients)


@transformation(_init_muon)
def scale_by_muon(
    updates: Any,
    state: Any,
    params: Any,
    ns_coeffs: Coefficients = PRESETS["standard"],
    ns_steps: Size = 5,
    beta: Momentum = 0.95,
    eps: NonNegative = 1e-8,
    mu_dtype: DType | None = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: Literal["frobenius", "spectral", "aol", "schatten"] = "frobenius",
    weight_dimension_numbers: DimensionNumbers = None,
):
    """Muon without the rate: orthogonalizes the momentum of each matrix, by Newton–Schulz steps.

    μ ← beta·μ + (1−beta)·g; X = μ̂/‖μ̂‖; `ns_steps` times X ← a·X + (b·A + c·A²)·X, A = X·Xᵀ; u = X, times ⟨μ̂, X⟩ if
    `adaptive`; `nesterov` as in `scale_by_adam`

    Every parameter must be a matrix, or have `weight_dimension_numbers`; `muon` uses Adam for the others.

    A sharded matrix is gathered for the products; the moments stay sharded.

    State: `MuonState(count, mu, ns_coeffs)`.

    >>> import jax.numpy as jnp, lrjax
    >>> tx, g = lrjax.scale_by_muon(), jnp.array([[2.0, 0.0], [0.0, 2.0]])
    >>> tx.update(g, tx.init(g))[0].round(2)
    Array([[1.11, 0.  ],
           [0.  , 1.11]], dtype=float32)

    Source: Jordan et al. 2024, Muon, kellerjordan.github.io/posts/muon, algorithm 2; `adaptive` and preconditioning by
    the spectral norm: Bernstein & Newhouse 2024, Old Optimizer, New Norm, arXiv:2409.20325; `aol`: Turbo-Muon 2025,
    arXiv:2512.04632; `schatten`: Grishina et al. 2025, arXiv:2506.10935.
    """
    count = safe_increment(state.count)
    t = count.astype(beta.dtype)
    scale_mu, rest = 1 / bias_correction(beta, t), 1 - beta
    scale_g = jnp.zeros_like(beta)
    if nesterov:
        scale_mu, scale_g = beta / bias_correction(beta, t + 1), rest * scale_mu

    def update_leaf(g: Any, mu: Any, numbers: Any) -> Any:
        if g is None or mu is None:
            return None, mu
        if numbers is None:
            raise ValueError(f"scale_by_muon: `weight_dimension_numbers` must be given for the shape {jnp.shape(g)}.")
        wide = jnp.asarray(g).astype(compute_dtype(jnp.result_type(g)))
        new = cast_like(beta, wide) * mu.astype(wide.dtype) + cast_like(rest, wide) * wide
        mu_hat = cast_like(scale_mu, wide) * new + cast_like(scale_g, wide) * wide
        sharding = jax.typeof(mu_hat).sharding
        sharded = any(sharding.spec)  # known on an explicit mesh, where the products need gathered matrices
        if sharded:
            mu_hat = jax.sharding.reshard(mu_hat, NamedSharding(sharding.mesh, PartitionSpec(*[None] * mu_hat.ndim)))
        u = orthogonalize_via_newton_schulz(
            mu_hat, state.ns_coeffs, ns_steps, preconditioning, cast_like(eps, wide), numbers
        )
        if adaptive:
            u = jnp.sum(jnp.conj(mu_hat) * u) * u
        u = jax.sharding.reshard(u, sharding) if sharded else u
        return u.astype(inexact_dtype(jnp.result_type(g))), cast_to(new, mu.dtype)

    leaves, treedef = jax.tree.flatten(updates, is_leaf=is_none)
    mus = treedef.flatten_up_to(state.mu)
    like = treedef.unflatten([m if g is None else g for g, m in zip(leaves, mus, strict=True)])
    numbers = treedef.flatten_up_to(dimension_numbers_like(like, weight_dimension_numbers))
    pairs = [update_leaf(*inputs) for inputs in zip(leaves, mus, numbers, strict=True)]
    u, mu = (treedef.unflatten([pair[i] for pair in pairs]) for i in (0, 1))
    return u, MuonState(count, mu, state.ns_coeffs)


@transformation(no_state)
def scale_by_shape(
    updates: Any,
    state: EmptyState,
    params: Any,
    weight_dimension_numbers: DimensionNumbers = None,
    consistent_rms: Positive | None = None,
):
    """Scales matrices by √max(1, columns/rows), or with `consistent_rms` by consistent_rms·√max(rows, columns).

    >>> import jax.numpy as jnp, lrjax
    >>> lrjax.scale_by_shape().update(jnp.ones((1, 4)), lrjax.EmptyState())[0]
    Array([[2., 2., 2., 2.]], dtype=float32)

    Source: Jordan et al. 2024, Muon, kellerjordan.github.io/posts/muon; `consistent_rms`: Liu et al. 2025, Muon is
    Scalable for LLM Training, arXiv:2502.16982, eq. 4.
    """

    def factor(g: Any, numbers: Any) -> Any:
        rows, columns = _matrix_shape(g, _MATRIX if numbers is None else numbers)
        if consistent_rms is None:
            return jnp.asarray(math.sqrt(max(1, columns / max(rows, 1))), jnp.result_type(float))
        return consistent_rms * math.sqrt(max(rows, columns))

    shaped = dimension_numbers_like(updates, weight_dimension_numbers)
    leaves, treedef = jax.tree.flatten(updates)
    factors = treedef.unflatten([factor(*row) for row in zip(leaves, treedef.flatten_up_to(shaped), strict=True)])
    return map_updates(lambda g, f: cast_like(f, g) * g, updates, factors), state


def label_matrices(given: Any) -> Callable[[Any], Any]:
    """Returns a function that labels matrices 'muon' and other parameters 'adam'."""

    def labels(params: Any) -> Any:
        leaves, treedef = jax.tree.flatten(params)
        shaped = treedef.flatten_up_to(dimension_numbers_like(params, given))
        return treedef.unflatten(["adam" if numbers is None else "muon" for numbers in shaped])

    return labels
