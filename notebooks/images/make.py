"""Draws every schedule as a small SVG beside this file, and writes the README's table of them.

Run from the root of the repository: `python notebooks/images/make.py`
"""

import inspect
import re
from pathlib import Path

import lrjax
from lrjax.report.svg import schedule_svg

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"
COLOUR = "#0072b2"  # reads on a light and on a dark page

CYCLE = {"init_value": 0.01, "peak_value": 0.1, "warmup_steps": 10, "decay_steps": 50}
EXAMPLES = [
    lrjax.constant_schedule(0.1),
    lrjax.linear_schedule(0.1, 0.0, 100),
    lrjax.polynomial_schedule(0.1, 0.0, 2, 100),
    lrjax.polynomial_schedule(0.1, 0.0, 2, 30, cycle=True),
    lrjax.step_decay(0.1, 30, 0.5),
    lrjax.exponential_decay(0.1, 30, 0.5),
    lrjax.inverse_time_decay(0.1, 30, 1.0),
    lrjax.cosine_decay_schedule(0.1, 100),
    lrjax.rex_schedule(0.1, 100),
    lrjax.tanh_decay(0.1, 100),
    lrjax.inverse_sqrt_schedule(0.1, 20),
    lrjax.noam_schedule(512, 20),
    lrjax.power_schedule(0.02, 128, 128 * 4096, 100),
    lrjax.piecewise_constant_schedule(0.1, {30: 0.5, 60: 0.5}),
    lrjax.piecewise_values_schedule([0.1, 0.03, 0.01], [40, 80]),
    lrjax.piecewise_interpolate_schedule("cosine", 0.03, {30: 3.0, 100: 0.1}),
    lrjax.tabulated_schedule([0.1, 0.08, 0.09, 0.05, 0.06, 0.02]),
    lrjax.warmup_constant_schedule(0.0, 0.1, 30),
    lrjax.warmup_linear_decay_schedule(0.0, 0.1, 20, 100),
    lrjax.warmup_cosine_decay_schedule(0.0, 0.1, 20, 100),
    lrjax.warmup_exponential_decay_schedule(0.0, 0.1, 20, 30, 0.5),
    lrjax.warmup_stable_decay_schedule(0.0, 0.1, 15, 50, 35),
    lrjax.linear_onecycle_schedule(100, 0.1),
    lrjax.cosine_onecycle_schedule(100, 0.1),
    lrjax.three_phase_onecycle_schedule(100, 0.1),
    lrjax.onecycle_momentum_schedule(100),
    lrjax.cyclic_schedule(0.01, 0.1, 15),
    lrjax.cyclic_schedule(0.01, 0.1, 15, mode="triangular2"),
    lrjax.cosine_restarts_schedule(0.1, 20, 2.0, 0.8),
    lrjax.sgdr_schedule([CYCLE, CYCLE | {"peak_value": 0.05}]),
    lrjax.join_schedules([lrjax.linear_schedule(0.0, 0.1, 30), lrjax.rex_schedule(0.1, 70)], [30]),
]
LENGTHS = {"constant_schedule": 100, "noam_schedule": 120, "power_schedule": 2000, "inverse_sqrt_schedule": 120}


def main() -> None:
    seen: dict[str, int] = {}
    rows = []
    for example in EXAMPLES:
        name = type(example).__name__
        seen[name] = seen.get(name, 0) + 1
        file = f"{name}{'' if seen[name] == 1 else seen[name]}.svg"
        svg = schedule_svg(example, LENGTHS.get(name), width=160, height=48, color=COLOUR)
        (HERE / file).write_text(svg, encoding="utf-8")
        what = (inspect.getdoc(example) or "").split("\n")[0]
        rows.append(f"| ![{name}](notebooks/images/{file}) | `{_call(example)}` | {what} |")
    table = "\n".join(["| | | |", "|---|---|---|", *rows])
    text = README.read_text(encoding="utf-8")
    block = f"<!-- schedules -->\n{table}\n<!-- /schedules -->"
    README.write_text(re.sub(r"<!-- schedules -->.*?<!-- /schedules -->", lambda _: block, text, flags=re.DOTALL))


def _call(schedule: lrjax.Schedule) -> str:
    """The call with the arguments that differ from their defaults, by position where they come first."""
    parts, positional = [], True
    for name, parameter in inspect.signature(type(schedule)).parameters.items():
        value = getattr(schedule, name)
        if parameter.default is not parameter.empty and value == parameter.default:
            positional = False
        elif isinstance(value, tuple) and len(repr(value)) > 60:
            parts.append("[…]")
        elif name == "boundaries_and_scales":
            parts.append(repr(dict(value)))
        elif hasattr(value, "tolist"):
            parts.append("[" + ", ".join(f"{x:.3g}" for x in value.tolist()) + "]")
        else:
            shown = repr(list(value) if isinstance(value, tuple) else value)
            parts.append(shown if positional else f"{name}={shown}")
    return f"{type(schedule).__name__}({', '.join(parts)})"


if __name__ == "__main__":
    main()
