"""The rows of a comparison as text: for people, for programs, for spreadsheets."""

import csv
import io
import json
from typing import Any

from lrjax.compare import Comparison
from lrjax.report.svg import number
from lrjax.tasks.base import Task


def headers(comparison: Comparison) -> list[str]:
    task = comparison.task
    metric = f"test {task.metric}{', %' if task.percent else ''}"
    return ["technique", "peak rate", "train loss", metric, f"steps to {target(task)}", "diverged"]


def target(task: Task) -> str:
    return f"{task.target:.0%}" if task.percent else f"{task.metric} {task.target:g}"


def cells(row: dict[str, Any], percent: bool) -> list[str]:
    """What a person reads in a row, in the order of `headers`."""
    loss, metric, spread = row["train_loss"], row["test_metric"], row["test_metric_spread"]
    scale, digits = (100, 1) if percent else (1, 3)
    shown = "–" if metric is None else f"{_fixed(metric * scale, digits)} ± {_fixed(spread * scale, digits)}"
    share = "all" if row["diverged"] == row["seeds"] else f"{row['diverged']} of {row['seeds']}"
    return [
        row["technique"],
        number(row["peak_rate"]),
        "–" if loss is None else _fixed(loss, 4),
        shown,
        "–" if row["steps_to_target"] is None else str(row["steps_to_target"]),
        share if row["diverged"] else "",
    ]


def _fixed(x: float, digits: int) -> str:
    return f"{x:.{digits}f}" if abs(x) < 1000 else number(x)


def to_json(comparison: Comparison) -> str:
    task = comparison.task
    runs = {"steps": comparison.losses.shape[2], "seeds": comparison.losses.shape[1], "rows": comparison.rows()}
    return json.dumps({"task": task.name, "metric": task.metric, "target": task.target, **runs}, indent=2)


def to_csv(comparison: Comparison) -> str:
    rows, out = comparison.rows(), io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
