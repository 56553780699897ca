"""What was found, as a table with its verdict: for people, for programs, for spreadsheets."""

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
    """What was trained, and by which command."""

    task: str  # as it was given
    optimizer: str
    steps: int
    seeds: int
    decides: str  # what decides which run is best, in words
    command: str
    diverged_above: float = 10.0

    @property
    def divergence(self) -> str:
        times = "ten" if self.diverged_above == 10 else number(self.diverged_above)
        return DIVERGED.replace(" ten times ", f" {times} times ")


@dataclasses.dataclass(frozen=True)
class Column:
    """One of a table: numbers on the right, `words` on the left."""

    name: str
    words: bool = False


@dataclasses.dataclass(frozen=True)
class Findings:
    """A table with its verdict. The rows are for programs and may be more than those of the table, the cells."""

    setup: Setup
    title: str
    verdict: str  # the answer, in a sentence or two; may be empty
    notes: Sequence[str]  # what else to know
    facts: Sequence[tuple[str, str, str]]  # (what, value, more)
    summary: dict[str, Any]  # the answer as numbers
    rows: Sequence[dict[str, Any]]  # None where there is no number
    columns: Sequence[Column]
    cells: Sequence[Sequence[str]]
    best: int | None = None  # the row of the table
    bad: frozenset[int] = frozenset()  # rows of the table that went wrong
    groups: Sequence[str] = ()  # of each row of the table; rows of one group follow on each other

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


def known(x: Any) -> Any:
    """What JSON has: None in place of a number that is not finite."""
    return None if isinstance(x, float) and not math.isfinite(x) else x


def known_rows(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: known(x) for name, x in row.items()} for row in rows]


def rate(x: float | None) -> str:
    """A rate, or a loss, in three digits."""
    return "–" if x is None or not math.isfinite(x) else number(x, 3)


def between(low: float, high: float) -> str:
    return rate(low) if low == high else f"{rate(low)} to {rate(high)}"


def mean_cells(means: Sequence[float | None], spreads: Sequence[float | None], mode: str = "min") -> list[str]:
    """Means ± their spreads, all to the same place: that of three digits of the best, or the fifth.

    >>> mean_cells([0.962, 0.5, None], [0.0041, None, None], "max")
    ['0.962 ± 0.004', '0.500', '–']
    """
    sizes = [abs(x) for x in means if x is not None and x != 0]
    lowest, highest = min(sizes, default=1.0), max(sizes, default=1.0)
    is_fixed = lowest >= 1e-4 and highest < 1e5
    best = lowest if mode == "min" else highest
    places = min(max(2 - math.floor(math.log10(best)), 0), 5)
    text = lambda x: f"{x:.{places}f}" if is_fixed else number(x, 3)
    cells = []
    for mean, spread in zip(means, spreads, strict=True):
        cell = "–" if mean is None else text(mean)
        cells.append(cell if mean is None or spread is None else f"{cell} ± {text(spread)}")
    return cells
