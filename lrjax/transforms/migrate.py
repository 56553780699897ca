"""Migration of a saved state to another optimizer, another library, or another version."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.numerics import ArrayTree, path_name, unboxed
from lrjax.transforms.base import as_transformation
from lrjax.transforms.learning_rate import rate_of_last_update
from lrjax.transforms.members import transformation_at
from lrjax.transforms.state_nodes import RATE_KINDS, Key, Leaf, Node, read_nodes
from lrjax.value import bad_argument

# The version of the optimizers' state structures. Increase it when one changes; if a field gets another name or is new,
# `state_nodes` must know it.
# 1: lrjax 0.1. 2: lrjax 0.2. 3: a LearningRateState has the constant rate.
state_version = 3

_SHOWN = 5  # paths in an error or a repr

# The fields that say how many updates there were, for a schedule: by class, in lrjax or Optax.
_POSITIONS = {
    **dict.fromkeys((*RATE_KINDS, "ScheduledState"), "step"),
    **dict.fromkeys(("ScaleByScheduleState", "WeightDecaySchedule", "AddDecayedWeightsScheduleState"), "count"),
    **dict.fromkeys(("WrappedScheduleState", "ContractState", "AddNoiseState"), "count"),
    **dict.fromkeys(("InjectStatefulHyperparamsState", "InjectHyperparamsState"), "count"),
    "MultiStepsState": "gradient_step",
}
# The fields of states, saved with classes or as dicts, whose `count` is the number of updates.
_COUNTING = [{"count"}, {"count", "mu"}, {"count", "mu", "nu"}, {"count", "mu", "nu", "nu_max"}, {"count", "ema"}]


class Migration(NamedTuple):
    """What `migrate_state` returns: the new state, and where each array of it comes from."""

    state: Any  # for `tx.update`
    carried: dict[str, str]  # by path in the new state: the path in the saved one
    initial: dict[str, str]  # by path in the new state, of an array with its initial value: why
    unused: tuple[str, ...]  # paths in the saved state of arrays without a place in the new one

    def __repr__(self) -> str:
        lines = [f"Migration: {len(self.carried)} arrays carried over"]
        for reason in dict.fromkeys(self.initial.values()):
            lines.append(f"  initial, {reason}: {_listed([p for p, why in self.initial.items() if why == reason])}")
        if self.unused:
            lines.append(f"  unused: {_listed(self.unused)}")
        return "\n".join(lines)


def migrate_state(
    state: ArrayTree,
    tx: Any,
    params: ArrayTree,
    version: int = state_version,
    *,
    strict: bool = False,
    updates: int | None = None,
) -> Migration:
    """Carries a saved optimizer state over to `tx`, another optimizer, as far as the two have the same things in them.

    Arrays are matched by the transformation that keeps them, their name, the parameter and its shape, wherever they
    stand: so clips may be added to a chain or taken from it, Adam become AdamW, a constant rate a schedule, and any of
    them be wrapped (`MultiSteps`, `masked`, `partition`, `inject_hyperparams`, ...) or unwrapped. Each of `state` and
    `tx` may be Optax's. A schedule goes on at the step that was reached, also where only the moments had counted it.
    Optax keeps no rate: it is then the schedule's at the last update, and no `scale_learning_rate` was made.

    The state may be as `init` and `update` return it, or of dicts and lists, as `orbax` restores without a template, or
    of dicts, as `flax.serialization.to_state_dict` returns. `version` is the `lrjax.state_version` of the package that
    saved it, which belongs into the checkpoint; lrjax 0.1 had none, its states are of version 1.

    The state of an `nnx.Optimizer` may be given as it is, with `nnx.state(model, nnx.Param)`; the new one is of arrays,
    and `nnx.update(optimizer.opt_state, nnx.state(found.state))` writes it into an `nnx.Optimizer` of `tx`.

    Where two saved arrays fit one place, or one array fits two, neither is taken; moments are taken only with their
    count, and only into a state of the same class. An array of another precision is cast. The rest has its initial
    value, for which `params` must be arrays; if everything is carried over, they may be abstract.

    AdaMax and ADOPT keep other moments than Adam in states of the same class, as in Optax, and so does AdaBelief where
    a state was saved as dicts, whose fields have the same names: from one of these to another, begin with `tx.init`.

    Args:
      strict: raise an error unless every array was carried over, and none is left, as after an update of lrjax.
      updates: how many there were, for new schedules, where the saved state doesn't tell: that of plain gradient
        descent in Optax counts nothing.

    Returns:
      `Migration(state, carried, initial, unused)`: the state, and lists of what was carried over and what was not.

    Raises:
      ValueError: the state is newer than this package, is not of arrays, or something wasn't carried over that had to
        be; the message says what.

    >>> import jax.numpy as jnp, lrjax
    >>> params = {"w": jnp.ones(3)}
    >>> old = lrjax.adam(0.1)
    >>> _, state = old.update(params, old.init(params), params)
    >>> tx = lrjax.chain(lrjax.clip(1.0), lrjax.adamw(lrjax.cosine_decay_schedule(0.1, 100)), lrjax.ema_params(0.99))
    >>> found = lrjax.migrate_state(state, tx, params)
    >>> found
    Migration: 6 arrays carried over
      initial, not saved: 2/count, 2/weight, 2/average/w
    >>> found.carried["1/0/mu/w"], int(found.state[1][2].step)
    ('0/mu/w', 1)
    """
    if type(version) is not int or not 1 <= version <= state_version:
        expected = f"a whole number from 1 to {state_version}, the state_version of this lrjax"
        raise bad_argument("migrate_state", "version", expected, version)
    if updates is not None and (isinstance(updates, bool) or not isinstance(updates, int) or updates < 0):
        raise bad_argument("migrate_state", "updates", "a whole number >= 0, or None", updates)
    init, state, params = as_transformation(tx).init, unboxed(state), unboxed(params)
    abstract = jax.eval_shape(lambda: params) if _are_arrays(params) else params
    like = jax.eval_shape(init, params)
    new, old, structural = read_nodes(like, state, abstract)
    matched = _match(new, old, structural)
    _carry_position(matched, new, old, updates)
    rates = _rates_not_kept(matched, new, old, as_transformation(tx))
    constants = {leaf.name for node in new for (field, _), leaf in node.leaves.items() if _is_constant(node, field)}
    constants |= rates.keys()
    paths = [leaf.name for node in new for leaf in node.leaves.values()]
    initial = {p: matched.why.get(p, "not saved") for p in paths if p not in matched.taken and p not in constants}
    unused = [
        leaf.name
        for node in old
        for (field, _), leaf in node.leaves.items()
        if leaf.name not in matched.used and not _is_constant(node, field)
    ]
    if strict and (initial or unused):
        differences = [f"`{path}`: {why}" for path, why in initial.items()]
        differences += [f"`{path}`: saved, but has no place now" for path in unused]
        raise ValueError(
            f"migrate_state: `state` must be one of `tx` for these `params`: {_listed(differences, '; ')}."
        )
    if initial and not _are_arrays(params):
        raise ValueError(
            f"migrate_state: `params` must be arrays, since these keep their initial values: {_listed(initial)}."
        )
    start = init(params) if initial else None
    known = {path: x for path, x in rates.items() if x is not None}
    state = _assemble(like, matched.taken, start, _constants(init, abstract, constants - known.keys()) | known)
    carried = {path: leaf.name for path, leaf in matched.taken.items() if path not in constants}
    return Migration(state, carried, initial, tuple(unused))


class _Matched(NamedTuple):
    taken: dict[str, Leaf]  # by path in the new state
    used: set[str]  # paths in the saved state: of what was taken, and of what is equal to it
    why: dict[str, str]  # by path in the new state: why a saved array wasn't taken


def _match(new: list[Node], old: list[Node], structural: set[str]) -> _Matched:
    """Returns the saved array for each array of the new state that has one."""
    matched = _Matched({}, set(), {})
    by_path = {node.path: node for node in old}
    in_place = [(node, by_path[node.path]) for node in new if node.path in by_path]
    same = len(in_place) == len(new) == len(old)
    if same and all(node.is_like(saved) and _have_common(node, saved) for node, saved in in_place):
        for node, saved in in_place:
            _take(matched, node, [saved])
        return matched
    groups: list[list[Node]] = []  # of one kind
    for node in new:
        same = next((g for g in groups if g[0].is_like(node) and g[0].is_copy == node.is_copy), None)
        groups.append([node]) if same is None else same.append(node)
    fitting = [[o for o in old if group[0].is_like(o) and group[0].is_copy == o.is_copy] for group in groups]
    for group, saved in zip(groups, fitting, strict=True):
        if group[0].is_copy and not saved:  # a wrapper is new: its copies are those of the inner state
            saved = [o for o in old if group[0].is_like(o) and not o.is_copy]
        elif any(o in other for o in saved for other in fitting if other is not saved):
            _note(matched, group, "fits several methods")
            continue
        _match_group(matched, group, saved, structural)
    return matched


def _match_group(matched: _Matched, new: list[Node], old: list[Node], structural: set[str]) -> None:
    """Matches the nodes of one kind: in order where as many have the same labels, else by the parameters they have."""
    left_new, left_old = list(new), list(old)
    for labels in dict.fromkeys(node.labels(structural) for node in new):
        ours, theirs = ([n for n in nodes if n.labels(structural) == labels] for nodes in (new, old))
        if len(ours) == len(theirs) and all(map(_have_common, ours, theirs)):
            for node, saved in zip(ours, theirs, strict=True):
                _take(matched, node, [saved])
                left_new.remove(node)
                left_old.remove(saved)
    claims = [(node, set(node.like_parameters())) for node in left_new]
    for node, keys in claims:
        sources = [o for o in left_old if _have_common(node, o)]
        shared = [o for o in sources if any(o is not p and _overlap(o, p, keys) for p in sources)]
        rivals = [n for n, theirs in claims if n is not node and any(keys & theirs & set(o.leaves) for o in sources)]
        nameless = not keys and not node.is_rate and len(sources) + len(left_new) > 2
        if shared or rivals or (nameless and sources):
            _note(matched, [node], "fits several places")
        elif sources:
            _take(matched, node, sources)


def _have_common(node: Node, saved: Node) -> bool:
    """Whether two nodes of one kind have arrays of the same parameters, or neither has any."""
    ours, theirs = node.like_parameters(), saved.like_parameters()
    return bool(ours.keys() & theirs.keys()) if ours or theirs else True


def _overlap(a: Node, b: Node, keys: set[Key]) -> bool:
    return bool(a.like_parameters().keys() & b.like_parameters().keys() & keys)


def _take(matched: _Matched, node: Node, sources: list[Node]) -> None:
    """Takes the arrays of a node from those nodes that have them; none of them where one that all need is missing."""
    taken: dict[str, Leaf] = {}
    used: set[str] = set()
    own, own_keys = node.by_key(), node.like_parameters()
    for key, leaf in own.items():
        found = [s.by_key()[key] for s in sources if key in s.by_key()]
        why = ""
        if found and any(not _same(f.x, found[0].x) for f in found[1:]):
            why = "differs between the saved groups"
        elif found:
            why = _misfit(leaf.x, found[0].x)
        if found and not why:
            taken[leaf.name] = found[0]
            used |= {f.name for f in found}
        elif key not in own_keys and node.needs(key[0]):
            _note(matched, [node], why or "not saved")
            return
        elif why:
            matched.why[leaf.name] = why
    if own_keys and not any(leaf.name in taken for leaf in own_keys.values()):
        _note(matched, [node], "of other parameters")  # a count without its moments would be wrong
        return
    matched.taken.update(taken)
    matched.used.update(used)


def _misfit(like: Any, x: Any) -> str:
    """Returns why an array can't stand for one like the other, or '' if it can."""
    kinds = (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating)
    same_kind = any(jnp.issubdtype(like.dtype, k) and jnp.issubdtype(x.dtype, k) for k in kinds)
    if x.shape == like.shape and (same_kind or x.dtype == like.dtype):
        return ""
    return f"must be {like.dtype}{list(like.shape)}, got {x.dtype}{list(x.shape)}"


def _same(a: Any, b: Any) -> bool:
    return a.shape == b.shape and bool(np.array_equal(np.asarray(a), np.asarray(b)))


def _note(matched: _Matched, nodes: Iterable[Node], why: str) -> None:
    for node in nodes:
        for leaf in node.leaves.values():
            matched.why.setdefault(leaf.name, why)


def _carry_position(matched: _Matched, new: list[Node], old: list[Node], updates: int | None) -> None:
    """Sets the steps of schedules that the saved state didn't have to the number of updates, if it is known."""
    counts = [(node, leaf) for node in old if (leaf := _updates_so_far(node)) is not None]
    if counts and all(_same(leaf.x, counts[0][1].x) for _, leaf in counts):
        count = counts[0][1]
    elif updates is not None:
        counts, count = [], Leaf(("updates",), np.int32(updates))
    else:
        return
    for node in new:
        leaf = node.leaves.get((_POSITIONS.get(node.kind or "", ""), ()))
        if leaf is not None and leaf.name not in matched.taken and not _misfit(leaf.x, count.x):
            matched.taken[leaf.name] = count
            matched.used.update([count.name, *(c.name for source, c in counts if source.fields == {"count"})])


def _rates_not_kept(matched: _Matched, new: list[Node], old: list[Node], tx: Any) -> dict[str, Any]:
    """Returns what follows from the position where the saved state keeps no rate, as Optax's: a scale of 1, and the
    schedule's rate at the last update. By path; None where that is the initial value."""
    if any(node.is_rate and ("scale", ()) in node.by_key() for node in old):
        return {}
    values: dict[str, Any] = {}
    for node in filter(lambda node: node.is_rate, new):
        leaves = node.by_key()
        step = matched.taken.get(leaves["step", ()].name)
        paths = [leaf.name for (field, _), leaf in leaves.items() if field in ("scale", "learning_rate")]
        if step is None or any(path in matched.taken or path in matched.why for path in paths):
            continue
        values |= dict.fromkeys(paths)
        if ("learning_rate", ()) in leaves:
            rate = rate_of_last_update(transformation_at(tx, node.path), step.x)
            values[leaves["learning_rate", ()].name] = rate
    return values


def _updates_so_far(node: Node) -> Leaf | None:
    if node.is_copy:
        return None
    if node.is_rate:
        return node.by_key().get(("step", ()))
    if node.kind == "MultiStepsState" or {"mini_step", "gradient_step", "acc_grads"} <= node.fields:
        return node.leaves.get(("gradient_step", ()))
    return node.leaves.get(("count", ())) if node.fields in _COUNTING else None


def _is_constant(node: Node, field: str) -> bool:
    """Whether it is the optimizer's constant rate, which its state repeats: it has that of the new optimizer."""
    return node.is_rate and field == "constant"


def _constants(init: Any, abstract: Any, paths: set[str]) -> dict[str, Any]:
    if not paths:
        return {}

    @jax.jit  # so that no other array of the state is made
    def compute() -> dict[str, Any]:
        params = jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), abstract)
        found = jax.tree_util.tree_leaves_with_path(init(params))
        named = {path_name(path): x for path, x in found}
        return {path: named[path] for path in paths}

    return compute()


def _assemble(like: Any, taken: dict[str, Leaf], start: Any, constants: dict[str, Any]) -> Any:
    paths, structure = jax.tree_util.tree_flatten_with_path(like)
    initial = [None] * len(paths) if start is None else jax.tree.leaves(start)
    values, seen = [], set()
    for (path, x), at_first in zip(paths, initial, strict=True):
        name = path_name(path)
        if name in constants:
            values.append(constants[name])
        elif name in taken:
            saved = jnp.asarray(taken[name].x)
            if saved.dtype != x.dtype or (saved.weak_type and not x.weak_type):
                saved = saved.astype(x.dtype)
            # no array is in a state twice, so that it may be donated
            values.append(jnp.copy(saved) if id(saved) in seen else saved)
            seen.add(id(saved))
        else:
            values.append(at_first)
    return structure.unflatten(values)


def _are_arrays(params: Any) -> bool:
    return not any(isinstance(p, jax.ShapeDtypeStruct) for p in jax.tree.leaves(params))


def _listed(items: Iterable[str], separator: str = ", ") -> str:
    items = list(items)
    more = [f"and {len(items) - _SHOWN} more"] if len(items) > _SHOWN else []
    return separator.join([*items[:_SHOWN], *more])
