"""The rules that keep the package readable, checked on its source."""

import ast
import inspect
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

import lrjax
from tests.everything import PUBLIC as ALL
from tests.schedules.cases import CASES as SCHEDULES
from tests.transforms.cases import CASES as TRANSFORMATIONS

PACKAGE = Path(lrjax.__file__).parent
FILES = {
    path.relative_to(PACKAGE.parent).with_suffix("").as_posix().replace("/", "."): path
    for path in PACKAGE.rglob("*.py")
}
MODULES = {name: path for name, path in FILES.items() if path.name != "__init__.py"}
# A module imports from the layers above it, or from its own. Where one is a part of another, the longer name counts.
LAYERS = [
    ("numerics", "signatures", "jax_versions"),
    ("domains",),
    ("static",),
    ("value", "hyperparameters", "catalogue"),
    ("report.scale", "report.svg"),  # how a schedule shows itself in a notebook
    ("schedules",),
    ("transforms",),
    ("optimizers",),
    ("report.plots",),  # reads arrays, whatever the class, so that results can show themselves
    ("interop",),  # knows models and classes of others, not tasks
    ("training",),
    ("search",),
    ("tasks",),
    ("config", "parse"),
    ("report",),
    ("experiments",),
    ("commands",),
    ("__main__",),
]
DEPTH = {name: depth for depth, names in enumerate(LAYERS) for name in names}


def depth_of(module):
    _, *parts = module.split(".")
    return DEPTH.get(".".join(parts[:2]), DEPTH.get(parts[0]))


def imports(path):
    """(module, line) of every import from the package, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lrjax"):
            yield node.module, node
        elif isinstance(node, ast.Import):
            yield from ((a.name, node) for a in node.names if a.name.startswith("lrjax"))


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_up_by_full_path(name):
    mine = depth_of(name)
    for module, _ in imports(MODULES[name]):
        if name == "lrjax.__main__" and module == "lrjax":
            continue  # the version
        assert module in MODULES, f"{name} imports the package {module}"
        assert depth_of(module) <= mine, f"{name} imports {module}"


def test_there_are_no_import_cycles():
    edges = {name: {m for m, _ in imports(path)} & set(MODULES) for name, path in MODULES.items()}
    done: list[str] = []
    while len(done) < len(edges):
        ready = [n for n, needs in edges.items() if n not in done and needs <= set(done)]
        assert ready, f"a cycle among {sorted(set(edges) - set(done))}"
        done += ready


@pytest.mark.parametrize("name", FILES)
def test_no_file_is_over_400_lines(name):
    assert len(FILES[name].read_text().splitlines()) <= 400


def test_only_the_command_line_prints():
    for name, path in MODULES.items():
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        if any(isinstance(c.func, ast.Name) and c.func.id == "print" for c in calls):
            assert name == "lrjax.__main__" or name.startswith("lrjax.commands.")


PUBLIC = {n: x for n, x in ALL.items() if callable(x) and hasattr(x, "__module__")}
PUBLIC = {n: x for n, x in PUBLIC.items() if (x.__module__ or "").startswith("lrjax.")}
PUBLIC = {n: x for n, x in PUBLIC.items() if n == getattr(x, "__name__", n)}  # without aliases
VALUES = {n: x for n, x in PUBLIC.items() if isinstance(x, type) and issubclass(x, lrjax.Value) and n != "Value"}
TOOLS = {"Value", "Schedule", "GradientTransformation", "as_schedule", "transformation", "elementwise", "optimizer"}
TOOLS |= {"StatefulSchedule"}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented_with_an_example(name):
    doc = inspect.getdoc(PUBLIC[name]) or ""
    assert doc
    is_state = hasattr(PUBLIC[name], "_fields") and "init_synced" not in vars(PUBLIC[name])
    if not is_state and name not in TOOLS:
        assert ">>>" in doc, name


def has_source(name):
    """Whether a value is from a paper or a library: those that work on other schedules, and the classes, are tools."""
    if name in SCHEDULES:
        return SCHEDULES[name].source
    return name in TRANSFORMATIONS and TRANSFORMATIONS[name].source


@pytest.mark.parametrize("name", VALUES)
def test_a_method_from_elsewhere_names_its_source_and_no_other_does(name):
    assert ("Source:" in inspect.getdoc(VALUES[name])) == has_source(name)


def optimizer_functions():
    for path in (PACKAGE / "optimizers").glob("*.py"):
        tree = ast.parse(path.read_text())
        assert not any(isinstance(n, ast.ImportFrom) and n.module == "__future__" for n in tree.body)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                yield pytest.param(node, id=node.name)


@pytest.mark.parametrize("node", list(optimizer_functions()))
def test_an_optimizer_is_a_short_chain_with_an_annotated_rate(node):
    _, *body = node.body  # without the docstring
    assert body[-1].end_lineno - body[0].lineno + 1 < 15
    assert isinstance(body[-1], ast.Return) and ast.unparse(body[-1].value).startswith(("chain(", "partition("))
    rates = [a for a in node.args.args if a.arg in ("learning_rate", "scaling")]
    # where step sizes begin, in rprop; in the others there is one rate for all parameters
    others = {"rprop": "Positive", "fromage": "RateOrSchedule", "madgrad": "RateOrSchedule"}
    kind = others.get(node.name, "ScalarOrSchedule")
    assert [ast.unparse(a.annotation).removesuffix(" | None") for a in rates] == [kind]


def test_a_docstring_ends_with_the_ranges_of_its_arguments():
    assert "b2: a number in [0, 1), or a schedule." in lrjax.adam.__doc__
    assert "decay_steps: a number of steps >= 1." in lrjax.cosine_decay_schedule.__doc__


def test_the_package_is_typed_and_its_version_stands_once():
    assert (PACKAGE / "py.typed").exists()
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"] and "version" not in project["project"]
    assert project["tool"]["hatch"]["version"]["path"] == "lrjax/__init__.py"


@pytest.mark.slow
def test_nothing_but_the_package_is_needed_to_import_it():
    import subprocess
    import sys

    blocked = ("optax", "flax", "equinox", "matplotlib", "sklearn", "rich", "orbax", "orbax.checkpoint", "tensorboardX")
    blocked += ("hypothesis", "pytest")
    program = textwrap.dedent(f"""
        import sys
        for name in {blocked!r}:
            sys.modules[name] = None
        import lrjax, lrjax.parse, lrjax.__main__
        lrjax.__main__.main(["plot", "linear_schedule(0, 1, 10)"])
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_trains_models_is_imported_at_its_first_use():
    program = """
import sys, lrjax
late = lambda: [name for name in sys.modules if name.startswith(("lrjax.training", "lrjax.search"))]
assert not late() and not hasattr(lrjax, "__wrapped__") and not late()
lrjax.train, lrjax.Task
assert late() and {"train", "sweep", "adam", "Run"} <= set(dir(lrjax)) and not hasattr(lrjax, "nothing")
names = {}
exec("from lrjax import *", names)
assert names["tune"] is lrjax.tune and names["adam"] is lrjax.adam
"""
    subprocess.run([sys.executable, "-c", program], check=True)
