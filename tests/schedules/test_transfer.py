"""Rates for another batch size or width, beside the tables of the papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrjax as L

CLASSES, PIXELS = 3, 8


def init(width):
    """A network with a square and an oblong hidden matrix, and what has no matrix."""
    key = jax.random.key(0)
    shapes = {"in": (PIXELS, width), "mid": (width, 2 * width), "back": (2 * width, width), "out": (width, CLASSES)}
    params = {
        name: jax.random.normal(jax.random.fold_in(key, i), shape) / shape[0] ** 0.5
        for i, (name, shape) in enumerate(shapes.items())
    }
    return params | {"norm": {"scale": jnp.ones(width)}, "b": jnp.zeros(2 * width), "last": jnp.zeros(CLASSES)}


def fans(width):
    """(kind in the tables of the paper, fan-in, fan-out); biases have a fan-in of 1."""
    return {
        "in": ("input", PIXELS, width),
        "mid": ("hidden", width, 2 * width),
        "back": ("hidden", 2 * width, width),
        "out": ("output", width, CLASSES),
        "norm/scale": ("input", 1, width),
        "b": ("input", 1, 2 * width),
        "last": ("input", 1, CLASSES),
    }


# Yang et al. 2022, arXiv:2203.03466; under SGD a hidden matrix that isn't square goes with fan-out / fan-in
RATES = {
    ("rate", "adam"): {"input": lambda i, o: 1, "output": lambda i, o: 1 / i, "hidden": lambda i, o: 1 / i},
    ("rate", "sgd"): {"input": lambda i, o: o, "output": lambda i, o: 1 / i, "hidden": lambda i, o: o / i},
    ("forward", "adam"): {"input": lambda i, o: 1, "output": lambda i, o: 1, "hidden": lambda i, o: 1 / i},
    ("forward", "sgd"): {"input": lambda i, o: o, "output": lambda i, o: i, "hidden": lambda i, o: o / i},
}
VARIANCES = {"rate": lambda i: 1 / i**2, "forward": lambda i: 1}  # of the output matrix at its start


def by_name(tree):
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in paths}


@pytest.mark.parametrize(("output", "method"), RATES)
@pytest.mark.parametrize(("small", "big"), [(16, 64), (64, 16), (16, 48), (32, 32)])
def test_rates_and_starts_are_those_of_the_tables(output, method, small, big):
    models = init(small), jax.eval_shape(lambda: init(big))
    rates = by_name(L.width_multipliers(*models, 0.1, method=method, output=output))
    factors = by_name(L.width_init_multipliers(*models, output=output))
    of_small, of_big = fans(small), fans(big)
    assert rates.keys() == of_small.keys()
    for name, (kind, i, o) in of_big.items():
        rule = RATES[output, method][kind]
        assert rates[name] == pytest.approx(0.1 * rule(i, o) / rule(*of_small[name][1:])), name
        i_small = of_small[name][1]
        variance = VARIANCES[output](i) / VARIANCES[output](i_small) if kind == "output" else i_small / i
        assert factors[name] == pytest.approx((variance / (i_small / i)) ** 0.5), name


def test_both_forms_of_the_output_train_alike():
    small, big, m = init(16), init(64), 4.0
    x = jax.random.normal(jax.random.key(1), (32, PIXELS))

    def loss_fn(p, divided_by):
        h = jnp.tanh(x @ p["in"] * p["norm"]["scale"][None])
        h = jnp.tanh(jnp.tanh(h @ p["mid"] + p["b"][None]) @ p["back"])
        return jnp.mean((h @ p["out"] / divided_by + p["last"][None] - jnp.sin(x[:, :CLASSES])) ** 2)

    for method, make in (("sgd", lambda r: L.sgd(r, momentum=0.9)), ("adam", lambda r: L.adam(r, eps=1e-30))):
        curves = []
        for output, divided_by in (("rate", 1.0), ("forward", m)):
            factors = L.width_init_multipliers(small, big, output=output)
            params = jax.tree.map(lambda x, factor: x * factor, big, factors)
            tx = make(L.width_multipliers(small, big, 0.02, method=method, output=output))
            state, losses = tx.init(params), []
            value_and_grad = jax.jit(jax.value_and_grad(loss_fn))
            for _ in range(8):
                loss, grads = value_and_grad(params, divided_by)
                updates, state = tx.update(grads, state, params)
                params = L.apply_updates(params, updates)
                losses.append(float(loss))
            curves.append(losses)
        assert curves[0][-1] < 0.9 * curves[0][0]
        np.testing.assert_allclose(curves[0], curves[1], rtol=2e-4)


def test_the_rate_may_be_a_schedule_an_array_or_traced():
    models = {"w": jnp.ones((4, 4)), "out": jnp.ones((4, 2))}, {"w": jnp.ones((16, 16)), "out": jnp.ones((16, 2))}
    decay = L.cosine_decay_schedule(0.4, 10)
    rates = L.width_multipliers(*models, decay)
    np.testing.assert_allclose(rates["w"](jnp.arange(12)), decay(jnp.arange(12)) / 4, rtol=1e-6)
    assert L.width_multipliers(*models, decay, method="sgd")["w"] == decay  # and not a product of it with 1
    state = L.adam(rates).init(models[1])
    assert L.get_learning_rate(state)["out"] == pytest.approx(0.1)
    many = L.width_multipliers(*models, np.array([0.1, 0.2]))
    np.testing.assert_allclose(many["w"], [0.025, 0.05])
    traced = jax.jit(lambda rate: L.width_multipliers(*models, rate))(0.2)
    assert traced["w"] == pytest.approx(0.05)
    assert L.width_multipliers(*models, lambda step: 0.4)["w"](3) == pytest.approx(0.1)


def test_axes_of_other_layouts():
    shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)
    torch = lambda n: {"mid": shape(2 * n, n), "conv": shape(n, 3, 5, 5), "embed": shape(50, n), "b": shape(n)}
    axes = {"conv": (1, 0), "embed": (-2, -1), "": (-1, -2)}
    sgd = L.width_multipliers(torch(8), torch(32), method="sgd", axes=axes)
    assert sgd == {"mid": 1.0, "conv": 4.0, "embed": 4.0, "b": 4.0}
    assert L.width_multipliers(torch(8), torch(32), axes=axes) == {"mid": 0.25, "conv": 1.0, "embed": 1.0, "b": 1.0}
    attention = lambda heads: {
        "query": {"kernel": shape(heads * 4, heads, 4), "bias": shape(heads, 4)},
        "out": {"kernel": shape(heads, 4, heads * 4), "bias": shape(heads * 4)},
    }
    axes = {"query/kernel": (0, (1, 2)), "out/kernel": ((0, 1), 2)}
    found = L.width_multipliers(attention(2), attention(8), axes=axes)
    assert found == {"query": {"kernel": 0.25, "bias": 1.0}, "out": {"kernel": 0.25, "bias": 1.0}}
    vector = {"head": shape(8)}, {"head": shape(32)}
    assert L.width_multipliers(*vector) == {"head": 1.0}
    assert L.width_multipliers(*vector, axes={"head": (0, ())}) == {"head": 0.25}
    stack = lambda n: {"layers": shape(6, n, n)}
    assert L.width_multipliers(stack(8), stack(16)) == {"layers": 0.5}


def test_a_model_that_has_its_width_in_its_structure():
    eqx = pytest.importorskip("equinox")
    make = lambda n: eqx.nn.MLP(5, 2, n, 2, key=jax.random.key(0))
    small, big = (eqx.filter(make(n), eqx.is_inexact_array) for n in (8, 32))
    rates = L.width_multipliers(small, big, 0.1, axes=(-1, -2))
    assert [layer.weight for layer in rates.layers] == pytest.approx([0.1, 0.025, 0.025])
    updates, _ = L.adam(rates).update(big, L.adam(rates).init(big), big)
    assert updates.layers[1].weight.shape == (32, 32)


WRONG = {
    "another rank": ({"a": {"w": (4, 4)}}, {"a": {"w": (8,)}}, {}, "'a/w' must have as many axes"),
    "a parameter more": ({"a": (4, 4)}, {"a": (8, 8), "b": (8,)}, {}, "'b' is in `params_big` only"),
    "a parameter less": ({"a": (4, 4), "b": (8,)}, {"a": (8, 8)}, {}, "'b' is in `params_small` only"),
    "an axis without a meaning": ({"q": (4, 2, 2)}, {"q": (8, 4, 2)}, {}, "axis 0 of 'q' grows"),
    "method": ({"a": (4,)}, {"a": (8,)}, {"method": "muon"}, "`method`"),
    "output": ({"a": (4,)}, {"a": (8,)}, {"output": "init"}, "`output`"),
    "rate": ({"a": (4,)}, {"a": (8,)}, {"rate": -1.0}, "`rate`"),
    "axes": ({"a": (4,)}, {"a": (8,)}, {"axes": -1}, "`axes`"),
    "an expression": ({"a": (4,)}, {"a": (8,)}, {"axes": {"(": (0, 1)}}, "`axes`"),
    "no such axis": ({"a": (4, 4)}, {"a": (8, 8)}, {"axes": (2, 1)}, "axes of 'a', which has 2"),
    "one axis twice": ({"a": (4, 4)}, {"a": (8, 8)}, {"axes": (1, -1)}, "different axes of 'a'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_told_is_refused_by_name(case):
    small, big, arguments, words = WRONG[case]
    shapes = lambda tree: jax.tree.map(np.zeros, tree, is_leaf=lambda x: isinstance(x, tuple))
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        L.width_multipliers(shapes(small), shapes(big), **arguments)


def test_scale_rate_is_a_power_of_the_ratio():
    for rule, power in {"sqrt": 0.5, "linear": 1, "none": 0}.items():
        for to in (16, 64, 100, 4096):
            assert L.scale_rate(3e-4, 64, to, rule) == pytest.approx(3e-4 * (to / 64) ** power, rel=1e-12)
    assert L.scale_rate(1, 4, 16, "linear") == 4.0
    there_and_back = L.scale_rate(L.scale_rate(0.1, 32, 2048), 2048, 32)
    assert there_and_back == pytest.approx(0.1, rel=1e-12)


def test_scale_rate_takes_arrays_schedules_trees_and_traced_numbers():
    decay = L.warmup_cosine_decay_schedule(0.0, 0.1, 10, 100)
    scaled = L.scale_rate(decay, 256, 1024, "linear")
    assert isinstance(scaled, L.Schedule)
    np.testing.assert_allclose(scaled(jnp.arange(101)), 4 * decay(jnp.arange(101)), rtol=1e-6)
    rates = np.array([0.1, 0.2], np.float32)
    np.testing.assert_allclose(L.scale_rate(rates, 1, 4), 2 * rates)
    assert L.scale_rate(jnp.array([0.1, 0.2]), 1, 4).dtype == jnp.float32
    assert L.scale_rate({"a": 0.1, "b": [decay]}, 4, 16)["b"][0](10) == pytest.approx(0.2)
    traced = jax.jit(lambda rate, to: L.scale_rate(rate, 16, to))
    assert traced(0.1, 64) == pytest.approx(0.2)
    slope = jax.grad(lambda to: L.scale_rate(0.1, 16.0, to))(64.0)
    assert slope == pytest.approx(0.1 * 0.5 * (64 / 16) ** -0.5 / 16)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((0.1, 0, 4), "batch_size"),
        ((0.1, 4, -1), "to"),
        ((0.1, 4, float("nan")), "to"),
        ((0.1, 4, 8, "cubic"), "rule"),
        ((-0.1, 4, 8), "rate"),
        (("0.1", 4, 8), "rate"),
        ((None, 4, 8), "rate"),
        ((L.by_path({"": 0.1}), 4, 8), "rate"),
    ],
)
def test_scale_rate_names_a_bad_argument(arguments, name):
    with pytest.raises(ValueError, match=f"scale_rate: `{name}` must be"):
        L.scale_rate(*arguments)
