"""Strict by default: warnings are errors, and neither dtypes nor ranks promote by themselves.

`-m "not slow"` leaves out what takes long. The last lines of a run name the tests that take long and aren't marked.
"""

import gc
import os
from collections import Counter
from importlib.metadata import version

import jax
import jax.monitoring
import pytest
from packaging.version import Version

from lrjax.jax_versions import enable_x64

# Most of the tests' time is that of compiling small programs, which XLA's older emitters do in two thirds of it. A flag
# that it doesn't know ends the process.
_OLDER = "--xla_cpu_use_fusion_emitters=false"
_FLAGS = os.environ.get("XLA_FLAGS", "")
if Version("0.7") <= Version(version("jaxlib")) < Version("0.11") and _OLDER not in _FLAGS:
    os.environ["XLA_FLAGS"] = f"{_FLAGS} {_OLDER}"

QUICK = 6.0  # seconds of the processor that a test takes at most which isn't marked as slow

_counting: list[list[str]] = []  # of the tests that count compilations; JAX 0.8 can't forget a listener


def _note_compilation(event, duration, **kwargs):
    if event == "/jax/core/compile/backend_compile_duration":
        for seen in _counting:
            seen.append(kwargs.get("fun_name", event))


def pytest_configure(config):
    # on every device, as on a CPU: by default GPUs and TPUs round the factors of a product, to 10 bits and fewer
    jax.config.update("jax_default_matmul_precision", "float32")
    os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "float32"  # of the processes that tests start
    jax.monitoring.register_event_duration_secs_listener(_note_compilation)
    gc.set_threshold(100_000, 50, 100)  # JAX keeps millions of objects, and to look at them all takes its time
    config.addinivalue_line("markers", "promotes: runs others' code, which needs dtypes and ranks to promote")
    config.addinivalue_line("markers", "sampled(n): slow, but for every n-th of its parameters")
    config.addinivalue_line("filterwarnings", "error")
    # third parties' own
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:(flax|optax|orbax|equinox|matplotlib).*")
    config.addinivalue_line("filterwarnings", "ignore:.*os.fork.*:RuntimeWarning")
    config.addinivalue_line("filterwarnings", "ignore::ResourceWarning")


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is slow
def pytest_collection_modifyitems(items):
    seen: Counter[str] = Counter()
    for item in items:
        if (sampled := item.get_closest_marker("sampled")) is not None:
            function, (n,) = item.nodeid.split("[")[0], sampled.args
            if seen[function] % n:
                item.add_marker(pytest.mark.slow)
            seen[function] += 1


def _processor_seconds():
    """Of this process and of those that it has started: a busy machine doesn't lengthen it as it does the time."""
    return sum(os.times()[:4])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    begin = _processor_seconds()
    result = yield
    item.user_properties.append(("processor seconds", _processor_seconds() - begin))
    return result


def pytest_terminal_summary(terminalreporter):
    quick = {
        report.nodeid: value
        for report in terminalreporter.getreports("passed")
        if "slow" not in report.keywords and report.when == "call"
        for name, value in report.user_properties
        if name == "processor seconds"
    }
    if quick:
        terminalreporter.write_line(
            f"{len(quick)} tests that are not slow took {sum(quick.values()):.0f} s of the processor"
        )
    for test, seconds in quick.items():  # said, not a failure: another machine is slower
        if seconds > QUICK:
            terminalreporter.write_line(f"{seconds:.1f} s: {test} ought to be marked with `slow`, or `sampled`")


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
def one_at_a_time(monkeypatch):
    """A device trains one run at a time, as a CPU does by default; others vectorize all that their memory holds."""
    monkeypatch.setattr("lrjax.training.engine._default_runs_per_device", lambda mesh: 1)


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
