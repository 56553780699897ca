"""Schedules and optimizers from text: what Python would make of it, and nothing else."""

import pytest

import lrjax
from lrjax.parse import parse_optimizer, parse_schedule


@pytest.mark.parametrize(
    "text",
    [
        "warmup_cosine_decay_schedule(0, 1e-3, 100, 1000)",
        "exponential_decay(0.1, 100, 0.5, staircase=True, end_value=None)",
        "cyclic_schedule(1e-3, 1e-2, 10, mode='triangular2')",
        "piecewise_constant_schedule(1.0, {3: 0.5, 6: 0.5})",
        "piecewise_values_schedule([0.1, 0.01], (5,))",
        "join_schedules([linear_schedule(0, 1, 5), cosine_decay_schedule(1, 10)], [5])",
        "0.5 * linear_schedule(0, 1, 5) + rex_schedule(0.1, 10) * rex_schedule(0.2, 5)",
        "linear_schedule(0, 1, 5).warmup(3, init_value=0.5).delay(2).stretch(2).repeat(40).clip(high=0.4)",
        "tanh_decay(0.1, 100, lower=-6.0)",
        "sgdr_schedule([dict_] * 1)".replace(
            "[dict_] * 1", "[{'init_value': 0.0, 'peak_value': 1.0, 'warmup_steps': 2, 'decay_steps': 6}]"
        ),
    ],
)
def test_parses_to_what_python_makes_of_it(text):
    assert parse_schedule(text) == eval(text, dict(vars(lrjax)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("__import__('os').system('true')", "no schedule is called '__import__'"),
        ("linear_schedule(0, 1, 5).__class__", "not allowed"),
        ("linear_schedule(0, 1, 5)._formula(3)", "no method '_formula'"),
        ("(lambda: linear_schedule(0, 1, 5))()", "not allowed"),
        ("[linear_schedule(0, 1, n) for n in (1, 2)][0]", "not allowed"),
        ("linear_schedule(*[0, 1, 5])", "not allowed"),
        ("linear_schedule(**{'init_value': 0})", "not allowed"),
        ("linear_schedule(0, 1, 2**9)", "not allowed"),
        ("linear_schedule(0, 1j, 5)", "not allowed"),
        ("from_callable(open)", "no schedule is called 'from_callable'"),
        ("adam(1e-3)", "no schedule is called 'adam'"),
        ("cosin_decay_schedule(0.1, 5)", "Did you mean cosine_decay_schedule"),
        ("cosine_decay_schedule(0.1)", "decay_steps"),
        ("cosine_decay_schedule(0.1, 5, decay_stepz=5)", "decay_stepz"),
        ("cosine_decay_schedule(0.1, -5)", "`decay_steps` must be"),
        ("0.5", "not a schedule"),
        ("0.5 + 0.5", "take a schedule"),
        ("cosine_decay_schedule(", "not a schedule"),
        ("", "not a schedule"),
        ("(" * 5000 + "1" + ")" * 5000, "not a schedule"),
        ("-" * 50_000 + "1", "not a"),
        ("[" * 150 + "]" * 150, "not a"),
        ("linear_schedule(0, 1, 5)" + ".delay(1)" * 200, "more than 100"),
        ("*".join(["rex_schedule(0.1, 10)"] * 200), "more than 100"),
        (f"linear_schedule(0, 1, {'9' * 5000})", "not a schedule"),
        ("linear_schedule(0, 1, 5, 6, 7)", "linear_schedule: too many positional arguments"),
        ("linear_schedule(0, 1, 5).plot(3)", "no method 'plot'"),
        ("linear_schedule(0, 1, 5).delay()", "delay: missing a required argument: 'steps'"),
        ("linear_schedule(0, 1, 5) * 'a'", "take a schedule and a number"),
        ("linear_schedule(0, 1, 5) * [1]", "take a schedule and a number"),
        ("piecewise_constant_schedule(0.1, {[5]: 0.1})", "not allowed"),
        ("''.join(['a'])", "not allowed"),
        ("linear_schedule(0, 1, 5) if True else 1", "not allowed"),
        ("(x := linear_schedule(0, 1, 5))", "not allowed"),
        ("f'{1}'", "not allowed"),
        ("linear_schedule", "not allowed"),
        ("linear_schedule(0, 1, 5)\nlinear_schedule(0, 1, 5)", "not a schedule"),
    ],
)
def test_refuses_everything_else_in_one_line(text, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")) as error:
        parse_schedule(text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 250


def test_as_many_parts_as_are_allowed_can_be_called():
    assert float(parse_schedule("linear_schedule(1, 0, 5)" + ".delay(1)" * 99)(99)) == 1.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("adam", lrjax.adam(1e-3)),
        ("adafactor", lrjax.adafactor(1e-3)),
        ("sgd()", lrjax.sgd(1e-3)),
        ("sgd(momentum=0.9)", lrjax.sgd(1e-3, momentum=0.9)),
        ("adamw(0.1, weight_decay=0.5)", lrjax.adamw(0.1, weight_decay=0.5)),
        ("adam(cosine_decay_schedule(1.0, 300))", lrjax.adam(lrjax.cosine_decay_schedule(1.0, 300))),
        (
            "sgd(learning_rate=linear_schedule(0, 1, 5).repeat(2))",
            lrjax.sgd(lrjax.linear_schedule(0, 1, 5).repeat(2)),
        ),
    ],
)
def test_parses_an_optimizer_with_or_without_its_rate(text, value):
    assert parse_optimizer(text) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("adan_w", "Did you mean adan"),
        ("adamm(b1=0.5)", "Did you mean adam"),
        ("polyak_sgd", "no optimizer is called"),  # it has no learning rate of its own
        ("linear_schedule(0, 1, 5)", "no optimizer is called"),
        ("adam(b1=2.0)", "`b1` must be"),
        ("adam(b3=0.5)", "b3"),
        ("adam(-1.0)", "`learning_rate` must be"),
        ("adam(__import__('os').system('true'))", "no method 'system'|not allowed|no schedule"),
        ("adam(**{'b1': 0.5})", "not allowed"),
        ("adam(*[0.1])", "not allowed"),
        ("adam.__class__", "not an optimizer"),
        ("adam(0.1)(0.2)", "not an optimizer"),
        ("0.1", "not an optimizer"),
        ("", "not an optimizer"),
        ("adam(", "not an optimizer"),
        ("(" * 5000 + "adam" + ")" * 5000, "not an optimizer"),
    ],
)
def test_refuses_what_is_no_optimizer_in_one_line(text, words):
    with pytest.raises(ValueError, match=words) as error:
        parse_optimizer(text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 250
