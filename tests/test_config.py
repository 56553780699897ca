"""A value as a plain dict, through JSON, and what is said of a bad one."""

import json

import jax
import numpy as np
import optax
import pytest

import lrjax as L

VALUES = {
    "schedule": L.warmup_cosine_decay_schedule(0.0, 1e-3, 10, 100),
    "schedules in a schedule": L.join_schedules([L.linear_schedule(0.0, 0.1, 9), L.constant_schedule(0.1) * 0.5], [9]),
    "pairs": L.piecewise_constant_schedule(0.1, {10: 0.5, 20: 0.25}),
    "table": L.tabulated_schedule([0.1, 0.2, 0.05]),
    "batch": L.adam(np.array([0.1, 0.2], np.float32)),
    "mask": L.adamw(1e-3, mask={"w": True, "b": [False, True]}),
    "dtype": L.adam(L.cosine_decay_schedule(1e-3, 100), mu_dtype="bfloat16"),
    "mask of tuples": L.adamw(1e-3, mask=(True, {"type": False})),
    "rates": L.sgd({"encoder": 1e-4, "head": [L.cosine_decay_schedule(1e-3, 100), 1e-3], "type": (0.1,)}),
    "rates by path": L.sgd(L.by_path({"bias$": 0.2, "type": L.linear_schedule(0.1, 0, 9), "": 1})),
    "rates by layer": L.adamw(L.layerwise_learning_rates({"embed": 0.0, "layers": [0.0, 0.0], "head": 0.0}, 1e-3, 0.5)),
    "labels": L.partition({"a": L.sgd(0.1), "b": L.adam(0.1)}, {"w": "a", "v": ["a", "b"]}),
    "labels that are numbers": L.partition({0: L.sgd(0.1), 1: L.adam(0.1)}, ({3: 0, 4: 1}, 1)),
    "dimensions": L.muon(0.1, muon_weight_dimension_numbers=L.MuonDimensionNumbers((0, 1), 2)),
    "tree of dimensions": L.muon(
        0.1, muon_weight_dimension_numbers={"w": L.MuonDimensionNumbers(), "b": None, "c": [L.MuonDimensionNumbers(1)]}
    ),
    "seed": L.noisy_sgd(0.1, key=7),
    "key": L.noisy_sgd(0.1, key=jax.random.key(7)),
    "scheduled": L.adamw(0.1, b1=L.linear_schedule(0.95, 0.85, 10), weight_decay=L.constant_schedule(0.1)),
    "steps": L.linear_schedule(0.1, 0.0, 2**31 - 1, 2**24 + 1),
    "chains": L.chain(L.clip(1.0), L.named_chain(("ema", L.ema(0.5)), ("rest", L.chain(L.scale(-0.1), L.chain())))),
}  # fmt: skip


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_a_config_goes_through_json_to_an_equal_value(value):
    text = json.dumps(L.to_config(value), allow_nan=False)
    assert L.from_config(json.loads(text)) == value


def test_a_config_reads_like_the_call():
    assert L.to_config(L.chain(L.clip(1.0), L.sgd(L.step_decay(0.1, 30, 0.5), momentum=0.9))) == {
        "type": "chain",
        "transforms": [
            {"type": "clip", "max_delta": 1.0},
            {
                "type": "sgd",
                "learning_rate": {"type": "step_decay", "init_value": 0.1, "step_size": 30, "decay_rate": 0.5},
                "momentum": 0.9,
                "nesterov": False,
                "accumulator_dtype": None,
            },
        ],
    }


def test_arguments_that_a_config_leaves_out_have_their_defaults():
    assert L.from_config({"type": "adam", "learning_rate": 0.1}) == L.adam(0.1)


def test_a_users_class_is_named_with_its_module():
    @L.schedule
    def halved(step, init_value: float):
        return 0.5 * init_value

    config = L.to_config(halved(1.0))
    assert config["type"].endswith(".halved") and config["type"] != "halved"
    assert L.from_config(config) == halved(1.0)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"type": "adamm", "learning_rate": 0.1}, "'adamm'"),
        ({"type": "adam", "learning_rte": 0.1}, "adam takes learning_rate, .* got `learning_rte`"),
        ({"type": "adam"}, "learning_rate"),
        ({"type": "adam", "learning_rate": -0.1}, "adam: `learning_rate` must be .* got -0.1"),
        ({"type": "sgd", "learning_rate": {"type": "step_decai"}}, "'step_decai'"),
        ({"type": "chain", "transforms": [{"type": "clip", "max_delta": -1}]}, "clip: `max_delta`"),
        ({"type": "chain", "transform": []}, "transform"),
        ({"type": ["adam"]}, "must be the name of an lrjax value"),
        ({"learning_rate": 0.1}, "'type'"),
        ([1, 2], "must be a dict"),
    ],
)
def test_a_bad_config_is_named(config, words):
    with pytest.raises(ValueError, match=words):
        L.from_config(config)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (L.adamw(0.1, mask=lambda p: p), "`mask` of adamw .* JSON"),
        (L.sgd(L.by_path(lambda path: 0.1)), "`rates` of by_path .* JSON"),
        (L.inject_hyperparams(L.sgd)(0.1), "`factory` of injected .* JSON"),
        (L.adam(lambda t: 0.1), "`function` of from_callable"),
        (L.chain(optax.sgd(0.1)), "`init_fn` of pair"),
        (0.1, "`value` must be an lrjax value"),
    ],
)
def test_what_json_cannot_hold_is_named(value, words):
    with pytest.raises(TypeError, match=words):
        L.to_config(value)
