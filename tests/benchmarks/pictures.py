"""Makes the pictures of the pages, and the table of `choosing.md`: `python -m tests.benchmarks.pictures`.

They are a real run of `lrjax compare`, whose page Chromium shows, a real call of `tune`, and schedules.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import lrjax
from lrjax.tasks.digits import digits
from tests.benchmarks.pages import NOTEBOOKS, write

WIDTH, HEIGHT = 1240, 1300  # of the part of the page that is shown
COLOURS = 128  # by maximum coverage, or the thin lines lose theirs


def page_of_compare(into: Path) -> None:
    """A real run, its page in a browser up to the end of its first charts, and its table."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "lrjax", "compare"], cwd=folder, check=True)
        shot = Path(folder, "page.png")
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT + 100}"]
        page = Path(folder, "lrjax-compare.html").as_uri()
        subprocess.run([browser, *options, f"--screenshot={shot}", page], check=True)
        quantised(Image.open(shot).crop((0, 0, WIDTH, HEIGHT)), into)
        found = json.loads(Path(folder, "lrjax-compare.json").read_text(encoding="utf-8"))
    write("choosing.md", "compare", table(found["rows"]))


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown."""
    lines = ["| | technique | peak rate | training loss | accuracy |", "|---|---|---|---|---|"]
    for row in rows:
        accuracy = "diverged" if row["accuracy"] is None else f"{row['accuracy']:.3f} ± {row['accuracy_spread']:.3f}"
        loss = "" if row["train_loss"] is None else f"{row['train_loss']:.3g}"
        lines.append(f"| {row['group']} | {row['technique']} | {row['peak_rate']:.3g} | {loss} | {accuracy} |")
    return "\n".join(lines)


def picture_of_tune(into: Path) -> None:
    """What the README's call of `tune` plots."""
    found = lrjax.tune(digits(), lrjax.adam(lrjax.cosine_decay_schedule(1.0, 400)), progress=False)
    print(found.verdict)
    figure, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
    found.plot(ax)
    save(figure, into)


def picture_of_changed_plans(into: Path) -> None:
    """A schedule that is extended at different steps, and cooldowns that branch off one that goes on."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained", sharey=True)
    plan, again = lrjax.cosine_decay_schedule(0.1, 1000), lrjax.warmup_cosine_decay_schedule(0.0, 0.05, 100, 1000)
    at_end = lrjax.join_schedules([plan, again], [1000])
    left.plot(at_end(np.arange(2001)), "C3:", label="warmed up again at 1000")
    for at, colour in ((700, "C1"), (300, "C0")):
        extended = lrjax.extend_schedule(plan, at=at, total=1000, new_total=2000)
        left.plot(extended(np.arange(2001)), colour, label=f"extended at {at} to 2000")
    left.plot(plan(np.arange(1001)), "k", lw=2.5, label="the plan: 1000 steps")
    stable = lrjax.warmup_constant_schedule(0.0, 0.1, warmup_steps=100)
    for start in (600, 1100, 1600):
        branch = lrjax.cooldown_schedule(stable, start=start, steps=start // 4)
        steps = np.arange(start, start + start // 4 + 1)
        right.plot(steps, branch(steps), label=f"cooldown at {start}")
    right.plot(stable(np.arange(2001)), "k", lw=2.5, label="the run")
    left.set(ylabel="learning rate", title="extend_schedule")
    right.set(title="cooldown_schedule")
    for ax in (left, right):
        ax.set(xlabel="step", ylim=(0, 0.15))
        ax.legend(frameon=False, fontsize=8, loc="upper right")
    save(figure, into)


def save(figure: Any, into: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder, "plot.png")
        figure.savefig(shot, dpi=120)
        quantised(Image.open(shot), into)


def quantised(image: Image.Image, into: Path) -> None:
    image.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        into, optimize=True
    )


if __name__ == "__main__":
    page_of_compare(NOTEBOOKS / "images" / "compare.png")
    picture_of_tune(NOTEBOOKS / "images" / "tune.png")
    picture_of_changed_plans(NOTEBOOKS / "images" / "changed_plans.png")
