"""What `lrjax reference` prints: the parts of a name's source and docstring."""

import dataclasses
import inspect
import re
from typing import Annotated, get_origin

import pytest

import lrjax as L
from lrjax.__main__ import main
from lrjax.report.reference import argument_types, families, module_summary, text_of, with_methods
from lrjax.signatures import call_signatures
from tests.everything import PUBLIC
from tests.test_main import fails

FAMILIES = families(PUBLIC)
ENTRIES = {entry.name: entry for entry in with_methods(FAMILIES)}


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")


def test_every_public_name_is_in_the_family_of_its_file():
    assert set(PUBLIC) == {entry.name for entries in FAMILIES.values() for entry in entries}
    for module, entries in FAMILIES.items():
        assert module_summary(module)
        own = [e.thing for e in entries if inspect.isfunction(e.thing) and e.thing.__module__ == module]
        lines = [thing.__code__.co_firstlineno for thing in own]
        assert lines == sorted(lines)
    folders = [module.split(".")[1] for module in FAMILIES]
    assert list(dict.fromkeys(folders))[:5] == ["schedules", "optimizers", "transforms", "training", "search"]


@pytest.mark.parametrize("name", ENTRIES)
def test_a_signature_is_as_written(name):
    signature = ENTRIES[name].signature
    assert name in signature and "Annotated" not in signature and "0x" not in signature


@pytest.mark.parametrize("name", [n for n, x in PUBLIC.items() if isinstance(x, type) and "__wrapped__" in vars(x)])
def test_the_parts_are_the_whole_docstring(name):
    thing = PUBLIC[name]
    words = lambda text: sorted(text.split())
    assert words(" ".join(text for _, text in ENTRIES[name].parts)) == words(inspect.getdoc(thing) or "") or (
        thing.__name__ != name and ENTRIES[name].summary == f"The same as `{thing.__name__}`."
    )


def test_signatures_have_markers_defaults_and_overloads():
    adamw = ENTRIES["adamw"].signature.split("\n")
    assert adamw[0] == "adamw(" and adamw[-1] == ") -> GradientTransformation"
    assert "    eps: NonNegative = 1e-8," in adamw and adamw[-3:-1] == ["    *,", "    nesterov: bool = False,"]
    assert ENTRIES["schedule"].signature.count("schedule(") == 2
    assert "Concatenate[Any, Arguments], Any],\n    /,\n) -> " in ENTRIES["schedule"].signature
    assert ENTRIES["Run.final"].signature == "Run.final -> float"
    assert ENTRIES["Run.load"].signature.endswith("(path: str | PathLike[str], task: Task | None = None) -> Run")
    assert "\n    interrupted: bool = False\n" in ENTRIES["Run"].signature
    assert "  diverged: by the rule of `sweep`" in text_of(ENTRIES["Run"], 80)
    assert ENTRIES["ScalarOrSchedule"].signature.startswith("ScalarOrSchedule = RealLike | Schedule")
    assert ENTRIES["Metric"].signature.startswith(("class Metric:", "Metric("))


def test_a_signature_without_source_has_its_annotations():
    made: dict = {}
    exec("def f(a: int, *, b: float = 1.0) -> float: ...", made)
    assert call_signatures("f", made["f"]) == "f(a: int, *, b: float = 1.0) -> float"


def test_the_methods_of_the_results_are_there():
    for cls in (L.Task, L.Run, L.SweepResult, L.TuneResult, L.Comparison, L.RangeTest, L.Schedule):
        public = {n for n, x in inspect.getmembers(cls) if not n.startswith("_") and (callable(x) or "prop" in repr(x))}
        fields = {f.name for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
        methods = {name.split(".")[1] for name in ENTRIES if name.startswith(f"{cls.__name__}.")}
        assert methods and public - fields <= methods, cls


def test_without_a_name_it_lists_all(capsys):
    assert main(["reference"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert out.startswith("schedules.base: Schedules")
    listed = [line.split()[0] for line in out.splitlines() if line.startswith("  ") and line[2] != " "]
    assert set(PUBLIC) < set(listed) and len(listed) == len(set(listed))


def test_a_schedule_is_explained_with_its_curve(capsys):
    assert main(["reference", "lrjax.cosine_decay_schedule"]) == 0
    out = capsys.readouterr().out
    parts = ["cosine_decay_schedule(\n", "Cosine decay", "η(t) = ", "Args (any other value raises ValueError):",
             "  decay_steps: a number of steps >= 1.", "Source: Loshchilov", ">>> import lrjax", "The curve of",
             "┤", "step  0"]  # fmt: skip
    places = [out.index(part) for part in parts]
    assert places == sorted(places)


def test_the_types_in_signatures_are_explained(capsys):
    types = {entry.name: entry.summary for entry in argument_types(FAMILIES)}
    assert types["Decay"] == "A type: a number in [0, 1)." and not set(types) & set(PUBLIC)
    for name, entry in ENTRIES.items():  # every domain of a value is explained
        if entry.is_value:
            written = inspect.signature(entry.thing).parameters.values()
            used = {part for p in written for part in re.findall(r"\w+", str(p.annotation))}
            named = {n for n in used if get_origin(vars(inspect.getmodule(entry.thing)).get(n)) is Annotated}
            assert named <= set(types) | set(PUBLIC), name
    assert main(["reference", "Steps"]) == 0
    assert capsys.readouterr().out == "lrjax.domains.Steps = RealLike\n\nA type: a whole number of steps >= 1.\n"


def test_methods_and_other_names_are_explained(capsys):
    assert main(["reference", "Task.from_nnx"]) == 0
    assert "Task.from_nnx(" in capsys.readouterr().out
    assert main(["reference", "multi_transform"]) == 0
    assert "The same as `partition`." in capsys.readouterr().out
    assert "Run.steps_to(metric: str, value: float) -> int | None" in text_of(ENTRIES["Run"], 80)


def test_an_unknown_name_gets_those_that_are_close(capsys):
    assert "Did you mean cosine_decay_schedule" in fails(capsys, "reference", "cosine_decay")
    assert "Did you mean" not in fails(capsys, "reference", "qqqqqqqqqqqqqq")


def test_a_terminal_without_unicode_gets_ascii(capsys, monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")
    assert main(["reference", "cosine_decay_schedule"]) == 0
    assert capsys.readouterr().out.isascii()
