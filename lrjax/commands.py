"""The searches of the command line, `find`, `sweep` and `tune`: from what was typed to findings and a page."""

import argparse
import contextlib
import math
import os
import reprlib
import shlex
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lrjax.compare import TASKS
from lrjax.parse import parse_optimizer
from lrjax.report.findings import Findings, Search, found, swept, tuned
from lrjax.report.search import find_page, sweep_page, tune_page
from lrjax.schedules.base import Schedule
from lrjax.search.batches import steps_of
from lrjax.search.range_test import range_test
from lrjax.search.sweep import sweep
from lrjax.search.tune import tune
from lrjax.tasks.file import TaskError, Training, built_in, in_file, load_training, said
from lrjax.value import Value

_TASK = (
    "a Python file that defines `loss_fn`, `init` and `batches` (`lrjax new TASK.py` writes one), or "
    + " or ".join(TASKS)
)


class Refused(Exception):
    """Something the user can put right; the message says what."""


Found = tuple[Findings, str]  # with the page


def add_searches(commands: Any) -> list[argparse.ArgumentParser]:
    """The parsers of the searches; each sets `search`, a function from the arguments to what was found."""
    look = commands.add_parser(
        "find",
        help="one run whose rate climbs: what the rules of a range test suggest",
        description="Trains while the rate climbs, and reads rates off the curve of the losses by several rules.",
    )
    _add_range(look)
    _add_common(look, _find, "find", seeds=5, steps="100")
    many = commands.add_parser(
        "sweep",
        help="train a task with many learning rates",
        description="Trains a task with many learning rates and several seeds: how the loss depends on the rate.",
    )
    many.add_argument(
        "--learning-rates",
        type=rates,
        default=rates("1e-5:1:16"),
        metavar="RATES",
        help="LOW:HIGH:COUNT at equal ratios, or rates with commas (default: 1e-5:1:16)",
    )
    many.add_argument("--checkpoint", type=Path, metavar="FOLDER", help="where an interrupted sweep goes on")
    _add_common(many, _sweep, "sweep", seeds=3, steps="those of the task")
    best = commands.add_parser(
        "tune",
        help="the best learning rate for a task, for a part of what a grid costs",
        description="Finds the best learning rate for whole runs of a task; bad rates are given up early.",
    )
    _add_range(best)
    best.add_argument("--budget", type=float, default=0.25, help="the most it costs, as a part of the grid (0.25)")
    _add_common(best, _tune, "tune", seeds=3, steps="those of the task")
    return [look, many, best]


def _add_range(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--low", type=positive, default=1e-7, help="the lowest rate (default: 1e-7)")
    parser.add_argument("--high", type=positive, default=10.0, help="the highest rate (default: 10)")


def _add_common(
    parser: argparse.ArgumentParser, search: Callable[..., Found], name: str, seeds: int, steps: str
) -> None:
    parser.add_argument("task", metavar="TASK", help=_TASK)
    parser.add_argument(
        "--optimizer", metavar="NAME", help="such as adam, 'sgd(momentum=0.9)' (default: the task's, else adam)"
    )
    parser.add_argument("--steps", type=whole(10_000_000), help=f"updates of each run (default: {steps})")
    parser.add_argument("--seeds", type=whole(1000), default=seeds, help=f"runs of each rate (default: {seeds})")
    parser.add_argument("--batch-size", type=whole(10_000_000), help="examples of each step (default: the task's)")
    parser.add_argument("--devices", type=whole(1024), help="of a CPU, that share the runs (default: its cores)")
    page = Path(f"lrjax-{name}.html")
    parser.add_argument("--out", type=Path, default=page, metavar="PAGE", help=f"the page ({page})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the numbers (default: as the page, with .json)")
    parser.add_argument("--format", default="table", choices=["table", "json", "csv"], help="what goes to the terminal")
    parser.set_defaults(search=search)


def whole(most: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) < 20 and 1 <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {most:,}, got {reprlib.repr(text)}")
        return int(text)

    return convert


def positive(text: str) -> float:
    number = _number(text)
    if number is None:
        raise argparse.ArgumentTypeError(f"must be a number > 0, got {reprlib.repr(text)}")
    return number


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None


def rates(text: str) -> np.ndarray:
    """Ascending rates, from LOW:HIGH:COUNT or a list with commas.

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


def use_devices(count: int | None) -> None:
    """Lets a CPU be as many devices as it has cores, or `count`: the runs of a search are spread over them. Where JAX
    has begun already, or somebody has said how many, that stays."""
    if count is None:
        if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
            return
        if jax.config.jax_num_cpu_devices >= 0:  # type: ignore[attr-defined]
            return
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(RuntimeError):  # JAX has begun
        jax.config.update("jax_num_cpu_devices", count)


def run_search(arguments: argparse.Namespace, command: str) -> Found:
    """What the search finds, and its page.

    Raises:
      Refused: the task or an argument can't be used.
    """
    use_devices(arguments.devices)
    path = None if arguments.task in TASKS else Path(arguments.task)
    try:
        given = parse_optimizer(arguments.optimizer) if arguments.optimizer is not None else None
        training = built_in(TASKS[arguments.task]()) if path is None else load_training(path)
        if arguments.batch_size is not None:
            training = training._replace(batch_size=arguments.batch_size)
        if given is not None:
            training = training._replace(optimizer=given)
        elif training.optimizer is None:
            training = training._replace(optimizer=parse_optimizer("adam"))
        return arguments.search(arguments, training, command)
    except TaskError as error:
        if path is not None and not path.exists() and "." not in path.name:
            raise Refused(f"{error} Built-in tasks are: {', '.join(TASKS)}.") from None
        raise Refused(str(error)) from error
    except Exception as error:
        if path is not None and (where := in_file(error, path)):
            raise Refused(f"{path}, {where}.") from error
        if isinstance(error, (ValueError, ImportError)):  # the library's own, which name the argument
            raise Refused(str(error)) from error
        if isinstance(error, TypeError):  # from JAX, about the task's functions
            raise Refused(f"{arguments.task}: {said(error)}.") from error
        raise


def _find(arguments: argparse.Namespace, task: Training, command: str) -> Found:
    length = steps_of(arguments.command, task.batches, task.batch_size)
    result = range_test(
        task.loss_fn,
        task.init,
        task.batches,
        task.optimizer,
        low=arguments.low,
        high=arguments.high,
        steps=arguments.steps or min(100, length or 100),
        seeds=arguments.seeds,
        batch_size=task.batch_size,
        has_aux=task.has_aux,
        progress=True,
    )
    findings = found(_searched(arguments, task._replace(eval_fn=None), result.losses.shape[1], command), result)
    return findings, find_page(findings, result)


def _sweep(arguments: argparse.Namespace, task: Training, command: str) -> Found:
    steps = _steps(arguments, task)
    result = sweep(
        task.loss_fn,
        task.init,
        task.batches,
        task.optimizer,
        learning_rates=arguments.learning_rates,
        steps=steps,
        seeds=arguments.seeds,
        batch_size=task.batch_size,
        eval_fn=task.eval_fn,
        eval_batch=task.eval_batch,
        has_aux=task.has_aux,
        checkpoint=arguments.checkpoint,
    )
    findings = swept(_searched(arguments, task, steps, command), result)
    return findings, sweep_page(findings, result)


def _tune(arguments: argparse.Namespace, task: Training, command: str) -> Found:
    steps = _steps(arguments, task)
    result = tune(
        task.loss_fn,
        task.init,
        task.batches,
        task.optimizer,
        steps=steps,
        low=arguments.low,
        high=arguments.high,
        budget=arguments.budget,
        seeds=arguments.seeds,
        batch_size=task.batch_size,
        eval_fn=task.eval_fn,
        eval_batch=task.eval_batch,
        has_aux=task.has_aux,
    )
    findings = tuned(_searched(arguments, task, steps, command), result, arguments.budget)
    return findings, tune_page(findings, result)


def _steps(arguments: argparse.Namespace, task: Training) -> int:
    steps = arguments.steps or task.steps
    steps = steps or steps_of(arguments.command, task.batches, task.batch_size)
    if steps is None:
        raise Refused(f"{arguments.task}: `steps` is missing, the updates of a run: define it there, or give --steps.")
    return steps


def _searched(arguments: argparse.Namespace, task: Training, steps: int, command: str) -> Search:
    optimizer = arguments.optimizer or described(task.optimizer)
    again = [arguments.task, *(["--optimizer", arguments.optimizer] if arguments.optimizer else [])]
    return Search(
        arguments.task, optimizer, steps, arguments.seeds, task.eval_fn is not None, command, shlex.join(again)
    )


def described(optimizer: Any) -> str:
    """An optimizer in few words: what differs from its defaults, without its rate, which is searched.

    >>> import lrjax
    >>> described(lrjax.sgd(0.1, momentum=0.9))
    'sgd(momentum=0.9)'
    """
    if not isinstance(optimizer, Value):
        return getattr(optimizer, "__name__", type(optimizer).__name__)
    words = []
    for name, parameter in signature(type(optimizer)).parameters.items():
        value = vars(optimizer).get(name)
        is_searched = name == "learning_rate" and not isinstance(value, Schedule)
        if name in vars(optimizer) and not is_searched and repr(value) != repr(parameter.default):
            words.append(f"{name}={value!r}")
    return type(optimizer).__name__ + (f"({', '.join(words)})" if words else "")
