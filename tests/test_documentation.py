"""The README and the pages of the documentation say nothing that doesn't run."""

import contextlib
import doctest
import io
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
README, NOTEBOOKS = ROOT / "README.md", ROOT / "notebooks"
DOCUMENTS = [README, *sorted(NOTEBOOKS.glob("*.md"))]
MAX_WORDS = 600  # of the README
FACTOR = 3.0  # a printed number may be another one with another processor or version of JAX
NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")
STATED = re.compile(r"^print\(.*\)  # (.+)$", flags=re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
SLOW = {"README", "finding", "from_optax", "training"}
MADE_BY_THE_SITE = {NOTEBOOKS / "gallery.md", NOTEBOOKS / "extending.md"}  # for links between its pages


def blocks(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def run(path: Path) -> dict:
    """Runs all blocks of a page, one after the other in one namespace, which it returns."""
    names: dict = {"__name__": path.stem}
    for block in blocks(path):
        if ">>>" in block:
            run_session(path, block, names)
        else:
            run_block(path, block, names)
    return names


def run_session(path: Path, block: str, names: dict) -> None:
    """A session of the interpreter prints exactly what the page says."""
    session = doctest.DocTestParser().get_doctest(block, {}, path.stem, str(path), 0)
    session.globs = names
    report = io.StringIO()
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(session, out=report.write, clear_globs=False)
    assert result.attempted > 0 and result.failed == 0, report.getvalue()


def run_block(path: Path, block: str, names: dict) -> None:
    """Where the page states in a comment what is printed, it is that, up to the numbers' size."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(block, str(path), "exec"), names)
    if stated := STATED.findall(block):
        got = printed.getvalue().splitlines()
        assert len(got) == len(stated) and all(map(agree, stated, got)), f"{path.name} says {stated}, it prints {got}"


def agree(stated: str, got: str) -> bool:
    """The same words, and numbers that are the same to a factor."""
    numbers = [[float(x.replace(",", "")) for x in NUMBER.findall(words)] for words in (stated, got)]
    close = all(a == b or a * b > 0 and 1 / FACTOR <= a / b <= FACTOR for a, b in zip(*numbers, strict=False))
    return NUMBER.sub("#", stated) == NUMBER.sub("#", got) and close


def of_readme(names: dict) -> None:
    assert float(jnp.abs(names["params"]["w"]).max()) < 0.1
    assert names["found"].verdict.startswith("Found")


def of_getting_started(names: dict) -> None:
    assert float(jnp.abs(names["params"]["w"]).max()) < 0.1
    assert names["halving_schedule"](0.1, 1000)(1000) == np.float32(0.05)
    assert names["final"].shape == (32, 3) and float(jnp.abs(names["final"]).min()) < 0.1


def of_training(names: dict) -> None:
    assert names["run"].final < 0.2
    assert names["logged"].final < 0.2 and list(Path("runs/adam").iterdir())
    assert type(names["model"]).__name__ == "Model" and names["model"](names["x"][512:]).shape == (128,)


def of_finding(names: dict) -> None:
    assert names["result"].losses.shape == (16, 3, 200) and 1e-3 < names["result"].best_learning_rate < 1
    assert names["found"].verdict.startswith("Found") and 1e-3 < names["found"].learning_rate < 1
    assert names["table"].losses.shape == (3, 5, 200)
    assert set(names["suggestions"]) == {"valley", "slide", "steep", "minimum"}


def of_guarding(names: dict) -> None:
    assert names["loss_fn"](names["final"], names["batch"]) < 0.1
    assert names["model_loss"](names["good_model"], names["batch"]) < 0.1


CHECKS = {
    "README": of_readme,
    "getting_started": of_getting_started,
    "training": of_training,
    "finding": of_finding,
    "guarding": of_guarding,
}


@pytest.mark.sampled(7)
@pytest.mark.promotes  # as everybody runs them
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in SLOW else [])
        for path in DOCUMENTS
        if blocks(path)
    ],
)
def test_blocks_run_and_print_what_they_say(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some of them write files
    pytest.importorskip("matplotlib").use("agg")
    names = run(path)
    if path.stem in CHECKS:
        CHECKS[path.stem](names)


def test_what_is_stated_is_compared():
    assert agree("Found: 0.0464; 1,200 steps", "Found: 0.1; 1,300 steps")
    assert not agree("Found: 0.0464.", "Found: 0.464.")
    assert not agree("Found: 0.0464.", "Cannot tell: 0.0464.")
    with pytest.raises(AssertionError):
        run_block(README, "print(1)  # 10\n", {})
    with pytest.raises(AssertionError):
        run_session(README, ">>> 1 + 1\n3\n", {})


def test_every_check_is_of_a_page():
    assert set(CHECKS) <= {path.stem for path in DOCUMENTS if blocks(path)}


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").split()) <= MAX_WORDS


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_links_and_pictures_are_there(path):
    text = path.read_text(encoding="utf-8")
    ours = "https://raw.githubusercontent.com/lrjax/lrjax/main/"
    places = [ROOT / place.removeprefix(ours) if place.startswith(ours) else path.parent / place
              for place in LINK.findall(text) if place.startswith(ours) or "://" not in place]  # fmt: skip
    made = set() if path == README else MADE_BY_THE_SITE
    assert [str(p) for p in places if not p.exists() and p not in made] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_included_parts_are_there(path):
    for name, section in re.findall(r'^--8<-- "([\w./]+):(\w+)"$', path.read_text(encoding="utf-8"), re.MULTILINE):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert text.count(f"--8<-- [start:{section}]") == text.count(f"--8<-- [end:{section}]") == 1


def test_the_verdicts_that_are_explained_are_those_that_are_given():
    text = (NOTEBOOKS / "finding.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \|", text.partition("| it begins with |")[2].partition("\n\n")[0], re.MULTILINE)
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "lrjax" / "search").glob("*.py"))
    beginnings = [re.split(r"\*|…", row)[0].strip() for row in rows]
    assert len(beginnings) == 8 and [words for words in beginnings if words not in sources] == []


def test_the_rows_of_the_readme_are_those_of_the_page():
    rows = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert len(rows) == 6 and set(rows) <= set((NOTEBOOKS / "from_optax.md").read_text(encoding="utf-8").splitlines())


def test_the_test_command_is_the_one_that_ci_runs():
    ci = (ROOT / ".ci" / "run").read_text()
    (line,) = [line for line in README.read_text().splitlines() if "'.[test]' && python -m pytest" in line]
    assert line == "python -m pip install -e '.[test]' && python -m pytest -n 2 --dist worksteal"
    assert "grep -m 1 -F \"'.[test]' && python -m pytest\" README.md" in ci
