"""Conversion from epochs to steps."""

import math

from lrjax.domains import NotInDomain, Positive, Steps, domain_of
from lrjax.value import bad_argument


def steps_for(
    *, epochs: float, examples: int, batch_size: int, accumulation: int = 1, drop_remainder: bool = False
) -> int:
    """Returns the number of updates in `epochs` passes over the data, the length of a schedule.

    steps = ⌊epochs·batches / accumulation⌋, batches = ⌈examples / batch_size⌉, or ⌊ ⌋ with `drop_remainder`

    Args:
      epochs: passes over the data, > 0; may be a fraction.
      examples: examples in the data, >= 1.
      batch_size: examples in a batch, >= 1.
      accumulation: batches whose gradients make one update (`MultiSteps`), >= 1.
      drop_remainder: whether the last, smaller batch of an epoch is left out.

    Raises:
      ValueError: an argument is out of its range, or the epochs are too few for one update.

    >>> import lrjax
    >>> lrjax.steps_for(epochs=90, examples=1_281_167, batch_size=256)
    450450
    >>> lrjax.steps_for(epochs=0.5, examples=1000, batch_size=10, accumulation=4)
    12
    """
    checked = {}
    for name, value, kind in (
        ("epochs", epochs, Positive),
        ("examples", examples, Steps),
        ("batch_size", batch_size, Steps),
        ("accumulation", accumulation, Steps),
    ):
        domain = domain_of(kind)
        assert domain is not None
        try:
            checked[name] = domain.validate(value)
        except NotInDomain:
            raise bad_argument("steps_for", name, domain.description.replace(" of steps", ""), value) from None
    epoch = checked["examples"] / checked["batch_size"]
    batches = math.floor(epoch) if drop_remainder else math.ceil(epoch)
    # 1e-9: 0.1 epochs of 30 batches are 3, not 2.9999999999999996
    steps = math.floor(checked["epochs"] * batches / checked["accumulation"] + 1e-9)
    if steps < 1:
        raise bad_argument("steps_for", "epochs", "enough for one update", epochs)
    return steps
