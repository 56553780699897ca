"""A training task as a Python file, or as a built-in problem: what `sweep`, `tune` and `range_test` are given."""

import importlib.machinery
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax

from lrjax.tasks.base import Task
from lrjax.transforms.base import GradientTransformation

_MODULE = "_lrjax_task"  # the name of the file as a module: it hides nothing
_STEPS = 400  # of a built-in problem, as in `lrjax compare`


class TaskError(ValueError):
    """A task that can't be used; the message says why, in one line."""


class Training(NamedTuple):
    """The parts of a task, by the names of the arguments of `sweep`."""

    name: str
    loss_fn: Callable[..., Any]
    init: Any
    batches: Any
    optimizer: Any = None
    eval_fn: Callable[..., Any] | None = None
    eval_batch: Any = None
    batch_size: int | None = None
    steps: int | None = None
    has_aux: bool = False


def _is_tree(x: Any) -> bool:
    return callable(x) or bool(jax.tree.leaves(x))


def _is_count(x: Any) -> bool:
    return x is None or (isinstance(x, int) and not isinstance(x, bool) and x >= 1)


_PARTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "loss_fn": (callable, "a function (params, batch) -> loss"),
    "init": (_is_tree, "a function from a key to parameters, or a tree of parameters"),
    "batches": (
        lambda x: x is not None,
        "arrays of examples with a `batch_size`, arrays with a leading step axis, a function from the step to a batch, "
        "or a list of batches",
    ),
    "optimizer": (
        lambda x: x is None or callable(x) or isinstance(x, GradientTransformation),
        "an lrjax optimizer such as lrjax.adam(1e-3), or a function from a rate to any optimizer",
    ),
    "eval_fn": (lambda x: x is None or callable(x), "a function (params, eval_batch) -> a loss, lower is better"),
    "eval_batch": (lambda x: True, "what `eval_fn` takes"),
    "batch_size": (_is_count, "a whole number >= 1"),
    "steps": (_is_count, "a whole number >= 1"),
    "has_aux": (lambda x: isinstance(x, bool), "True or False"),
}
_NEEDED = ("loss_fn", "init", "batches")


def load_training(path: Path) -> Training:
    """The task that a Python file defines.

    Raises:
      TaskError: there is no such file, it can't be imported, or a part of it is missing or of the wrong kind.
    """
    names = vars(_imported(path))
    for name, (fits, words) in _PARTS.items():
        if name in _NEEDED and name not in names:
            raise TaskError(f"{path}: `{name}` is missing, which must be {words}.")
        if name in names and not fits(names[name]):
            raise TaskError(f"{path}: `{name}` must be {words}, got {type(names[name]).__name__}.")
    if names.get("eval_batch") is not None and names.get("eval_fn") is None:
        raise TaskError(f"{path}: `eval_fn` is missing, which must be {_PARTS['eval_fn'][1]}.")
    return Training(path.name, **{name: names[name] for name in _PARTS if name in names})


def built_in(task: Task) -> Training:
    """A built-in problem: its training loss decides."""
    return Training(task.name, task.loss_fn, task.init, task.train, batch_size=task.batch_size, steps=_STEPS)


def template(name: str) -> str:
    """A short task that runs as it is, with comments that say what to change; for a file of this name."""
    text = resources.files("lrjax.tasks").joinpath("template.py.txt").read_text(encoding="utf-8")
    return text.replace("{name}", name if re.fullmatch(r"[\w.-]+", name) else "FILE")


def _imported(path: Path) -> ModuleType:
    """The file as a module, which can import its neighbours, as `python FILE` does."""
    if not path.is_file():
        raise TaskError(f"{path}: {'a directory, not a file' if path.is_dir() else 'no such file'}.")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    loader = importlib.machinery.SourceFileLoader(_MODULE, str(path.resolve()))
    spec = importlib.util.spec_from_loader(_MODULE, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module  # dataclasses and pickle look there
    try:
        loader.exec_module(module)
    except SyntaxError as error:
        if error.filename not in (None, loader.path):  # in a neighbour
            raise TaskError(f"{path}: {error.filename}, line {error.lineno}: {error.msg}.") from None
        line = "" if error.lineno is None else f"line {error.lineno}: "
        raise TaskError(f"{path} is not Python: {line}{error.msg}.") from None
    except (Exception, SystemExit) as error:
        raise TaskError(f"{path}, {in_file(error, path) or f'while it is imported: {said(error)}'}.") from error
    return module


def in_file(error: BaseException, path: Path) -> str | None:
    """The line of the file in which an error came up, and what it was; None where it came up elsewhere."""
    name = str(path.resolve())
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == name]
    if not lines:
        return None
    return f"line {lines[-1]}: {said(error)}"


def said(error: BaseException) -> str:
    """An error in a line; JAX explains at length, and the first paragraph says it."""
    words = " ".join(str(error).split("\n\n")[0].split("\n---")[0].split()).removesuffix(".")
    words = words if len(words) <= 300 else words[:299] + "…"
    return f"{type(error).__name__}{f': {words}' if words else ''}"
