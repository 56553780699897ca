"""Chooses axis limits and ticks, and formats numbers."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Limits(NamedTuple):
    """The range of an axis."""

    low: float
    high: float
    log: bool = False


def is_log(values: Any) -> bool:
    """Returns whether an axis of these numbers is logarithmic: all above 0, and more than a factor of ten apart.

    >>> is_log([0.02, 0.3, float("nan")]), is_log([0.0, 0.3]), is_log([0.1, 0.9])
    (True, False, False)
    """
    finite = _finite(values)
    return len(finite) > 0 and bool(finite.min() > 0 and finite.max() > 10 * finite.min())


def limits(values: Any, start: Any = (), mode: str = "min") -> Limits:
    """Returns the limits of an axis on which the lowest numbers matter, or the highest with `mode` "max".

    On the worse side the axis ends a fifth of its length beyond `start`, the untrained numbers, or at three times
    `start`: diverged runs would leave no room for the rest. It is never narrower than a ten-thousandth of its numbers,
    which would show rounding noise.

    >>> limits([0.1, 0.6, 1e9], start=[0.6])
    Limits(low=0.058, high=0.742, log=False)
    >>> limits([0.001, 0.5, 1e9], start=[2.0])
    Limits(low=0.0007, high=6.0, log=True)
    """
    finite, first = _finite(values), _finite(start)
    known = finite if len(finite) else first if len(first) else np.zeros(1)
    low, high = float(known.min()), float(known.max())
    begin = float(np.median(first)) if len(first) else math.nan
    if mode == "max":
        if begin < high:
            low = max(low, begin - 0.2 * (high - begin))
        return Limits(*_padded(low, high))
    if is_log([low, high if math.isnan(begin) else min(high, max(begin, low))]):
        return Limits(0.7 * low, min(1.4 * high, 3 * begin) if begin > low else 1.4 * high, log=True)
    if begin > low:
        high = min(high, begin + 0.2 * (begin - low))
    return Limits(*_padded(low, high))


def _finite(values: Any) -> np.ndarray:
    array = np.asarray(values, float).ravel()
    return array[np.isfinite(array)]


def _padded(low: float, high: float) -> tuple[float, float]:
    size = max(abs(low), abs(high))
    if high - low < 1e-4 * size or size == 0:
        pad = 0.1 * size or 1.0
    else:
        pad = 0.07 * (high - low)
    return (max(low - pad, 0.0) if low >= 0 else low - pad), high + pad


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Returns about `count` round numbers inside an interval.

    >>> ticks(0, 400)
    [0, 100, 200, 300, 400]
    """
    if not high > low:
        return [low]
    raw = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [_exact(k * step) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _exact(x: float) -> float:
    rounded = float(f"{x:.12g}")  # 0.15000000000000002 becomes 0.15
    return int(rounded) if rounded.is_integer() and abs(rounded) < 2**53 else rounded


def log_ticks(low: float, high: float) -> list[float]:
    """Returns at most five powers of ten inside an interval; if there are fewer than two, also 2 and 5 times powers of
    ten; if these are fewer than two, round numbers.

    >>> log_ticks(0.004, 7.0)
    [0.01, 0.1, 1.0]
    >>> log_ticks(0.3, 6.0)
    [0.5, 1.0, 2.0, 5.0]
    >>> log_ticks(2.2, 4.8)
    [3, 4]
    """
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    if last - first < 1:
        fine = [float(f"{m}e{k}") for k in range(first - 1, last + 1) for m in (1, 2, 5)]
        inside = [x for x in fine if low <= x <= high]
        return inside if len(inside) > 1 else ticks(low, high, 3)
    every = max(1, math.ceil((last - first + 1) / 5))
    return [float(f"1e{k}") for k in range(first, last + 1, every)]


def labels(numbers: Sequence[float]) -> list[str]:
    """Formats the ticks of an axis with as few digits as distinguish them, without rounding them visibly.

    >>> labels([1230000, 1230500, 1231000])
    ['1.23e6', '1.2305e6', '1.231e6']
    """
    apart = min((b - a for a, b in zip(numbers, numbers[1:], strict=False)), default=0.0)
    for digits in range(3, 17):
        texts = [number(x, digits, mantissa_digits=digits) for x in numbers]
        if all(abs(float(text) - x) <= 0.01 * apart for text, x in zip(texts, numbers, strict=True)):
            return texts
    return [number(x) for x in numbers]


def number(x: float, digits: int = 4, mantissa_digits: int = 3) -> str:
    """Formats a number in few characters.

    >>> [number(x) for x in (0.05, 3e-4, 2.0, 1234567.0)]
    ['0.05', '3e-4', '2', '1.23e6']
    """
    if x == 0:
        return "0"
    if not math.isfinite(x):
        return str(x)
    if abs(x) >= 1e4 or abs(x) < 1e-3:
        mantissa, exponent = f"{x:.{min(digits, mantissa_digits) - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}"
    text = f"{x:.{digits}g}"
    return f"{x:.0f}" if "e" in text else text  # more than `digits` digits before the point


def step_count(x: float) -> str:
    """Formats a number of steps, such as 1,000 and 2.5e6."""
    return f"{x:,.0f}" if x < 1e6 else number(x)


def plural(count: int, word: str) -> str:
    return f"{step_count(count)} {word}{'' if count == 1 else 's'}"
