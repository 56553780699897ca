"""Runs the tests that are in Optax's wheel, with lrjax's names in the place of Optax's."""

import builtins
import re
import sys
import types
import unittest
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax
from absl import flags

import lrjax
from tests.interop.optax_names import ROWS, attribute

PACKAGE = Path(optax.__file__).parent
NAMES = {attribute(name) for name, row in ROWS.items() if row.verdict in ("same", "better")}
NAMES |= {attribute(name) for name in ROWS if hasattr(lrjax, attribute(name)) and attribute(name)[0].isupper()}
# what stays Optax's: how it tests, and what lrjax doesn't have
THEIRS = re.compile(r"optax\.(_src\.(test_utils|numerics|utils|linesearch)|losses|tree|tree_utils|microbatching)\b")


class Outcome(NamedTuple):
    passed: list[str]
    failed: dict[str, str]  # by test: the end of its traceback


class Shadow(types.ModuleType):
    """A module of Optax whose public names are lrjax's, where lrjax has them."""

    def __init__(self, module: types.ModuleType):
        super().__init__(module.__name__)
        vars(self)["_module"] = module

    def __getattr__(self, name: str) -> Any:
        thing = getattr(self._module, name)
        if isinstance(thing, types.ModuleType):
            return shadowed(thing)
        return getattr(lrjax, name) if name in NAMES else thing


def shadowed(module: types.ModuleType) -> types.ModuleType:
    is_optaxs = module.__name__.split(".")[0] == "optax" and not THEIRS.match(module.__name__)
    return Shadow(module) if is_optaxs else module


def _import(name: str, *rest: Any) -> types.ModuleType:
    return shadowed(builtins.__import__(name, *rest))


def load(path: str) -> types.ModuleType:
    """The module of tests at this path of the package."""
    module = types.ModuleType(f"shadowed_{path.replace('/', '_').removesuffix('.py')}")
    vars(module)["__builtins__"] = {**vars(builtins), "__import__": _import}
    sys.modules[module.__name__] = module  # where dataclasses look for it
    exec(compile((PACKAGE / path).read_text(), PACKAGE / path, "exec"), vars(module))
    return module


class _Result(unittest.TestResult):
    def __init__(self) -> None:
        super().__init__()
        self.passed: list[str] = []
        self.failed: dict[str, str] = {}

    def addSuccess(self, test: Any) -> None:
        self.passed.append(label(test))

    def addFailure(self, test: Any, err: Any) -> None:
        self.failed.setdefault(label(test), self._exc_info_to_string(err, test))  # type: ignore[attr-defined]

    addError = addFailure

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            self.addFailure(test, err)


def label(test: Any) -> str:
    """Its class and method, and its parameters as they are written: without addresses."""
    name = re.sub(r" at 0x[0-9a-f]+", "", test.id())
    return name.removeprefix(f"{type(test).__module__}.")


def run(path: str, selected: str = "") -> Outcome:
    """Runs those tests at this path of the package in whose label the regular expression is found."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    module = load(path)
    tests = [test for suite in unittest.defaultTestLoader.loadTestsFromModule(module) for test in suite]
    result = _Result()
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        for test in tests:
            if re.search(selected, label(test)):
                test(result)
    del sys.modules[module.__name__]
    jax.clear_caches()
    return Outcome([name for name in result.passed if name not in result.failed], result.failed)
