"""Functions that differ between the supported versions of JAX."""

from typing import Any

import jax


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
