"""Pictures of results with matplotlib, and tables of them in a notebook."""

import jax.numpy as jnp
import pytest

import lrjax
from lrjax.search.comparison import Entry
from tests.pages import charts_of
from tests.report.made import (
    NAN,
    comparison,
    coordinate_result,
    nothing_tuned,
    of_sweep,
    own_entries,
    range_result,
    run_result,
    sweep_result,
    tune_result,
)


@pytest.mark.parametrize("make", [sweep_result, tune_result, nothing_tuned, range_result, run_result])
def test_pictures_of_results_have_the_axes_of_the_pages(make):
    plt = pytest.importorskip("matplotlib.pyplot")
    result = make()
    ax = result.plot()
    assert ax.get_ylim()[1] > ax.get_ylim()[0]
    if make is sweep_result:
        svg = charts_of(of_sweep()[1])[0]
        assert ax.get_ylim() == pytest.approx([float(svg.get("data-low")), float(svg.get("data-high"))], rel=1e-5)
        assert (ax.get_yscale() == "log") == (svg.get("data-log") == "1")
        result.plot_curves()
    plt.close("all")


def test_pictures_where_there_is_nothing_to_name_have_no_legend():
    plt = pytest.importorskip("matplotlib.pyplot")
    for result in (sweep_result([NAN] * 5), range_result(False), nothing_tuned()):
        ax = result.plot()
        assert ax.get_legend() is None or ax.get_legend().get_texts()
    assert comparison(own_entries(2)).plot().get_legend() is not None
    plt.close("all")


def test_a_table_in_a_notebook_takes_words_and_numbers():
    html = comparison([Entry("Optimizers", "<i>", lrjax.adam(jnp.float32(0.1)))])._repr_html_()
    assert "&lt;i&gt;" in html and "<i>" not in html and "1.23e" not in html


def test_a_coordinate_check_is_a_line_for_each_name_and_a_table_with_its_verdict():
    plt = pytest.importorskip("matplotlib.pyplot")
    result = coordinate_result()
    ax = result.plot()
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert set(lines) == {"<i>embed: 0.00", "hidden/w: 1.00", "out: -1.00", "frozen", "lost"}
    assert lines["hidden/w: 1.00"].get_ydata() == pytest.approx(result.widths)
    assert ax.get_xscale() == ax.get_yscale() == "log"
    plt.close("all")
    html = result._repr_html_()
    assert "&lt;i&gt;embed" in html and "<i>" not in html and "Not finite in lost" in html and "nan" not in html
