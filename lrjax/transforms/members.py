"""The members of a composed optimizer, found by the places of their states."""

from typing import Any

from lrjax.transforms.chain import Named

_INNER = {"inner_state": "inner", "inner_opt_state": "opt", "fast_state": "fast_optimizer"}  # by the state's field


def transformation_at(tx: Any, path: tuple[str, ...]) -> Any:
    """Returns the transformation whose state is at a path in the state of `tx`; None if that can't be told, as inside
    of Optax's and of custom wrappers."""
    members = getattr(tx, "transforms", ())
    named = {str(member[0]): member[1] for member in members if isinstance(member, Named)}  # or labelled
    if len(members) == 1 and not named and not (path and path[0].isdigit()):  # of an optimizer that is no chain
        return transformation_at(members[0], path)
    if not path:
        return tx
    name, *rest = path
    if name == "inner_states":  # of a `partition`: by label, each in a `MaskedState`
        name, _, *rest = rest
    if name in _INNER:
        return transformation_at(getattr(tx, _INNER[name], None), tuple(rest))
    if named:
        return transformation_at(named.get(name), tuple(rest))
    return transformation_at(members[int(name)], tuple(rest)) if name.isdigit() and members else None
