"""What a search found, in words, rows and cells: for people, for programs, for spreadsheets."""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from lrjax.report.scale import number, plural, step_count
from lrjax.search.range_test import RangeTest
from lrjax.search.result import SweepResult
from lrjax.search.tune import TuneResult

RULES = {
    "valley": "half-way along the longest fall",
    "slide": "the last rate before the slope changes, from the right",
    "steep": "where the loss falls fastest",
    "minimum": "a tenth of the rate of the lowest loss",
}


@dataclasses.dataclass(frozen=True)
class Search:
    """What was searched, and how."""

    task: str  # as it was given
    optimizer: str
    steps: int
    seeds: int
    evaluated: bool  # whether an `eval_fn` decides
    command: str
    again: str  # what another command takes: the task, and the optimizer where one was given

    @property
    def decides(self) -> str:
        return "`eval_fn` after the last step" if self.evaluated else "training loss, the mean of the last tenth"


@dataclasses.dataclass(frozen=True)
class Findings:
    """A table with its verdict."""

    search: Search
    title: str
    verdict: str  # the answer, in a sentence or two
    notes: Sequence[str]  # what else to know
    facts: Sequence[tuple[str, str, str]]  # (what, value, more)
    summary: dict[str, Any]  # the answer as numbers
    rows: Sequence[dict[str, Any]]  # None where there is no number
    headers: Sequence[str]
    cells: Sequence[Sequence[str]]  # of each row, in the order of `headers`
    best: int | None  # the row
    bad: frozenset[int]  # rows that went wrong

    def to_json(self) -> str:
        run = self.search
        head = {"task": run.task, "optimizer": run.optimizer, "steps": run.steps, "seeds": run.seeds}
        return json.dumps(
            {**head, "verdict": self.verdict, **self.summary, "rows": list(self.rows)}, indent=2, allow_nan=False
        )

    def to_csv(self) -> str:
        out = io.StringIO()
        writer = csv.DictWriter(out, fieldnames=list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return out.getvalue()


def known(x: Any) -> float | None:
    """A number that JSON has."""
    return float(x) if np.isfinite(x) else None


def rate(x: float | None) -> str:
    return "–" if x is None else number(x, 3)


def between(low: float, high: float) -> str:
    return rate(low) if low == high else f"{rate(low)} to {rate(high)}"


def loss_cells(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Of each row the loss ± its spread, all to the same place: that of three digits of the lowest, or the fifth."""
    losses = [row["loss"] for row in rows if row["loss"] is not None]
    lowest, highest = min(map(abs, losses), default=0.0), max(map(abs, losses), default=0.0)
    fixed = 1e-4 <= lowest and highest < 1e5
    places = min(max(2 - int(np.floor(np.log10(lowest))), 0), 5) if fixed else 0
    text = lambda x: f"{x:.{places}f}" if fixed else number(x, 3)
    spread = lambda row: "" if row["seeds"] == 1 or row["loss_spread"] is None else f" ± {text(row['loss_spread'])}"
    return ["–" if row["loss"] is None else text(row["loss"]) + spread(row) for row in rows]


def found(search: Search, result: RangeTest) -> Findings:
    """Of a range test: the suggestions of all rules, and why none is an answer."""
    rows = []
    for rule, medians in result.suggestions.items():
        by_seed = result.by_seed[rule]
        finite = by_seed[np.isfinite(by_seed)]
        low, high = (known(finite.min()), known(finite.max())) if len(finite) else (None, None)
        rows.append({"rule": rule, "learning_rate": known(medians), "lowest": low, "highest": high})
    said = [row for row in rows if row["learning_rate"] is not None]
    tune = f"lrjax tune {search.again}"
    if said:
        low, high = (f(said, key=lambda row: row["learning_rate"]) for f in (min, max))
        apart = high["learning_rate"] / low["learning_rate"]
        verdict = (
            f"The rules suggest {rate(low['learning_rate'])} ({low['rule']}) to {rate(high['learning_rate'])} "
            f"({high['rule']}), {number(apart, 2)} times apart."
        )
    else:
        verdict = "No rule had enough points: the loss ended too early. Try more --steps, or a lower --high."
    notes = [f"Don't trust this alone: a few steps at each rate say little about a whole run. Judge by runs: {tune}"]
    over = lambda row: (
        f"{between(row['lowest'], row['highest'])}, {plural(search.seeds, 'seed')}" if row in said else ""
    )
    return Findings(
        search,
        f"Range test: {search.task}, {plural(search.steps, 'step')}, {plural(search.seeds, 'seed')}",
        verdict,
        notes,
        [(row["rule"], rate(row["learning_rate"]), over(row)) for row in rows],
        {"suggestions": {row["rule"]: row["learning_rate"] for row in rows}},
        rows,
        ["rule", "rate", "lowest seed", "highest seed", "what it reads"],
        [
            [row["rule"], *(rate(row[k]) for k in ("learning_rate", "lowest", "highest")), RULES[row["rule"]]]
            for row in rows
        ],
        None,
        frozenset(),
    )


def swept(search: Search, result: SweepResult) -> Findings:
    """Of a sweep: the loss at each rate, the best one, and how much the choice matters."""
    trained = bool(np.isfinite(result.loss).any())
    best, band = (result.best, result.band()) if trained else (None, None)
    stable, sensitivity = known(result.largest_stable_learning_rate), known(result.sensitivity) if trained else None
    rows = [{**row, "loss": known(row["loss"]), "loss_spread": known(row["loss_spread"])} for row in result.rows()]
    losses, cells = loss_cells(rows), []
    for i, row in enumerate(rows):
        note = "best" if i == best else ""
        if not note and band and row["loss"] is not None and band[0] <= row["learning_rate"] <= band[1]:
            note = "as good"
        varied = [number(row[name]) for name in list(row)[1:-4]]
        lost = f"{row['diverged']} of {row['seeds']}" if row["diverged"] else ""
        cells.append([rate(row["learning_rate"]), *varied, losses[i], lost, note])
    count = int(result.diverged.sum())
    return Findings(
        search,
        f"Sweep: {search.task}, {plural(len(rows), 'rate')}, {plural(search.steps, 'step')}, "
        f"{plural(search.seeds, 'seed')}",
        _sweep_verdict(result, best, band),
        _sweep_notes(search, result, stable, sensitivity),
        [
            ("best rate", rate(known(result.best_learning_rate) if trained else None), _loss_at(losses, best)),
            ("does as well", between(*band) if band else "–", f"{result.stable_range:.1f} decades" if band else ""),
            ("largest stable rate", rate(stable), f"{plural(count, 'run')} of {result.diverged.size} diverged"),
            ("sensitivity", "–" if sensitivity is None else number(sensitivity, 2), "mean loss above the best"),
        ],
        {
            "decided_by": search.decides,
            "best_learning_rate": None if best is None else float(result.learning_rates[best]),
            "band": None if band is None else list(band),
            "largest_stable_learning_rate": stable,
            "sensitivity": sensitivity,
        },
        rows,
        ["rate", *list(rows[0])[1:-4], "loss", "diverged", ""],
        cells,
        best,
        frozenset(i for i, row in enumerate(rows) if row["diverged"]),
    )


def _loss_at(losses: Sequence[str], i: int | None) -> str:
    return "" if i is None else f"loss {losses[i]}"


def _sweep_verdict(result: SweepResult, best: int | None, band: tuple[float, float] | None) -> str:
    rates = np.unique(result.learning_rates)
    if best is None or band is None:
        return f"Everything diverged: try rates below {rate(rates[0])}."
    at = float(result.learning_rates[best])
    if len(rates) == 1:
        return f"One rate, {rate(at)}, and nothing to compare it with."
    if not result.loss[best] < result.start:
        return "At none of these rates is the loss below its start: nothing was learned."
    if band == (rates[0], rates[-1]):
        return f"Any of these rates will do: the best, {rate(at)}, is no better than the spread or 5 % of the fall."
    if at in (rates[0], rates[-1]):
        return f"The best rate, {rate(at)}, is at the edge of the range: widen it."
    if band[0] == band[1]:
        return f"The best rate is {rate(at)}; none of the others does as well."
    return f"The best rate is {rate(at)}; from {rate(band[0])} to {rate(band[1])} does as well."


def _sweep_notes(search: Search, result: SweepResult, stable: float | None, sensitivity: float | None) -> list[str]:
    rates = np.unique(result.learning_rates)
    notes = [f"What decides: {search.decides}."]
    if not result.diverged.any():
        notes.append(f"No run diverged, up to the highest rate, {rate(rates[-1])}.")
    elif stable is not None:
        notes.append(f"The largest stable rate is {rate(stable)}: up to it no run diverged.")
    elif sensitivity is not None:
        notes.append("Runs diverged at the lowest rate already.")
    if sensitivity is not None and len(rates) > 1:
        notes.append("As good: above the best by no more than 5 % of the fall of the loss, or the spread over seeds.")
        notes.append(
            f"Sensitivity {number(sensitivity, 2)}: so far above the best the loss is, on average over these rates; "
            "0 where any rate will do."
        )
    return notes


def tuned(search: Search, result: TuneResult, budget: float) -> Findings:
    """Of `tune`: how far each rate went, and the answer."""
    rows = []
    for i, at in enumerate(result.learning_rates):
        runs = result.final[i][~np.isnan(result.final[i])]
        steps = int((~np.isnan(result.losses[i])).sum(axis=1).max())
        loss, spread = (known(f(runs)) for f in (np.mean, _spread)) if len(runs) else (None, None)
        row = {"learning_rate": float(at), "steps": steps, "went": went(result, i), "seeds": len(runs)}
        rows.append({**row, "loss": loss, "loss_spread": spread})
    losses, cells = loss_cells(rows), []
    for i, row in enumerate(rows):
        at, ended = row["learning_rate"], row["loss"] is not None
        note = "best" if at == result.learning_rate else ""
        if not note and ended and result.low <= at <= result.high:
            note = "as good"
        seeds = str(row["seeds"]) if ended else ""
        cells.append([rate(at), step_count(row["steps"]), row["went"], seeds, losses[i], note])
    best = next((i for i, row in enumerate(rows) if row["learning_rate"] == result.learning_rate), None)
    ended = sum(row["went"] == "to the end" for row in rows)
    share = result.steps_spent / result.grid_steps
    cost = f"{share:.0%} of the {step_count(result.grid_steps)} steps of all rates with all seeds"
    trained = best is not None
    return Findings(
        search,
        f"Tune: {search.task}, {plural(search.steps, 'step')}, {plural(search.seeds, 'seed')}",
        result.verdict,
        [f"What decides: {search.decides}.", f"It cost {cost}."],
        [
            ("best rate", rate(known(result.learning_rate)), _loss_at(losses, best)),
            (
                "does as well",
                between(result.low, result.high) if trained else "–",
                "to the spread over the seeds" if trained else "",
            ),
            ("cost", f"{share:.0%}", f"of {step_count(result.grid_steps)} steps"),
            ("went to the end", f"{ended} of {len(rows)}", "rates"),
        ],
        {
            "decided_by": search.decides,
            "learning_rate": known(result.learning_rate),
            "low": known(result.low),
            "high": known(result.high),
            "budget": budget,
            "steps_spent": result.steps_spent,
            "grid_steps": result.grid_steps,
        },
        rows,
        ["rate", "steps", "went", "seeds", "loss", ""],
        cells,
        best,
        frozenset(i for i, row in enumerate(rows) if row["went"] == "diverged"),
    )


def _spread(runs: np.ndarray) -> float:
    return float(runs.std()) if np.isfinite(runs).all() else float("nan")


def went(result: TuneResult, i: int) -> str:
    """How far rate i went: "to the end", "diverged" or "given up"."""
    if result.diverged[i].any():
        return "diverged"
    return "given up" if np.isnan(result.final[i]).all() else "to the end"
