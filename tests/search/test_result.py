"""What the result of a sweep says, saves and draws."""

import numpy as np
import pytest

import lrjax as L
from tests.search.test_sweep import RATES, X, Y, loss_fn, swept


def test_saved_and_loaded(tmp_path):
    fields = {"metrics": (loss_fn, "min"), "validation": (X, Y)}
    result = swept(L.adam(RATES), fields=fields, seeds=2, eval_every=10)
    result.save(tmp_path / "result.npz")
    loaded = L.SweepResult.load(tmp_path / "result.npz")
    assert loaded.rows() == result.rows() and loaded.verdict == result.verdict
    np.testing.assert_array_equal(loaded.losses, result.losses)
    np.testing.assert_array_equal(loaded.metrics["loss_fn"], result.metrics["loss_fn"])


def test_sensitivity_and_band():
    losses = np.broadcast_to(np.array([4.0, 1.0, 1.1, 3.0, np.nan])[:, None, None], (5, 1, 10)).copy()
    losses[:, :, 0] = 5.0
    dead = np.array([[False], [False], [False], [False], [True]])
    rates = np.logspace(-4, 0, 5)
    control = np.full((1, 10), 5.0)
    result = L.SweepResult(
        rates, {"learning_rate": rates}, losses, {}, np.array([]), {}, dead, control, np.array([np.nan]), np.zeros(1)
    )
    assert result.sensitivity == pytest.approx(np.mean([3, 0, 0.1, 2, 4]))
    assert result.band() == pytest.approx((1e-3, 1e-2)) and result.stable_range == pytest.approx(1.0)
    assert result.largest_stable_learning_rate == pytest.approx(0.1)


def test_pictures():
    plt = pytest.importorskip("matplotlib.pyplot")
    result = swept(L.sgd(np.array([0.01, 0.1, 50.0])), seeds=2)
    assert result.plot().get_xscale() == "log"
    assert len(result.plot_curves().lines) == 3
    plt.close("all")
