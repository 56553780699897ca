"""Findings: the result of a command as a table with a verdict, also as JSON and CSV."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from lrjax.report.scale import number

DIVERGED = (
    "A run has diverged when its parameters are not finite, or its loss ends above ten times the size and spread of "
    "the untrained loss; one that rises and comes back has not."
)


@dataclasses.dataclass(frozen=True)
class Setup:
    """The task, its training, and the command."""

    task: str  # its name
    optimizer: str
    steps: int
    seeds: int
    decides: str  # the metric that decides which run is best, in words
    command: str
    diverged_above: float = 10.0

    @property
    def divergence(self) -> str:
        times = "ten" if self.diverged_above == 10 else number(self.diverged_above)
        return DIVERGED.replace(" ten times ", f" {times} times ")


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table: numbers are aligned right, text left."""

    name: str
    is_text: bool = False


@dataclasses.dataclass(frozen=True)
class Findings:
    """A table with its verdict: `rows` for programs, and `cells` for people, which may be fewer rows."""

    setup: Setup
    title: str
    verdict: str  # the result in a sentence or two; may be empty
    notes: Sequence[str]
    facts: Sequence[tuple[str, str, str]]  # (name, value, detail)
    summary: dict[str, Any]  # the result as numbers
    rows: Sequence[dict[str, Any]]  # None where there is no number
    columns: Sequence[Column]
    cells: Sequence[Sequence[str]]
    best: int | None = None  # a row of `cells`
    bad: frozenset[int] = frozenset()  # rows of `cells` with diverged runs
    groups: Sequence[str] = ()  # of each row of `cells`; rows of a group are adjacent

    def to_json(self) -> str:
        setup = self.setup
        head: dict[str, Any] = {"task": setup.task, "optimizer": setup.optimizer, "steps": setup.steps}
        head |= {"seeds": setup.seeds, "decided_by": setup.decides, "verdict": self.verdict, "notes": list(self.notes)}
        return json.dumps({**head, **self.summary, "rows": list(self.rows)}, indent=2, allow_nan=False)

    def to_csv(self) -> str:
        out = io.StringIO()
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        writer = csv.DictWriter(out, fieldnames=names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return out.getvalue()


def json_number(x: Any) -> Any:
    """Returns None in place of a number that is not finite, which JSON has not."""
    return None if isinstance(x, float) and not math.isfinite(x) else x


def json_rows(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: json_number(x) for name, x in row.items()} for row in rows]


def rate(x: float | None) -> str:
    """Formats a rate, or a loss, in three digits."""
    return "–" if x is None or not math.isfinite(x) else number(x, 3)


def between(low: float, high: float) -> str:
    return rate(low) if low == high else f"{rate(low)} to {rate(high)}"


def mean_cells(means: Sequence[float | None], spreads: Sequence[float | None], mode: str = "min") -> list[str]:
    """Formats means ± their spreads, all with the decimals that give the best three digits, five at most.

    >>> mean_cells([0.962, 0.5, None], [0.0041, None, None], "max")
    ['0.962 ± 0.004', '0.500', '–']
    """
    sizes = [abs(x) for x in means if x is not None and x != 0]
    lowest, highest = min(sizes, default=1.0), max(sizes, default=1.0)
    is_fixed = lowest >= 1e-4 and highest < 1e5
    best = lowest if mode == "min" else highest
    decimals = min(max(2 - math.floor(math.log10(best)), 0), 5)
    text = lambda x: f"{x:.{decimals}f}" if is_fixed else number(x, 3)
    cells = []
    for mean, spread in zip(means, spreads, strict=True):
        cell = "–" if mean is None else text(mean)
        cells.append(cell if mean is None or spread is None else f"{cell} ± {text(spread)}")
    return cells
