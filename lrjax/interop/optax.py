"""lrjax values where somebody else's class is asked for."""

from typing import Any

from lrjax.transforms.base import GradientTransformation


def to_optax(tx: GradientTransformation) -> Any:
    """The value as Optax's own `GradientTransformationExtraArgs`, for code that checks the class.

    Optax's functions take our values as they are; only `optax.chain` passes extra arguments (`value=...`) on to
    nothing but its own class. Needs optax.

    >>> import lrjax
    >>> type(lrjax.to_optax(lrjax.adam(1e-3))).__name__
    'GradientTransformationExtraArgs'
    """
    try:
        import optax
    except ImportError:
        raise ImportError("to_optax needs optax: pip install optax.") from None
    return optax.GradientTransformationExtraArgs(*tx)
