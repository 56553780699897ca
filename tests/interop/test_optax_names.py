"""The page's table of Optax's names says what is so."""

import inspect
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrjax
from tests.benchmarks.pages import NOTEBOOKS
from tests.interop.optax_cases import GRADS, MATRICES, PARAMS, THEIRS, VALUES, loss, updates
from tests.interop.optax_names import BETTER, MARK, NOT_ABOUT_THE_RATE, PAGE, ROWS, attribute, table

# √(1 − 0.999ᵗ) in float32 has an error of 1e-5 at the first updates, and Optax's is another one than lrjax's
RTOL = 3e-5
pytestmark = pytest.mark.usefixtures("quick_compilation")
SAME_VALUES = [name for name, row in ROWS.items() if row.verdict == "same" and not row.note.startswith("types")]
SHARED = [name for name, row in ROWS.items() if row.verdict in ("same", "better")]


def public(module: Any) -> dict[str, Any]:
    return {name: thing for name, thing in vars(module).items() if not name.startswith("_")}


def names_of_optax() -> set[str]:
    """The top's, then those of submodules that the top doesn't have; a module of which nothing is about the rate is one
    name."""
    top = public(optax)
    whole = [thing for name in NOT_ABOUT_THE_RATE for thing in public(top[name]).values()]
    names = {name for name, thing in top.items() if not any(thing is other for other in whole)}
    for name in ("contrib", "schedules", "transforms"):
        names |= {f"{name}.{n}" for n, thing in public(top[name]).items() if top.get(n) is not thing}
    # the rest of `__all__` are deprecated names of what `contrib` has
    return names | {f"contrib.{name}" for name in optax.__all__ if name not in top}


def test_every_public_name_has_one_row():
    assert set(ROWS) == names_of_optax()


def test_the_page_has_the_table():
    assert f"<!-- {MARK} -->\n{table()}\n<!-- /{MARK} -->" in (NOTEBOOKS / PAGE).read_text(encoding="utf-8")


def test_notes_are_short():
    assert [note for note in BETTER.values() if len(note.split()) > 14] == []


def test_lrjax_has_what_the_rows_say():
    assert [name for name in SHARED if not hasattr(lrjax, attribute(name))] == []
    others = [name for name in ROWS if name not in SHARED and hasattr(lrjax, attribute(name))]
    assert [name for name in others if not isinstance(getattr(lrjax, name), types.ModuleType)] == []


def signature(thing: Any) -> dict[str, inspect.Parameter]:
    kinds = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return {n: p for n, p in inspect.signature(thing).parameters.items() if p.kind not in kinds}


def default(parameter: inspect.Parameter) -> Any:
    return "float32" if parameter.default is jnp.float32 else parameter.default


@pytest.mark.parametrize("name", [n for n in SHARED if inspect.isfunction(getattr(THEIRS, attribute(n)))])
def test_parameters_are_optaxs(name):
    theirs, ours = signature(getattr(THEIRS, attribute(name))), signature(getattr(lrjax, attribute(name)))
    kept = [n for n in theirs if n not in ROWS[name].lacks]
    assert [n for n in ours if n in theirs] == kept
    positional = [n for n in kept if theirs[n].kind is not inspect.Parameter.KEYWORD_ONLY]
    assert list(ours)[: len(positional)] == positional
    if ROWS[name].verdict == "same" and name != "contrib.hutchinson_estimator_diag_hessian":  # None is 0 there
        plain = [n for n in kept if not inspect.isfunction(theirs[n].default)]
        assert {n: default(ours[n]) for n in plain} == {n: default(theirs[n]) for n in plain}


def assert_close(ours: Any, theirs: Any) -> None:
    """Leaf by leaf, of the largest number."""
    ours, theirs = ([np.asarray(x, float) for x in jax.tree.leaves(tree)] for tree in (ours, theirs))
    assert theirs
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and np.abs(a - b).max() <= RTOL * np.abs(b).max()


def is_state(name: str) -> bool:
    return hasattr(getattr(THEIRS, attribute(name)), "_fields")


@pytest.mark.sampled(44)
@pytest.mark.promotes
@pytest.mark.parametrize("name", SAME_VALUES)
def test_the_same_does_the_same(name):
    if is_state(name):
        assert getattr(lrjax, attribute(name))._fields == getattr(THEIRS, attribute(name))._fields
        return
    assert_close(*(VALUES[attribute(name)](m) for m in (lrjax, THEIRS)))


def first(tx: Any, g: Any, params: Any = None, **extra: Any) -> Any:
    params = g if params is None else params
    return tx.update(g, tx.init(params), params, **extra)


def fails(call: Any) -> bool:
    try:
        call()
    except (TypeError, ValueError):
        return True
    return False


def rectified(tx: Any) -> Any:
    """Ten updates of constant gradients without momentum, beside the paper's factor in float64."""
    got, b2 = updates(tx, jnp.ones(1), [jnp.ones(1)] * 10)[:, 0], float(np.float32(0.999))
    t, inf = np.arange(1, 11), 2 / (1 - b2) - 1
    rho = inf - 2 * t * b2**t / (1 - b2**t)
    r = np.sqrt(np.maximum((rho - 4) * (rho - 2) * inf / ((inf - 4) * (inf - 2) * rho), 0))
    return np.allclose(np.abs(got), np.where(rho >= 5, r, 1), rtol=1e-5)


def after_a_nan(tx: Any) -> Any:
    return np.isfinite(updates(tx, PARAMS["b"], [jnp.full(3, jnp.nan), *[PARAMS["b"]] * 3])[2:]).all()


def structure_stays(tx: Any) -> bool:
    return jax.tree.structure(tx.init(PARAMS)) == jax.tree.structure(first(tx, PARAMS)[1])


def plateau(m: Any, values: list[float], params: Any = PARAMS) -> Any:
    """The state after these values; of lrjax with Optax's patience."""
    tx = m.reduce_on_plateau(factor=0.5, patience=2 if m is THEIRS else 1)
    state = tx.init(params)
    for value in values:
        state = tx.update(params, state, params, value=value)[1]
    return state


LARGE, BF16, SCALAR = jnp.full(10_000, 100.0, jnp.float16), jnp.ones(2, jnp.bfloat16), jnp.ones(())
RATE = "learning_rate"
# what is so of lrjax and not of Optax
DIFFERENT = {
    "adadelta": lambda m: (first(m.adadelta(eps=1e-2), jnp.ones(3))[0] < 0).all(),
    "adafactor": lambda m: np.isfinite(updates(m.adafactor(0.1, decay_offset=10))["w"]).all(),
    "scale_by_factored_rms": lambda m: np.isfinite(updates(m.scale_by_factored_rms(step_offset=10))["w"]).all(),
    "add_noise": lambda m: m.add_noise(0.1, 0.5).init(PARAMS),
    "noisy_sgd": lambda m: m.noisy_sgd(0.1).init(PARAMS),
    "apply_every": lambda m: after_a_nan(m.apply_every(2)),
    "apply_if_finite": lambda m: not updates(m.apply_if_finite(m.sgd(0.1)), SCALAR, [SCALAR * jnp.nan] * 9).any(),
    "apply_updates": lambda m: (
        fails(lambda: m.apply_updates(SCALAR, jnp.ones(2)))
        and fails(lambda: m.apply_updates(jnp.ones(2, int), jnp.full(2, 0.5)))
    ),
    "chain": lambda m: first(m.chain(), PARAMS)[1] == (),
    "clip_by_global_norm": lambda m: first(m.clip_by_global_norm(1.0), LARGE)[0][0] > 0,
    "global_norm": lambda m: m.global_norm(LARGE) == 10_000,
    "skip_large_updates": lambda m: not m.skip_large_updates(LARGE, 0, None, 1e9)[0],
    "exponential_decay": lambda m: m.exponential_decay(1.0, 2, 0.0)(9) == 0,
    "warmup_cosine_decay_schedule": lambda m: m.warmup_cosine_decay_schedule(0.0, 0.0, 2, 10, 0.5)(10) == 0.5,
    "GradientTransformation": lambda m: (
        m.adam(0.1) == m.adam(0.1)
        and isinstance(m.adam(0.1), m.GradientTransformation)
        and jax.jit(lambda tx: tx.init(SCALAR))(m.adam(0.1))
    ),
    "GradientTransformationExtraArgs": lambda m: (
        isinstance(m.GradientTransformationExtraArgs(*m.adam(0.1)), type(m.GradientTransformation(*m.sgd(0.1))))
        and hash(m.adam(0.1)) == hash(m.adam(0.1))
    ),
    "incremental_update": lambda m: m.incremental_update(jnp.ones(2), BF16, 0.5).dtype == jnp.bfloat16,
    "periodic_update": lambda m: m.periodic_update(jnp.ones(2), BF16, 2, 2).dtype == jnp.bfloat16,
    "inject_hyperparams": lambda m: (
        (inject := m.inject_hyperparams)
        and updates(inject(m.adafactor)(learning_rate=0.1))
        and inject(m.sgd)(0.1).init(BF16).hyperparams["learning_rate"].dtype == jnp.float32
    ),
    "InjectHyperparamsState": lambda m: "hyperparams_states" in m.InjectHyperparamsState._fields,
    "ScaleByScheduleState": lambda m: "learning_rate" in m.ScaleByScheduleState._fields,
    "join_schedules": lambda m: fails(lambda: m.join_schedules([m.constant_schedule(1.0)] * 3, [5])),
    "lookahead": lambda m: fails(lambda: m.lookahead(m.sgd(0.1), 3, 0.5).init(PARAMS)),
    "LookaheadParams": lambda m: (p := m.LookaheadParams.init_synced(PARAMS["b"])).fast is not p.slow,
    "monitor": lambda m: structure_stays(m.monitor({"norm": m.global_norm})),
    "MultiSteps": lambda m: after_a_nan(m.MultiSteps(m.sgd(0.1), 2)),
    "MultiStepsState": lambda m: "acc_extra_args" in m.MultiStepsState._fields,
    "optimistic_adam": lambda m: updates(m.optimistic_adam(m.linear_schedule(0.1, 0.0, 9), 0.5)),
    "polyak_sgd": lambda m: np.allclose(first(m.polyak_sgd(100.0, scaling=0.5), jnp.ones(1), value=SCALAR)[0], -0.5),
    "radam": lambda m: rectified(m.radam(1.0, b1=0.0, eps=0.0)),
    "scale_by_radam": lambda m: rectified(m.scale_by_radam(b1=0.0, eps=0.0)),
    "rprop": lambda m: np.allclose(first(m.rprop(0.1), jnp.ones(1))[0], -0.1),
    "scale_by_rprop": lambda m: np.allclose(jnp.abs(first(m.scale_by_rprop(0.1), jnp.ones(1))[0]), 0.1),
    "ScalarOrSchedule": lambda m: updates(m.sgd({"w": 1.0, "b": 0.5})),
    "scale_by_learning_rate": lambda m: lrjax.get_learning_rate(m.scale_by_learning_rate(0.5).init(PARAMS)) == 0.5,
    "scale_by_polyak": lambda m: lrjax.get_learning_rate(first(m.scale_by_polyak(), SCALAR, value=SCALAR)[1]) == 1,
    "scale_by_schedule": lambda m: lrjax.get_learning_rate(m.scale_by_schedule(lambda t: 0.5).init(PARAMS)) == 0.5,
    "contrib.reduce_on_plateau": lambda m: (
        plateau(m, [-1.0] * 3).scale == 0.5 and plateau(m, [1.0, np.nan, np.nan, 0.5, 0.5]).scale == 1
    ),
    "contrib.ReduceLROnPlateauState": lambda m: plateau(m, [1.0] * 3, BF16).scale.dtype == jnp.float32,
    "contrib.scale_by_muon": lambda m: updates(m.scale_by_muon(), MATRICES[0], MATRICES),
    "Schedule": lambda m: isinstance(m.constant_schedule(0.1) * m.constant_schedule(0.5), m.Schedule),
    "ScaleByRmsState": lambda m: "count" in m.ScaleByRmsState._fields,
    "ScaleByRStdDevState": lambda m: "count" in m.ScaleByRStdDevState._fields,
    "scale_by_sm3": lambda m: first(m.scale_by_sm3(), SCALAR)[0] > 0,
    "sm3": lambda m: first(m.sm3(0.1), SCALAR)[0] < 0,
    "warmup_constant_schedule": lambda m: m.warmup_constant_schedule(0.0, 0.5, 0)(5) == 0.5,
}


@pytest.mark.sampled(32)
@pytest.mark.promotes
@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.verdict == "better"])
def test_the_better_differs_as_its_note_says(name):
    if name not in DIFFERENT:  # then by what it lacks, of which `test_parameters_are_optaxs` makes sure
        assert ROWS[name].lacks
        return
    assert DIFFERENT[name](lrjax)
    try:
        theirs = DIFFERENT[name](THEIRS)
    except (TypeError, ValueError, IndexError, AttributeError, UserWarning):
        return  # doesn't take it
    assert not theirs


# where lrjax differs only at the edge of what is shown above, the rest is as Optax's
EDGES = [name for name, row in ROWS.items() if row.verdict == "better" and attribute(name) in VALUES]


@pytest.mark.sampled(20)
@pytest.mark.promotes
@pytest.mark.parametrize("name", EDGES)
def test_the_better_does_the_same_elsewhere(name):
    assert_close(*(VALUES[attribute(name)](m) for m in (lrjax, THEIRS)))


def _signum(rate, beta):
    return lrjax.chain(lrjax.ema(beta, debias=False), lrjax.scale_by_sign(), lrjax.scale_by_learning_rate(rate))


EQUIVALENT = {
    "optimistic_adam_v2": (
        lambda: optax.optimistic_adam_v2(0.1, alpha=0.7, beta=0.5),
        lambda: lrjax.optimistic_adam(0.1, 0.5, alpha=0.7),
    ),
    "signum": (lambda: optax.signum(0.1, 0.8), lambda: _signum(0.1, 0.8)),
}


@pytest.mark.promotes
@pytest.mark.parametrize("name", EQUIVALENT)
def test_what_is_elsewhere_is_there(name):
    assert ROWS[name].verdict == "elsewhere"
    theirs, ours = EQUIVALENT[name]
    assert_close(updates(ours()), updates(theirs()))


contrib = optax.contrib
OPTAXS = {
    "acprop": lambda: contrib.acprop(0.1),
    "cocob": contrib.cocob,
    "dadapt_adamw": contrib.dadapt_adamw,
    "dog": lambda: contrib.dog(1.0),
    "dowg": contrib.dowg,
    "galore": lambda: contrib.galore(0.1),
    "mechanize": lambda: contrib.mechanize(optax.sgd(0.1)),
    "momo": contrib.momo,
    "momo_adam": contrib.momo_adam,
    "normalize": contrib.normalize,
    "prodigy": contrib.prodigy,
    "sam": lambda: contrib.sam(optax.sgd(0.1), optax.sgd(0.1), sync_period=2),
    "schedule_free": lambda: contrib.schedule_free(optax.sgd(0.1), 0.1),
    "simplified_ademamix": lambda: contrib.simplified_ademamix(0.1),
    "split_real_and_imaginary": lambda: contrib.split_real_and_imaginary(optax.sgd(0.1)),
}


@pytest.mark.sampled(4)
@pytest.mark.promotes
@pytest.mark.parametrize("name", OPTAXS)
def test_optaxs_go_into_a_chain(name):
    assert ROWS[f"contrib.{name}"].verdict == "elsewhere"
    plain, extra = OPTAXS[name](), {"value": SCALAR} if name.startswith(("momo", "reduce")) else {}
    assert_close(first(lrjax.chain(plain, lrjax.identity()), PARAMS, **extra)[0], first(plain, PARAMS, **extra)[0])


@pytest.mark.promotes
def test_optaxs_trees_take_the_states_of_lrjax():
    tx = lrjax.adam(0.1)
    state = optax.tree.map_params(tx, lambda x: x + 7, tx.init(PARAMS))
    assert (state[0].mu["b"] == 7).all() and state[1] == tx.init(PARAMS)[1]
    assert optax.tree.norm(GRADS[0]) == pytest.approx(float(lrjax.global_norm(GRADS[0])))
    assert float(loss(PARAMS)) > 0
