"""Converts lrjax values to classes of Optax."""

from typing import Any

from lrjax.transforms.base import GradientTransformation


def to_optax(tx: GradientTransformation) -> Any:
    """Converts a value to Optax's `GradientTransformationExtraArgs`, for code that checks the class.

    Optax's functions accept lrjax values; only `optax.chain` passes extra arguments (`value=...`) to no other class
    than its own. Needs optax.

    >>> import lrjax
    >>> type(lrjax.to_optax(lrjax.adam(1e-3))).__name__
    'GradientTransformationExtraArgs'
    """
    try:
        import optax
    except ImportError:
        raise ImportError("to_optax needs optax: pip install optax.") from None
    return optax.GradientTransformationExtraArgs(*tx)
