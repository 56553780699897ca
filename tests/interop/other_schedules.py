"""The schedules of PyTorch and Keras that the pages name, and their rates.

A page's table is the list: `their call | ours | how long they are the same`. Their rates stand in a file beside this
one, so that the tests need neither library. Written by `python -m tests.interop.other_schedules torch` (or `keras`).
"""

import argparse
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import lrjax

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
PAGES = {"torch": "from_pytorch.md", "keras": "from_keras.md"}
STEPS = 150  # of a curve that never differs
ROW = re.compile(r"^\| `(.+?)`(, its momentum)? \| `(.+?)` \| (?:always|to step (\d+).*) \|$", flags=re.MULTILINE)


class Row(NamedTuple):
    theirs: str
    ours: str
    is_momentum: bool
    steps: int  # that are compared

    @property
    def name(self) -> str:
        return self.theirs + (", its momentum" if self.is_momentum else "")

    def curve(self) -> np.ndarray:
        """The rates of lrjax."""
        return np.asarray(lrjax.as_schedule(eval(self.ours, dict(vars(lrjax))))(np.arange(self.steps)))


def rows(library: str) -> list[Row]:
    text = (NOTEBOOKS / PAGES[library]).read_text(encoding="utf-8")
    return [
        Row(theirs, ours, bool(momentum), int(last) + 1 if last else STEPS)
        for theirs, momentum, ours, last in ROW.findall(text)
    ]


def of_torch(row: Row) -> list[float]:
    import torch
    from torch.optim import lr_scheduler, swa_utils

    opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=0.1, momentum=0.9)
    scheduler = eval(row.theirs, {**vars(lr_scheduler), "SWALR": swa_utils.SWALR, "opt": opt})
    rates = []
    for _ in range(row.steps):
        rates.append(float(opt.param_groups[0]["momentum" if row.is_momentum else "lr"]))
        opt.step()
        if len(rates) < row.steps:  # the last one may be the last that it allows
            scheduler.step()
    return rates


def of_keras(row: Row) -> list[float]:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    from keras.optimizers import schedules

    schedule = eval(row.theirs, dict(vars(schedules)))
    return [float(schedule(step)) for step in range(row.steps)]


LIBRARIES: dict[str, Callable[[Row], list[float]]] = {"torch": of_torch, "keras": of_keras}


def path_of(library: str) -> Path:
    return Path(__file__).with_name(f"{library}_schedules.json")


def stored(library: str) -> dict[str, Any]:
    return json.loads(path_of(library).read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.interop.other_schedules", description=__doc__)
    parser.add_argument("library", choices=LIBRARIES)
    library = parser.parse_args().library
    curves = {row.name: [float(f"{x:.7g}") for x in LIBRARIES[library](row)] for row in rows(library)}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(curve)}" for name, curve in curves.items())
    path_of(library).write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
