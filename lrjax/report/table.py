"""The rows of a comparison as text: for people, for programs, for spreadsheets."""

import csv
import io
import json
from typing import Any

from lrjax.compare import Comparison
from lrjax.report.scale import number
from lrjax.tasks.base import Task


def headers(comparison: Comparison) -> list[str]:
    task = comparison.task
    metric = f"test {task.metric}{', %' if task.percent else ''}"
    return ["technique", "peak rate", "train loss", metric, f"steps to {target(task)}", "diverged"]


def target(task: Task) -> str:
    return f"{task.target:.0%}" if task.percent else f"{task.metric} {task.target:g}"


def cells(row: dict[str, Any], percent: bool) -> list[str]:
    """What a person reads in a row, in the order of `headers`."""
    loss = row["train_loss"]
    return [
        row["technique"],
        number(row["peak_rate"], 3),
        "–" if loss is None else number(loss, 3),
        metric_cell(row, percent),
        "–" if row["steps_to_target"] is None else str(row["steps_to_target"]),
        f"{row['diverged']} of {row['seeds']}" if row["diverged"] else "",
    ]


def metric_cell(row: dict[str, Any], percent: bool) -> str:
    """Mean ± spread."""
    metric, scale, digits = row["test_metric"], (100 if percent else 1), (1 if percent else 3)
    if metric is None:
        return "–"
    return f"{_fixed(metric * scale, digits)} ± {_fixed(row['test_metric_spread'] * scale, digits)}"


def _fixed(x: float, digits: int) -> str:
    return f"{x:.{digits}f}" if abs(x) < 1000 else number(x)


def to_json(comparison: Comparison) -> str:
    task = comparison.task
    runs = {"steps": comparison.losses.shape[2], "seeds": comparison.losses.shape[1], "rows": comparison.rows()}
    head = {"task": task.name, "metric": task.metric, "target": task.target}
    return json.dumps({**head, **runs}, indent=2, allow_nan=False)


def to_csv(comparison: Comparison) -> str:
    rows, out = comparison.rows(), io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
