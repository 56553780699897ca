"""What the commands share: tasks and optimizers by name, refusals in one line, and where results go."""

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
from lrjax.tasks.file import BUILT_IN, TaskError, TaskFile, in_file, load_task, said
from lrjax.training.batches import known_steps
from lrjax.training.divergence import ABOVE
from lrjax.training.files import write_file
from lrjax.training.task import Task
from lrjax.training.train import Run
from lrjax.value import Value

_FUNCTION = re.compile(r"^(compare|range_test|sweep|train|tune): ")  # the command stands before it already


class Refused(Exception):
    """Something the user can put right; the message says what."""


@contextlib.contextmanager
def refusals(task: str) -> Iterator[None]:
    """Turns what the user can put right into `Refused`: a bad argument, a missing extra, an error in a task file."""
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
        if isinstance(error, (ValueError, ImportError)):  # the library's own, which name the argument
            raise Refused(_FUNCTION.sub("", str(error))) from error
        if isinstance(error, TypeError):  # from JAX, about the task's functions
            raise Refused(f"{task}: {said(error)}.") from error
        raise


def load(arguments: argparse.Namespace) -> TaskFile:
    """The task that is named, with the batch size that was given."""
    name = arguments.task
    found = TaskFile(BUILT_IN[name]()) if name in BUILT_IN else load_task(Path(name))
    if arguments.batch_size is not None:
        found = found._replace(task=dataclasses.replace(found.task, batch_size=arguments.batch_size))
    return found


def optimizer_of(arguments: argparse.Namespace, found: TaskFile) -> Any:
    """The one that is named, else the task file's, else adam."""
    if arguments.optimizer is not None:
        return parse_optimizer(arguments.optimizer)
    return parse_optimizer("adam") if found.optimizer is None else found.optimizer


def steps_of(arguments: argparse.Namespace, task: Task) -> int:
    steps = arguments.steps or known_steps(task)
    if steps is None:
        raise Refused(f"{arguments.task}: `steps` is missing, the updates of a run: give the Task some, or --steps.")
    return steps


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


def setup_of(
    arguments: argparse.Namespace, task: Task, optimizer: Any, losses: Any, decides: str | None = None
) -> Setup:
    """What was searched; the losses are [..., seeds, steps]."""
    words, (seeds, steps) = arguments.optimizer or described(optimizer), losses.shape[-2:]
    above = getattr(arguments, "diverged_above", ABOVE)
    return Setup(task.name, words, steps, seeds, decides or task.decides, arguments.typed, above)


def use_devices(count: int | None) -> None:
    """Lets a CPU be as many devices as it has cores, or `count`: many runs are spread over them. Where JAX has begun
    already, or somebody has said how many, that stays."""
    if count is None:
        if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
            return
        if jax.config.jax_num_cpu_devices >= 0:  # type: ignore[attr-defined]
            return
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(RuntimeError):  # JAX has begun
        jax.config.update("jax_num_cpu_devices", count)


def check_outputs(arguments: argparse.Namespace) -> None:
    """Asks before the work, not after, whether the files can be written."""
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
    except (OSError, ValueError) as error:  # no name for a file
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
    """Prints and writes what was found; 1 where there is no model for --save. One file that cannot be written keeps no
    other from being written."""
    match arguments.format:
        case "json":
            print(findings.to_json())
        case "csv":
            print(findings.to_csv(), end="")
        case _:
            print(findings_text(findings, columns(), _has_colours(), ascii_only()))
    save = getattr(arguments, "save", None)
    refused = []
    for path, content in (
        (arguments.out, page.encode()),
        (arguments.json, findings.to_json().encode() + b"\n"),
        *([(save, run.to_bytes())] if save is not None and run is not None else []),
    ):
        try:
            with _writing(path):
                write_file(path, content)
        except Refused as error:
            refused.append(str(error))
    if refused:
        raise Refused(" ".join(refused))
    if save is not None and run is None:
        print(f"did not write {save}: no run is worth keeping", file=sys.stderr)
        return 1
    return 0


def columns() -> int:
    """The width of the terminal; 80 where there is none."""
    return shutil.get_terminal_size((80, 24)).columns


def ascii_only() -> bool:
    """Whether the locale, or the encoding of what is printed, has no more."""
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
