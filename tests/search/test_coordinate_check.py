"""The coordinate check: its numbers beside NumPy's and SciPy's, and models whose answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import lrjax as L
from lrjax.search.coordinate_check import _operator_size

WIDTHS = [16, 64, 256]
X = jax.random.normal(jax.random.key(1), (32, 4))
Y = jnp.sin(X[:, :2])


def init(width):
    def make(key):
        shapes = {"in": (4, width), "mid": (width, width), "out": (width, 2)}
        keys = jax.random.split(key, 3)
        normal = {n: jax.random.normal(k, s) / s[0] ** 0.5 for k, (n, s) in zip(keys, shapes.items(), strict=True)}
        return normal | {"b": jnp.zeros(width)}

    return make


def hidden(params, x):
    return jnp.tanh(jnp.tanh(x @ params["in"] + params["b"][None]) @ params["mid"])


def loss_fn(params, batch):
    x, y = batch
    return jnp.mean((hidden(params, x) @ params["out"] - y) ** 2)


def task_of(width, factors=None):
    scaled = init(width) if factors is None else lambda key: jax.tree.map(jnp.multiply, init(width)(key), factors)
    return L.Task(loss_fn, scaled, (X, Y), batch_size=32)


def shapes(width):
    return jax.eval_shape(init(width), jax.random.key(0))


@pytest.mark.slow
def test_without_multipliers_hidden_and_output_updates_grow_with_them_none_does():
    activations = lambda params: {"hidden": hidden(params, X), "out": hidden(params, X) @ params["out"]}
    plain = L.coordinate_check(task_of, WIDTHS, L.adam(0.01), steps=2, seeds=3, activations=activations)
    found = dict(zip(plain.names, plain.verdicts, strict=True))
    assert plain.names == ("b", "in", "mid", "out", "activations/hidden", "activations/out")
    assert found["mid"] == found["out"] == "grows" and found["in"] != "grows" != found["b"]
    assert "grow with the width in mid (" in plain.verdict and plain.sizes.shape == (6, 3, 3)

    multipliers = lambda width: L.width_multipliers(shapes(16), shapes(width), 0.01)
    factors = lambda width: L.width_init_multipliers(shapes(16), shapes(width))
    transferred = L.coordinate_check(
        lambda width: task_of(width, factors(width)),
        WIDTHS,
        lambda width: L.adam(multipliers(width)),
        steps=2,
        activations=activations,
    )
    assert "grows" not in transferred.verdicts, transferred.rows()
    assert transferred.verdicts[2] == "alike" and transferred.exponents[2] < plain.exponents[2] - 0.5

    run = L.train(task_of(64), L.adam(0.01), steps=2, seed=1, progress=False)
    start = jax.jit(init(64))(jax.random.key(1))
    change = np.asarray(run.params["out"] - start["out"], float)
    assert plain.sizes[3, 1, 1] == pytest.approx(np.linalg.svd(change)[1][0] * (64 / 2) ** 0.5, rel=1e-4)
    moved = np.asarray(hidden(run.params, X) - hidden(start, X))
    assert plain.sizes[4, 1, 1] == pytest.approx(np.sqrt(np.mean(moved**2)), rel=1e-3)


def test_a_size_is_the_largest_output_for_inputs_of_size_1():
    rng = np.random.default_rng(0)
    change = rng.normal(size=(3, 6, 4))
    inputs = rng.normal(size=(20_000, 6))
    inputs /= np.sqrt(np.mean(inputs**2, axis=1, keepdims=True))
    largest = max(np.sqrt(np.mean((inputs @ matrix) ** 2, axis=1)).max() for matrix in change)
    assert largest <= _operator_size(change, (1,), (2,)) <= 1.2 * largest
    assert _operator_size(change[0].T, (1,), (0,)) == pytest.approx(_operator_size(change[0], (0,), (1,)))
    assert _operator_size(np.array([3.0, 4.0]), (), (0,)) == pytest.approx(12.5**0.5)
    assert _operator_size(np.zeros((0, 4)), (0,), (1,)) == 0 and np.isnan(_operator_size(np.array([np.inf]), (), (0,)))


def made(sizes, widths=(32, 64, 128, 256)):
    sizes = np.asarray(sizes, float)
    names = tuple(f"p{i}" for i in range(len(sizes)))
    return L.CoordinateCheck(np.array(widths), names, sizes, steps=5)


def test_exponents_and_their_intervals_are_those_of_the_regression():
    rng = np.random.default_rng(0)
    widths = np.array([32, 64, 128, 256])
    sizes = widths[:, None] ** 0.7 * np.exp(rng.normal(size=(4, 3)) / 5)
    check = made([sizes])
    line = scipy.stats.linregress(np.log(widths).repeat(3), np.log(sizes).ravel())
    assert check.exponents[0] == pytest.approx(line.slope)
    assert check.errors[0] == pytest.approx(line.stderr * scipy.stats.t.ppf(0.975, 10))


def test_verdicts():
    power = lambda b, noise=0.0: [[w**b * np.exp(noise * (-1) ** i)] for i, w in enumerate((32, 64, 128, 256))]
    kinds = {
        "alike": power(0.1),
        "grows": power(0.5),
        "falls": power(-1),
        "cannot tell": power(0.3, 0.3),
        "no update": [[0.0]] * 4,
        "not finite": [[1.0], [1.0], [1.0], [np.nan]],
    }
    for kind, sizes in kinds.items():
        assert made([sizes]).verdicts == (kind,)
    together = made(list(kinds.values())).verdict
    assert "Not finite in p5:" in together and "grow with the width in p1 (0.50)" in together
    assert "fall with the width in p2 (-1.00)" in together and "Cannot tell for p3" in together
    assert made([kinds["alike"]]).verdict == "Alike from width 32 to 256: every update is within width^±0.25."
    assert made([kinds["no update"]]).verdict == "Nothing was updated."
    assert made([[[1.0], [1.0]]], (32, 64)).verdicts == ("cannot tell",)  # two points say nothing of their noise
    assert made([[[1.0], [0.0], [1.0], [1.0]]]).verdicts == ("cannot tell",)
    row = made([kinds["no update"]]).rows()[0]
    assert row["exponent"] is None and row["width 32"] == 0 and list(row)[0] == "name"


def test_what_diverges_is_not_finite():
    check = L.coordinate_check(task_of, [16, 32], L.sgd(1e30), steps=4, seeds=1)
    assert set(check.verdicts) == {"not finite"} and "take a lower rate" in check.verdict


def test_a_model_with_a_state():
    def loss(params, state, x):
        return jnp.mean((x @ params["w"] - state) ** 2), state * 0.9

    init = lambda width: lambda key: ({"w": jnp.zeros((4, width))}, jnp.ones(()))
    task_of = lambda width: L.Task(loss, init(width), X, batch_size=32, has_state=True)
    check = L.coordinate_check(task_of, [2, 4], L.sgd(0.1), steps=1, activations=lambda params, state: state)
    assert check.names == ("w", "activations") and check.sizes[1] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"task_of_width": task_of(16)}, "`task_of_width` must be a function"),
        ({"task_of_width": lambda width: width}, "a function that returns a lrjax.Task"),
        ({"widths": [16]}, "`widths` must be two or more"),
        ({"widths": [16, 16]}, "`widths` must be two or more"),
        ({"widths": [16, 2.5]}, "`widths` must be a whole number"),
        ({"optimizer": 0.1}, "`optimizer` must be an optimizer"),
        ({"optimizer": L.adam}, "`optimizer` must be an optimizer"),
        ({"steps": 0}, "`steps` must be"),
        ({"seeds": 0}, "`seeds` must be"),
        ({"activations": 1}, "`activations` must be"),
        ({"axes": 1}, "`axes` must be"),
    ],
)
def test_a_bad_argument_is_named(changed, words):
    arguments = {"task_of_width": task_of, "widths": [16, 32], "optimizer": L.adam(0.1)} | changed
    with pytest.raises(ValueError, match=words):
        L.coordinate_check(**arguments)


def test_widths_with_other_parameters_are_refused():
    def other(width):
        params = {f"layer_{width}": jnp.ones(())}
        return L.Task(lambda p, x: jax.tree.leaves(p)[0] ** 2, params, X, batch_size=32)

    with pytest.raises(ValueError, match="widths 2 and 4 must have the same parameters"):
        L.coordinate_check(other, [4, 2], L.sgd(0.1), steps=1, seeds=1)
