"""Numbers for people: round ones on an axis, short ones in a label."""

import math


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers inside an interval, about `count` of them.

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
    rounded = float(f"{x:.12g}")  # 0.15000000000000002 is 0.15
    return int(rounded) if rounded.is_integer() else rounded


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten inside an interval, at most five; where there is not more than one, 2 and 5 times those too.

    >>> log_ticks(0.004, 7.0)
    [0.01, 0.1, 1.0]
    >>> log_ticks(0.3, 6.0)
    [0.5, 1.0, 2.0, 5.0]
    """
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    if last - first < 1:
        fine = [float(f"{m}e{k}") for k in range(first - 1, last + 1) for m in (1, 2, 5)]
        return [x for x in fine if low <= x <= high]
    every = max(1, math.ceil((last - first + 1) / 5))
    return [float(f"1e{k}") for k in range(first, last + 1, every)]


def number(x: float, digits: int = 4) -> str:
    """A number in few characters.

    >>> [number(x) for x in (0.05, 3e-4, 2.0, 1234567.0)]
    ['0.05', '3e-4', '2', '1.23e6']
    """
    if x == 0:
        return "0"
    if abs(x) >= 1e4 or abs(x) < 1e-3:
        mantissa, exponent = f"{x:.{min(digits, 3) - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}"
    text = f"{x:.{digits}g}"
    return f"{x:.0f}" if "e" in text else text  # more digits before the point than were asked for


def step_count(x: float) -> str:
    """A number of steps: 1,000 and 2.5e6."""
    return f"{x:,.0f}" if x < 1e6 else number(x)


def plural(count: int, word: str) -> str:
    return f"{step_count(count)} {word}{'' if count == 1 else 's'}"
