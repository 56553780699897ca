"""The arguments that several commands take, and their types."""

import argparse
import math
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lrjax.tasks.file import BUILT_IN

_LOWEST, _HIGHEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
TASK = "a Python file that defines `task = lrjax.Task(…)` (`lrjax new TASK.py` writes one), or " + ", ".join(BUILT_IN)


def integer_up_to(maximum: int) -> Callable[[str], int]:
    """Returns the argument type of integers from 1 to `maximum`."""

    def convert(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) < 20 and 1 <= int(text) <= maximum):
            raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {maximum:,}, got {reprlib.repr(text)}")
        return int(text)

    return convert


def seed(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) < 2**31):
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 2^31 - 1, got {reprlib.repr(text)}")
    return int(text)


def positive(text: str) -> float:
    number = _number(text)
    if number is None:
        words = f"must be a number > 0 that float32 can hold, from {_LOWEST:.2g} to {_HIGHEST:.2g}"
        raise argparse.ArgumentTypeError(f"{words}, got {reprlib.repr(text)}")
    return number


def finite(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"must be a number, got {reprlib.repr(text)}")
    return number


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if _LOWEST <= number <= _HIGHEST else None


def rates(text: str) -> np.ndarray:
    """Parses rates, LOW:HIGH:COUNT or a list with commas, and sorts them.

    >>> rates("1e-3:1e-1:3").round(6).tolist(), rates("0.1, 0.02").tolist()
    ([0.001, 0.01, 0.1], [0.02, 0.1])
    """
    low, *others = text.split(":")
    if others:
        ends = [_number(x) for x in (low, others[0])]
        count = int(others[1]) if len(others) == 2 and others[1].strip().isdecimal() and len(others[1]) < 6 else 0
        if count >= 2 and ends[0] and ends[1] and ends[0] < ends[1]:
            return np.geomspace(ends[0], ends[1], count)
    else:
        listed = [_number(x) for x in text.split(",")]
        if None not in listed:
            return np.unique(np.array(listed, float))
    words = "must be LOW:HIGH:COUNT with 0 < LOW < HIGH and COUNT from 2 to 99999, or rates > 0 with commas"
    raise argparse.ArgumentTypeError(f"{words}, got {reprlib.repr(text)}")


def add_task(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Adds the task and its batch size."""
    if default is None:
        parser.add_argument("task", metavar="TASK", help=TASK)
    else:
        parser.add_argument("task", metavar="TASK", nargs="?", default=default, help=f"{TASK} (default: {default})")
    parser.add_argument(
        "--batch-size", type=integer_up_to(10_000_000), help="examples of each step (default: the task's)"
    )


def add_steps(parser: argparse.ArgumentParser, steps: str = "those of the task") -> None:
    parser.add_argument("--steps", type=integer_up_to(10_000_000), help=f"updates of each run (default: {steps})")


def add_eval_every(parser: argparse.ArgumentParser, default: str = "after the last step only") -> None:
    words = f"steps between two evaluations of the task's metrics (default: {default})"
    parser.add_argument("--eval-every", type=integer_up_to(10_000_000), metavar="N", help=words)


def add_optimizer(parser: argparse.ArgumentParser) -> None:
    words = "such as adam, 'sgd(momentum=0.9)' (default: the task's, else adam)"
    parser.add_argument("--optimizer", metavar="NAME", help=words)


def add_many(parser: argparse.ArgumentParser, seeds: int, of: str = "rate") -> None:
    """Adds the arguments of commands that train many runs."""
    parser.add_argument(
        "--seeds", type=integer_up_to(1000), default=seeds, help=f"runs of each {of} (default: {seeds})"
    )
    parser.add_argument(
        "--devices", type=integer_up_to(1024), help="of a CPU, that share the runs (default: its cores)"
    )


def add_range(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--low", type=positive, default=1e-7, help="the lowest rate (default: 1e-7)")
    parser.add_argument("--high", type=positive, default=10.0, help="the highest rate (default: 10)")


def add_diverged_above(parser: argparse.ArgumentParser) -> None:
    words = "how many times the size and spread of the untrained loss a diverged run ends above it (default: 10)"
    parser.add_argument("--diverged-above", type=positive, default=10.0, metavar="TIMES", help=words)


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    words = "where it is saved while it runs; the same command goes on there (extra: checkpoint)"
    parser.add_argument("--checkpoint", type=Path, metavar="FOLDER", help=words)


def add_outputs(parser: argparse.ArgumentParser, name: str, saves: str | None = None) -> None:
    """Adds the output files; `saves` describes what --save writes."""
    page = Path(f"lrjax-{name}.html")
    parser.add_argument("--out", type=Path, default=page, metavar="PAGE", help=f"the page ({page})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the numbers (default: as the page, with .json)")
    parser.add_argument("--format", default="table", choices=["table", "json", "csv"], help="what goes to the terminal")
    if saves is not None:
        parser.add_argument("--save", type=Path, metavar="FILE", help=f"{saves}, for lrjax.Run.load")


def finish(parser: Any, run: Callable[[argparse.Namespace], int]) -> None:
    """Sets the function that a parser runs."""
    parser.set_defaults(run=run, parser=parser)
