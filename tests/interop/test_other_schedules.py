"""The pages for PyTorch and Keras: every row's two calls have the same rates."""

import importlib.util

import numpy as np
import pytest

import lrjax
from tests.interop.other_schedules import LIBRARIES, NOTEBOOKS, PAGES, rows, stored

RTOL = 1e-5
ROWS = {(library, row.name): row for library in PAGES for row in rows(library)}
each_row = pytest.mark.parametrize(("library", "row"), [(library, row) for (library, _), row in ROWS.items()])


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=RTOL, atol=RTOL * max(theirs))


@pytest.mark.sampled(16)
@pytest.mark.promotes
@each_row
def test_the_rates_are_theirs(library, row):
    assert_same(row.curve(), stored(library)[row.name])


@each_row
def test_the_stored_rates_are_those_of_the_library(library, row):
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} isn't there")
    assert_same(LIBRARIES[library](row), stored(library)[row.name])


@pytest.mark.parametrize("library", PAGES)
def test_every_row_of_the_table_is_read(library):
    text = (NOTEBOOKS / PAGES[library]).read_text(encoding="utf-8")
    table = text.partition("| the same |\n")[2].partition("\n\n")[0].splitlines()[1:]
    assert len(table) == len(rows(library)) == len(stored(library)) >= 10


def test_every_scheduler_of_pytorch_is_named():
    torch = pytest.importorskip("torch.optim.lr_scheduler")
    text = (NOTEBOOKS / PAGES["torch"]).read_text(encoding="utf-8")
    assert [name for name in torch.__all__ if name not in text and name != "LRScheduler"] == []


def test_other_numbers_are_seen():
    row = ROWS["torch", "StepLR(opt, 30, 0.5)"]
    with pytest.raises(AssertionError):
        assert_same(np.asarray(lrjax.step_decay(0.1, 29, 0.5)(np.arange(row.steps))), stored("torch")[row.name])
