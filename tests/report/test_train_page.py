"""The page and the table of one run."""

import numpy as np
import pytest

from tests.pages import SVG, charts_of
from tests.report.made import NAN, STEPS, TWO, of_run


def test_the_page_of_a_run_shows_loss_rate_and_metrics():
    findings, text = of_run(metrics=TWO, rates="groups", aux={"norm": np.ones(STEPS)})
    drawn = charts_of(text)
    assert [svg.find(f"{SVG}text").text for svg in drawn] == ["training loss", "learning rate", "R²", "error", "norm"]
    assert drawn[3].get("data-log") == "1" and drawn[2].get("data-log") == "0"
    assert [column.name for column in findings.columns] == ["step", "loss", "rate body", "rate head", "R²", "error"]
    assert "with seed 3" in text and findings.rows[3]["error"] == pytest.approx(3.0)


def test_the_table_of_a_run_is_short_and_its_rows_are_all_steps():
    findings, _ = of_run(steps=1000)
    assert [cells[0] for cells in findings.cells] == [f"{100 * k:,}" for k in range(1, 11)]
    assert len(findings.rows) == 1000 and findings.cells[-1][-1] == "0.960"
    assert findings.verdict.startswith("After 1,000 steps: loss 0.") and "accuracy 0.96" in findings.verdict
    assert ("accuracy", "0.96", "best 0.96 after 1,000 steps") in findings.facts


def test_a_run_that_diverged_says_so():
    losses = np.append(np.ones(20), np.full(20, NAN))
    findings, _ = of_run(losses=losses, diverged=True)
    assert "has diverged" in findings.verdict and findings.summary["loss"] is None
    assert findings.cells[-1][1] == "–" and ("diverged", "yes", "") in findings.facts
