"""Functions that differ between the supported versions of JAX."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax


def is_tracing() -> bool:
    """Returns whether Python is inside of a trace: of `jit`, `vmap`, `grad` or another transformation."""
    trace_state, outside = _trace_state()
    return trace_state() != outside


@functools.cache
def _trace_state() -> tuple[Callable[[], Any], Any]:
    """Returns the function that returns the current trace state, and its result outside of all traces.

    The function is public since JAX 0.10, and in `jax.core` before. It is called in a new thread, which is in no trace,
    whatever trace the caller is in.
    """
    import jax.extend.core  # here, as it imports Pallas

    found = getattr(jax.extend.core, "get_opaque_trace_state", None)
    trace_state = found or jax.core.get_opaque_trace_state  # type: ignore[attr-defined]
    with ThreadPoolExecutor(1) as thread:
        return trace_state, thread.submit(trace_state).result()


def enable_x64(new_value: bool) -> Any:
    """Returns the context manager that turns 64-bit numbers on or off; `jax.enable_x64` since JAX 0.8."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(new_value)
    from jax.experimental import enable_x64 as experimental  # type: ignore[attr-defined]

    return experimental(new_value)


def manual_axes(aval: Any) -> frozenset[Any]:
    """Returns the manual mesh axes along which an aval varies: `manual_axis_type` since JAX 0.10, `vma` before."""
    kind = getattr(aval, "manual_axis_type", None)
    axes = getattr(aval, "vma", None) if kind is None else kind.varying
    return frozenset(axes or ())


def as_varying(x: jax.Array, axes: tuple[Any, ...]) -> jax.Array:
    """Marks an array as varying along manual mesh axes: `pcast` since JAX 0.9, `pvary` before."""
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(x, axes, to="varying")
    return jax.lax.pvary(x, axes)  # type: ignore[attr-defined]
