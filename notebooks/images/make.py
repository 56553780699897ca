"""Makes the two pictures of the README: the page of `lrjax compare`, and the plot of `tune`.

Run from the root of the repository, with Chromium installed: `python notebooks/images/make.py`
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image

import lrjax
from lrjax.tasks.digits import digits

HERE = Path(__file__).parent
WIDTH, HEIGHT = 1240, 1300  # of the part of the page that is shown
COLOURS = 128  # by maximum coverage, or the thin lines lose theirs


def picture_of_compare(into: Path) -> None:
    """A real run, its page in a browser, and the page up to the end of its first charts."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "lrjax", "compare"], cwd=folder, check=True)
        shot = Path(folder, "page.png")
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT + 100}"]
        page = Path(folder, "lrjax-compare.html").as_uri()
        subprocess.run([browser, *options, f"--screenshot={shot}", page], check=True)
        quantised(Image.open(shot).crop((0, 0, WIDTH, HEIGHT)), into)


def picture_of_tune(into: Path) -> None:
    """What the README's call of `tune` plots."""
    found = lrjax.tune(digits(), lrjax.adam(lrjax.cosine_decay_schedule(1.0, 400)), progress=False)
    print(found.verdict)
    figure, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
    found.plot(ax)
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder, "plot.png")
        figure.savefig(shot, dpi=120)
        quantised(Image.open(shot), into)


def quantised(image: Image.Image, into: Path) -> None:
    image.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        into, optimize=True
    )


if __name__ == "__main__":
    picture_of_compare(HERE / "compare.png")
    picture_of_tune(HERE / "tune.png")
