"""What differs between the versions of JAX that are supported, in one place."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax


def is_tracing() -> bool:
    """Whether Python is inside of a trace: of `jit`, `vmap`, `grad` or another transformation."""
    trace_state, outside = _trace_state()
    return trace_state() != outside


@functools.cache
def _trace_state() -> tuple[Callable[[], Any], Any]:
    """The function that says in which trace Python is, and what it says outside of all traces.

    The function is public since JAX 0.10, and before it a part of `jax.core`. A new thread is in no trace, wherever
    this is asked for first.
    """
    import jax.extend.core  # here, as it imports Pallas

    found = getattr(jax.extend.core, "get_opaque_trace_state", None)
    trace_state = found or jax.core.get_opaque_trace_state  # type: ignore[attr-defined]
    with ThreadPoolExecutor(1) as thread:
        return trace_state, thread.submit(trace_state).result()


def enable_x64(new_value: bool) -> Any:
    """The context in which numbers have 64 bits, or not: public since JAX 0.8."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(new_value)
    from jax.experimental import enable_x64 as experimental  # type: ignore[attr-defined]

    return experimental(new_value)


def manual_axes(aval: Any) -> frozenset[Any]:
    """The manual mesh axes along which an abstract value varies: `manual_axis_type` since JAX 0.10, `vma` before."""
    kind = getattr(aval, "manual_axis_type", None)
    axes = getattr(aval, "vma", None) if kind is None else kind.varying
    return frozenset(axes or ())


def as_varying(x: jax.Array, axes: tuple[Any, ...]) -> jax.Array:
    """The array as one that varies along manual mesh axes: `pcast` since JAX 0.9, `pvary` before."""
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(x, axes, to="varying")
    return jax.lax.pvary(x, axes)  # type: ignore[attr-defined]
