"""Warnings are errors; what computes must not need dtypes or ranks to promote by themselves."""

import jax
import pytest


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "error")
    # third parties' own
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:(flax|optax|orbax|equinox|matplotlib).*")
    config.addinivalue_line("filterwarnings", "ignore:.*os.fork.*:RuntimeWarning")
    config.addinivalue_line("filterwarnings", "ignore::ResourceWarning")


@pytest.fixture
def strict_dtypes():
    """No implicit promotion of dtypes or ranks: what Optax's own transforms don't stand."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def count_traces():
    """Wraps a function so that `traces[0]` counts how often it is traced."""

    def wrap(fn):
        traces = [0]

        def counted(*args, **kwargs):
            traces[0] += 1
            return fn(*args, **kwargs)

        return counted, traces

    return wrap
