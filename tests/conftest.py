"""Strict by default: warnings are errors, and neither dtypes nor ranks promote by themselves."""

import gc

import jax
import jax.monitoring
import pytest

from lrjax.jax_versions import enable_x64

_counting: list[list[str]] = []  # of the tests that count compilations; JAX 0.8 can't forget a listener


def _note_compilation(event, duration, **kwargs):
    if event == "/jax/core/compile/backend_compile_duration":
        for seen in _counting:
            seen.append(kwargs.get("fun_name", event))


def pytest_configure(config):
    jax.monitoring.register_event_duration_secs_listener(_note_compilation)
    gc.set_threshold(100_000, 50, 100)  # JAX keeps millions of objects, and to look at them all takes its time
    config.addinivalue_line("markers", "promotes: runs others' code, which needs dtypes and ranks to promote")
    config.addinivalue_line("filterwarnings", "error")
    # third parties' own
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:(flax|optax|orbax|equinox|matplotlib).*")
    config.addinivalue_line("filterwarnings", "ignore:.*os.fork.*:RuntimeWarning")
    config.addinivalue_line("filterwarnings", "ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def strict_promotion(request):
    promotes = request.node.get_closest_marker("promotes") is not None
    dtypes, ranks = ("standard", "allow") if promotes else ("strict", "raise")
    with jax.numpy_dtype_promotion(dtypes), jax.numpy_rank_promotion(ranks):
        yield


@pytest.fixture(scope="module")
def quick_compilation():
    """For modules whose time is XLA's: their programs are small enough to run without its optimizations."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # nothing that was compiled so is left for other tests


@pytest.fixture
def x64():
    with enable_x64(True):
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


@pytest.fixture
def compilations():
    """The programs that XLA has compiled since the test began, one entry each."""
    seen = []
    _counting.append(seen)
    yield seen
    _counting.pop()
