"""Loads task files, and lists the built-in tasks."""

import dataclasses
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

from lrjax.tasks.diabetes import diabetes
from lrjax.tasks.digits import digits
from lrjax.tasks.text import text
from lrjax.training.task import Task
from lrjax.transforms.base import GradientTransformation

BUILT_IN: dict[str, Callable[[], Task]] = {"digits": digits, "diabetes": diabetes, "text": text}
FRAMEWORKS = ("jax", "flax", "nnx", "equinox")
_MODULE = "_lrjax_task"  # the module name of a task file, which shadows no other module
_PARTS = ("loss_fn", "batches", "eval_fn", "eval_batch", "has_aux")  # names that suggest a task in a file without one
_TASK = "`task = lrjax.Task(loss_fn, init, data, …)`"
_OPTIMIZER = "an lrjax optimizer such as lrjax.adam(1e-3), or a function from a rate to any optimizer"


class TaskError(ValueError):
    """A task file that can't be used; the message says why, in one line."""


class TaskFile(NamedTuple):
    """The contents of a task file."""

    task: Task
    optimizer: Any = None


def load_task(path: Path) -> TaskFile:
    """Imports a task file, and returns its `task` and, if it has one, its `optimizer`; ignores all other names.

    Raises:
      TaskError: the file doesn't exist, can't be imported, or defines something of the wrong type.
    """
    names = vars(_imported(path))
    if "task" not in names:
        parts = [f"`{name}`" for name in _PARTS if name in names]
        reason = f"`task` is missing: it defines {', '.join(parts)}, which" if parts else "`task` is missing, which"
        raise TaskError(f"{path}: {reason} must be {'parts of one ' if parts else ''}{_TASK}.")
    task, optimizer = names["task"], names.get("optimizer")
    if not isinstance(task, Task):
        raise TaskError(f"{path}: `task` must be a lrjax.Task, got {type(task).__name__}.")
    if not (optimizer is None or callable(optimizer) or isinstance(optimizer, GradientTransformation)):
        raise TaskError(f"{path}: `optimizer` must be {_OPTIMIZER}, got {type(optimizer).__name__}.")
    has_name = task.name != Task.__dataclass_fields__["name"].default
    return TaskFile(task if has_name else dataclasses.replace(task, name=path.name), optimizer)


def template(name: str, framework: str = "jax") -> str:
    """Returns the source of a short task that runs unchanged, with comments that say what to change.

    Args:
      name: of the file.
      framework: of the model, one of `FRAMEWORKS`.
    """
    part = lambda name: resources.files("lrjax.tasks").joinpath(f"templates/{name}.py.txt").read_text(encoding="utf-8")
    imports, model = part(framework).split("---\n")
    head = part("head").replace("{imports}", imports)
    return (head + model + part("tail")).replace("{name}", name if re.fullmatch(r"[\w.-]+", name) else "FILE")


def _imported(path: Path) -> ModuleType:
    """The file as a module, which can import its neighbours while it is loaded, as `python FILE` does."""
    if not path.is_file():
        raise TaskError(f"{path}: {'a directory, not a file' if path.is_dir() else 'no such file'}.")
    loader = importlib.machinery.SourceFileLoader(_MODULE, str(path.resolve()))
    spec = importlib.util.spec_from_loader(_MODULE, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module  # dataclasses and pickle look there
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        loader.exec_module(module)
    except SyntaxError as error:
        if error.filename not in (None, loader.path):  # in a module that it imports
            raise TaskError(f"{path}: {error.filename}, line {error.lineno}: {error.msg}.") from None
        line = "" if error.lineno is None else f"line {error.lineno}: "
        raise TaskError(f"{path} is not Python: {line}{error.msg}.") from None
    except (Exception, SystemExit) as error:
        raise TaskError(f"{path}, {in_file(error, path) or f'while it is imported: {one_line(error)}'}.") from error
    finally:
        if folder in sys.path:  # the file may change it too
            sys.path.remove(folder)
    return module


def in_file(error: BaseException, path: Path) -> str | None:
    """Returns the line of the file in which an error was raised, and the error; None if it was raised elsewhere."""
    name = str(path.resolve())
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == name]
    if not lines:
        return None
    return f"line {lines[-1]}: {one_line(error)}"


def one_line(error: BaseException) -> str:
    """Formats an error in one line, with the first paragraph of its message: those of JAX are long."""
    words = " ".join(str(error).split("\n\n")[0].split("\n---")[0].split()).removesuffix(".")
    words = words if len(words) <= 300 else words[:299] + "…"
    return f"{type(error).__name__}{f': {words}' if words else ''}"
