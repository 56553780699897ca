"""Helpers of the commands: tasks and optimizers by name, errors in one line, and output files."""

import argparse
import contextlib
import dataclasses
import os
import re
import reprlib
import shutil
import sys
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import jax

from lrjax.parse import parse_optimizer
from lrjax.report.findings import Findings, Setup
from lrjax.report.terminal import findings_text
from lrjax.schedules.base import Schedule
from lrjax.tasks.file import BUILT_IN, TaskError, TaskFile, in_file, load_task, one_line
from lrjax.training.batches import known_steps
from lrjax.training.divergence import DIVERGED_ABOVE
from lrjax.training.files import write_file
from lrjax.training.result import Run
from lrjax.training.task import Task
from lrjax.value import Value

_FUNCTION = re.compile(r"^(compare|range_test|sweep|train|tune): ")  # redundant after the name of the command


class Refused(Exception):
    """An error that the user can fix, with the reason as its message."""


@contextlib.contextmanager
def refusals(task: str) -> Iterator[None]:
    """Raises `Refused` for errors that the user can fix: a bad argument, a missing extra, an error in a task file."""
    path = None if task in BUILT_IN else Path(task)
    try:
        yield
    except TaskError as error:
        if path is not None and not path.exists() and "." not in path.name:
            raise Refused(f"{error} Built-in tasks are: {', '.join(BUILT_IN)}.") from None
        raise Refused(str(error)) from error
    except Exception as error:
        if path is not None and (where := in_file(error, path)):
            raise Refused(f"{path}, {where}.") from error
        if isinstance(error, (ValueError, ImportError)):  # raised by lrjax, with the name of the argument
            raise Refused(_FUNCTION.sub("", str(error))) from error
        if isinstance(error, TypeError):  # raised by JAX, about the task's functions
            raise Refused(f"{task}: {one_line(error)}.") from error
        raise


def load(arguments: argparse.Namespace) -> TaskFile:
    """Loads the task of the arguments, with their batch size."""
    name = arguments.task
    task_file = TaskFile(BUILT_IN[name]()) if name in BUILT_IN else load_task(Path(name))
    if arguments.batch_size is not None:
        task_file = task_file._replace(task=dataclasses.replace(task_file.task, batch_size=arguments.batch_size))
    return task_file


def optimizer_of(arguments: argparse.Namespace, task_file: TaskFile) -> Any:
    """Returns the optimizer of the arguments, else of the task file, else adam."""
    if arguments.optimizer is not None:
        return parse_optimizer(arguments.optimizer)
    return parse_optimizer("adam") if task_file.optimizer is None else task_file.optimizer


def steps_of(arguments: argparse.Namespace, task: Task) -> int:
    steps = arguments.steps or known_steps(task)
    if steps is None:
        raise Refused(f"{arguments.task}: `steps` is missing, the updates of a run: give the Task some, or --steps.")
    return steps


def described(optimizer: Any) -> str:
    """Describes an optimizer by the arguments that differ from their defaults, without a fixed rate, which is searched.

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


def setup_of(
    arguments: argparse.Namespace, task: Task, optimizer: Any, losses: Any, decides: str | None = None
) -> Setup:
    """Returns the setup of a search; `losses` are [..., seeds, steps]."""
    words, (seeds, steps) = arguments.optimizer or described(optimizer), losses.shape[-2:]
    above = getattr(arguments, "diverged_above", DIVERGED_ABOVE)
    return Setup(task.name, words, steps, seeds, decides or task.decides, arguments.typed, above)


def use_devices(count: int | None) -> None:
    """Makes the CPU `count` devices, by default one for each core, over which runs are distributed. Does nothing where
    JAX is initialised already, or the number of devices is configured."""
    if count is None:
        if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
            return
        if jax.config.jax_num_cpu_devices >= 0:  # type: ignore[attr-defined]
            return
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(RuntimeError):  # JAX is initialised
        jax.config.update("jax_num_cpu_devices", count)


def check_outputs(arguments: argparse.Namespace) -> None:
    """Checks before the work that the output files can be written."""
    seen: dict[Path, str] = {}
    for option in ("--out", "--json", "--save"):
        path = getattr(arguments, option.removeprefix("--"), None)
        if path is None:
            if option != "--json":
                continue
            path = arguments.json = arguments.out.with_suffix(".json")
        check_writable(path, option)
        if path.resolve() in seen:
            raise Refused(f"`{option}` and `{seen[path.resolve()]}` must be two files, got {str(path)!r} for both.")
        seen[path.resolve()] = option


def check_writable(path: Path, option: str) -> None:
    try:
        if path.is_dir():
            raise Refused(f"`{option}` must be a file, got the directory {str(path)!r}.")
        if not path.parent.is_dir():
            raise Refused(f"`{option}` must be in a directory that exists, got {str(path)!r}.")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise Refused(f"`{option}` must be writable, got {str(path)!r}.")
    except (OSError, ValueError) as error:  # not a valid file name
        reason = getattr(error, "strerror", None) or error
        raise Refused(f"`{option}` must be the name of a file, got {reprlib.repr(str(path))}: {reason}.") from None


def write(path: Path, content: str) -> None:
    with _writing(path):
        write_file(path, content.encode())


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Refused(f"could not write {str(path)!r}: {error.strerror}.") from None
    print(f"wrote {path}", file=sys.stderr)


def publish(arguments: argparse.Namespace, findings: Findings, page: str, run: Run | None = None) -> int:
    """Prints and writes findings. Returns 1 where there is no model for --save. Writes all other files where one can't
    be written."""
    match arguments.format:
        case "json":
            print(findings.to_json())
        case "csv":
            print(findings.to_csv(), end="")
        case _:
            print(findings_text(findings, columns(), _has_colours(), ascii_only()))
    save = getattr(arguments, "save", None)
    errors = []
    for path, content in (
        (arguments.out, page.encode()),
        (arguments.json, findings.to_json().encode() + b"\n"),
        *([(save, run.to_bytes())] if save is not None and run is not None else []),
    ):
        try:
            with _writing(path):
                write_file(path, content)
        except Refused as error:
            errors.append(str(error))
    if errors:
        raise Refused(" ".join(errors))
    if save is not None and run is None:
        print(f"did not write {save}: no run is worth keeping", file=sys.stderr)
        return 1
    return 0


def columns() -> int:
    """Returns the width of the terminal; 80 where there is none."""
    return shutil.get_terminal_size((80, 24)).columns


def ascii_only() -> bool:
    """Returns whether the locale, or the encoding of stdout, is limited to ASCII."""
    names = (os.environ.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))
    try:
        "±─⠿".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return True
    return next((name for name in names if name), "") in ("C", "POSIX")


def _has_colours() -> bool:
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return sys.stdout.isatty() and (sys.platform != "win32" or "WT_SESSION" in os.environ)
