"""Chains of transformations."""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import jax

from lrjax.domains import Domain, NotInDomain
from lrjax.transforms.base import (
    GradientTransformation,
    TransformationLike,
    as_transformation,
    transformation,
    update_inner,
)

_TRANSFORMATIONS = "gradient transformations (pairs of `init` and `update`)"
Transformations = Annotated[
    TransformationLike, Domain(_TRANSFORMATIONS, lambda txs: tuple(map(as_transformation, txs)))
]


def all_packable(transforms: Any) -> bool:
    return all(t._packable(t) for t in transforms)


@transformation(
    lambda params, tx: tuple(t.init(params) for t in tx.transforms), packable=lambda tx: all_packable(tx.transforms)
)
def chain(updates: Any, state: Any, params: Any, *transforms: Transformations, **extra_args: Any):
    """Applies transformations in sequence, each to the updates of the previous one.

    Its members may be lrjax's or Optax's; `chain()` is the identity. The state is the tuple of the members' states.

    >>> import lrjax
    >>> lrjax.chain(lrjax.clip(1.0), lrjax.scale(-0.1))
    chain(clip(max_delta=1.0), scale(step_size=-0.1))
    """
    if not isinstance(state, (tuple, list)) or len(state) != len(transforms):
        got = len(state) if isinstance(state, (tuple, list)) else type(state).__name__
        raise ValueError(
            f"chain: `state` must hold {len(transforms)} states, one per transform, got {got}. "
            "Create it with `init(params)`."
        )
    new_state = []
    for t, s in zip(transforms, state, strict=True):
        updates, s = update_inner(t, updates, s, params, extra_args)
        new_state.append(s)
    return updates, tuple(new_state)


class Named(NamedTuple):
    """A transformation with a name, which is static; the transformation's numbers are leaves."""

    name: str
    transform: GradientTransformation

    def __repr__(self) -> str:
        return repr(tuple(self))


jax.tree_util.register_pytree_with_keys(
    Named,
    lambda named: (((jax.tree_util.GetAttrKey("transform"), named.transform),), named.name),
    lambda name, children: Named(name, *children),
)


def _named(items: Any) -> tuple[Named, ...]:
    try:
        named = tuple(Named(name, as_transformation(tx)) for name, tx in items)
    except (TypeError, ValueError):
        raise NotInDomain from None
    names = [name for name, _ in named]
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise NotInDomain
    return named


NamedTransformations = Annotated[
    tuple[str, TransformationLike], Domain("pairs (name, gradient transformation) with different names", _named)
]


@transformation(
    lambda params, tx: {name: t.init(params) for name, t in tx.transforms},
    packable=lambda tx: all_packable(t for _, t in tx.transforms),
)
def named_chain(updates: Any, state: Any, params: Any, *transforms: NamedTransformations, **extra_args: Any):
    """A chain whose state is a dict, by the names of its members.

    >>> import lrjax
    >>> tx = lrjax.named_chain(("clip", lrjax.clip(1.0)), ("scale", lrjax.scale(-0.1)))
    >>> tx.init(0.0)
    {'clip': EmptyState(), 'scale': EmptyState()}
    """
    names = [name for name, _ in transforms]
    if not isinstance(state, Mapping) or set(state) != set(names):
        got = sorted(state) if isinstance(state, Mapping) else type(state).__name__
        raise ValueError(
            f"named_chain: `state` must be a dict of the states of {names}, got {got}. Create it with `init(params)`."
        )
    new_state = {}
    for name, t in transforms:
        updates, new_state[name] = update_inner(t, updates, state[name], params, extra_args)
    return updates, new_state
