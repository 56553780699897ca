"""The schedules that the tests run through: the one table in which a new schedule gets a row.

Those that are made of other schedules or functions are tested in test_compose.py.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import lrjax
from tests import oracles


class Case(NamedTuple):
    """What a schedule has to be."""

    law: Callable[..., float]  # (step, **arguments) -> the rate, in float64
    rows: list[tuple[int, Callable[[int], dict[str, Any]]]]  # (least T, arguments for a length of T steps)
    exponential: bool = False  # its relative error grows with the exponent
    source: bool = True  # is from a paper or a library, and names it


# numbers are float32 numbers of few digits, so that both sides see the same ones
CASES: dict[str, Case] = {
    "constant_schedule": Case(oracles.constant_schedule, [(1, lambda T: {"value": 0.125})], source=False),
    "linear_schedule": Case(
        oracles.linear_schedule,
        [
            (1, lambda T: {"init_value": 1.0, "end_value": 0.0, "transition_steps": T}),
            (1, lambda T: {"init_value": 0.0, "end_value": 0.5, "transition_steps": T}),
            (1, lambda T: {"init_value": 0.5, "end_value": 0.0625, "transition_steps": T, "transition_begin": T // 3}),
        ],
        source=False,
    ),
    "polynomial_schedule": Case(
        oracles.polynomial_schedule,
        [
            (1, lambda T: {"init_value": 1.0, "end_value": 0.0, "power": 2.0, "transition_steps": T}),
            (1, lambda T: {"init_value": 0.0, "end_value": 1.0, "power": 1.5, "transition_steps": T}),
            (1, lambda T: {"init_value": 1.0, "end_value": 0.25, "power": 0.5, "transition_steps": T}),
            (1, lambda T: {"init_value": 1.0, "end_value": 0.0, "power": 1.0, "transition_steps": T, "cycle": True}),
        ],
    ),
    "exponential_decay": Case(
        oracles.exponential_decay,
        [
            (1, lambda T: {"init_value": 1.0, "transition_steps": T, "decay_rate": 0.5}),
            (
                1,
                lambda T: {
                    "init_value": 1.0,
                    "transition_steps": max(T // 10, 1),
                    "decay_rate": 0.9375,
                    "staircase": True,
                },
            ),
            (1, lambda T: {"init_value": 0.25, "transition_steps": T, "decay_rate": 0.125, "end_value": 0.0625}),
            (1, lambda T: {"init_value": 0.25, "transition_steps": T, "decay_rate": 2.0, "end_value": 8.0}),
            (1, lambda T: {"init_value": 1.0, "transition_steps": T, "decay_rate": 0.5, "transition_begin": T // 2}),
        ],
        exponential=True,
        source=False,
    ),
    "step_decay": Case(
        oracles.step_decay, [(1, lambda T: {"init_value": 1.0, "step_size": T, "decay_rate": 0.125})], exponential=True
    ),
    "cosine_decay_schedule": Case(
        oracles.cosine_decay_schedule,
        [
            (1, lambda T: {"init_value": 1.0, "decay_steps": T}),
            (1, lambda T: {"init_value": 0.5, "decay_steps": T, "alpha": 0.125, "exponent": 1.5}),
        ],
    ),
    "inverse_time_decay": Case(
        oracles.inverse_time_decay,
        [
            (1, lambda T: {"init_value": 1.0, "transition_steps": T, "decay_rate": 0.5}),
            (1, lambda T: {"init_value": 1.0, "transition_steps": T, "decay_rate": 3.0, "staircase": True}),
        ],
    ),
    "inverse_sqrt_schedule": Case(
        oracles.inverse_sqrt_schedule,
        [
            (1, lambda T: {"peak_value": 1.0, "warmup_steps": T}),
            (1, lambda T: {"peak_value": 1.0}),
            (1, lambda T: {"peak_value": 1.0, "warmup_steps": T // 2, "timescale": T, "init_value": 0.125}),
        ],
    ),
    "noam_schedule": Case(
        oracles.noam_schedule, [(1, lambda T: {"model_size": 512, "warmup_steps": T, "factor": 2.0})]
    ),
    "power_schedule": Case(
        oracles.power_schedule,
        [
            (1, lambda T: {"max_value": 0.015625, "batch_size": 128, "tokens_per_step": 2.0**19, "b": -0.5, "a": 4.0}),
            (1, lambda T: {"max_value": 0.5, "batch_size": 8, "tokens_per_step": 64, "warmup_steps": T, "b": -0.5}),
        ],
    ),
    "rex_schedule": Case(
        oracles.rex_schedule,
        [
            (1, lambda T: {"init_value": 1.0, "transition_steps": T}),
            (1, lambda T: {"init_value": 1.0, "transition_steps": T, "end_value": 0.125}),
        ],
    ),
    "tanh_decay": Case(
        oracles.tanh_decay,
        [
            (1, lambda T: {"init_value": 1.0, "decay_steps": T}),
            (1, lambda T: {"init_value": 1.0, "decay_steps": T, "end_value": 0.125, "lower": -4.0, "upper": 4.0}),
        ],
    ),
    "tabulated_schedule": Case(oracles.tabulated_schedule, [(1, lambda T: {"values": [0.5, 0.25, 1.0]})], source=False),
    "piecewise_constant_schedule": Case(
        oracles.piecewise_constant_schedule,
        [
            (2, lambda T: {"init_value": 1.0, "boundaries_and_scales": {T // 2: 0.5, T: 0.125}}),
        ],
        source=False,
    ),
    "piecewise_values_schedule": Case(
        oracles.piecewise_values_schedule, [(2, lambda T: {"values": [1.0, 0.5, 0.0], "boundaries": [T // 2, T]})]
    ),
    "piecewise_interpolate_schedule": Case(
        oracles.piecewise_interpolate_schedule,
        [
            (
                2,
                lambda T: {
                    "interpolate_type": "linear",
                    "init_value": 1.0,
                    "boundaries_and_scales": {T // 2: 4.0, T: 0.0},
                },
            ),
            (
                2,
                lambda T: {
                    "interpolate_type": "cosine",
                    "init_value": 1.0,
                    "boundaries_and_scales": {T // 2: 0.5, T: 0.0},
                },
            ),
        ],
        source=False,
    ),
    "linear_onecycle_schedule": Case(
        oracles.linear_onecycle_schedule, [(3, lambda T: {"transition_steps": T, "peak_value": 1.0, "pct_start": 0.25})]
    ),
    "cosine_onecycle_schedule": Case(
        oracles.cosine_onecycle_schedule, [(2, lambda T: {"transition_steps": T, "peak_value": 1.0, "pct_start": 0.25})]
    ),
    "three_phase_onecycle_schedule": Case(
        oracles.three_phase_onecycle_schedule,
        [
            (3, lambda T: {"transition_steps": T, "peak_value": 1.0, "pct_start": 0.25}),
            (3, lambda T: {"transition_steps": T, "peak_value": 1.0, "pct_start": 0.5, "anneal": "linear"}),
        ],
    ),
    "onecycle_momentum_schedule": Case(
        oracles.onecycle_momentum_schedule,
        [
            (3, lambda T: {"transition_steps": T, "max_value": 1.0, "min_value": 0.25, "pct_start": 0.25}),
            (
                3,
                lambda T: {
                    "transition_steps": T,
                    "max_value": 1.0,
                    "min_value": 0.0,
                    "pct_start": 0.5,
                    "three_phase": True,
                },
            ),
        ],
    ),
    "warmup_constant_schedule": Case(
        oracles.warmup_constant_schedule, [(1, lambda T: {"init_value": 0.125, "peak_value": 1.0, "warmup_steps": T})]
    ),
    "warmup_cosine_decay_schedule": Case(
        oracles.warmup_cosine_decay_schedule,
        [
            (1, lambda T: {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": T // 10, "decay_steps": T}),
            (
                1,
                lambda T: {
                    "init_value": 0.5,
                    "peak_value": 1.0,
                    "warmup_steps": 0,
                    "decay_steps": T,
                    "end_value": 0.125,
                    "exponent": 2.0,
                },
            ),
        ],
    ),
    "warmup_linear_decay_schedule": Case(
        oracles.warmup_linear_decay_schedule,
        [
            (1, lambda T: {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": T // 10, "decay_steps": T}),
        ],
    ),
    "warmup_exponential_decay_schedule": Case(
        oracles.warmup_exponential_decay_schedule,
        [
            (
                1,
                lambda T: {
                    "init_value": 0.0,
                    "peak_value": 1.0,
                    "warmup_steps": T // 4,
                    "transition_steps": T,
                    "decay_rate": 0.5,
                    "transition_begin": T // 5,
                    "end_value": 0.0625,
                },
            ),
        ],
        exponential=True,
        source=False,
    ),
    "warmup_stable_decay_schedule": Case(
        oracles.warmup_stable_decay_schedule,
        [
            (
                1,
                lambda T, shape=shape: {
                    "init_value": 0.0,
                    "peak_value": 1.0,
                    "warmup_steps": T // 10,
                    "stable_steps": T // 2,
                    "decay_steps": T - T // 10 - T // 2,
                    "end_value": 0.0 if shape != "cosine" else 0.125,
                    "cooldown": shape,
                },
            )
            for shape in ("linear", "cosine", "1-sqrt", "1-square")
        ],
    ),
    "cyclic_schedule": Case(
        oracles.cyclic_schedule,
        [
            (1, lambda T: {"min_value": 0.0, "max_value": 1.0, "step_size_up": T}),
            (1, lambda T: {"min_value": 0.125, "max_value": 1.0, "step_size_up": T, "step_size_down": max(T // 3, 1)}),
            (1, lambda T: {"min_value": 0.125, "max_value": 1.0, "step_size_up": T, "mode": "triangular2"}),
            (
                1,
                lambda T: {
                    "min_value": 0.0,
                    "max_value": 1.0,
                    "step_size_up": T,
                    "mode": "exp_range",
                    "gamma": 1 - 2.0**-20,
                },
            ),
        ],
        exponential=True,
    ),
    "cosine_restarts_schedule": Case(
        oracles.cosine_restarts_schedule,
        [
            (1, lambda T: {"peak_value": 1.0, "first_cycle_steps": T}),
            (1, lambda T: {"peak_value": 1.0, "first_cycle_steps": T, "cycle_mult": 2, "peak_decay": 0.75}),
            (
                2,
                lambda T: {
                    "peak_value": 1.0,
                    "first_cycle_steps": T,
                    "cycle_mult": 3,
                    "end_value": 0.125,
                    "warmup_steps": T // 2,
                },
            ),
        ],
    ),
    "sgdr_schedule": Case(
        oracles.sgdr_schedule,
        [
            (
                2,
                lambda T: {
                    "cosine_kwargs": [
                        {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": T // 4, "decay_steps": T // 2},
                        {"init_value": 0.0, "peak_value": 0.5, "warmup_steps": 0, "decay_steps": T - T // 2},
                    ]
                },
            ),
        ],
    ),
}

ALL = [(name, i, least, arguments) for name, case in CASES.items() for i, (least, arguments) in enumerate(case.rows)]
IDS = [f"{name}-{i}" for name, i, _, _ in ALL]


def schedule_of(name, arguments):
    return getattr(lrjax, name)(**arguments)


def oracle_of(name, arguments):
    return lambda step: CASES[name].law(step, **arguments)
