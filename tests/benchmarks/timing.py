"""Times two functions side by side, on a machine that does other work too."""

import gc
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax


def ratio(
    ours: Callable[[], Any], theirs: Callable[[], Any], blocks: int, budget: float, goal: float = math.inf
) -> float:
    """Time of ours over time of theirs; one above the goal is measured again, three times as long.

    A chance result goes away then, and a slow function stays slow.
    """
    first = _ratio(ours, theirs, blocks, budget)
    return first if first <= goal else _ratio(ours, theirs, 3 * blocks, 3 * budget)


def difference(ours: Callable[[], Any], theirs: Callable[[], Any], blocks: int, budget: float) -> float:
    """Microseconds that a call of ours takes more than one of theirs."""
    return 1e6 * statistics.median(a - b for a, b in _pairs(ours, theirs, blocks, budget))


def _ratio(ours: Callable[[], Any], theirs: Callable[[], Any], blocks: int, budget: float) -> float:
    return statistics.median(a / b for a, b in _pairs(ours, theirs, blocks, budget))


def _pairs(ours: Callable[[], Any], theirs: Callable[[], Any], blocks: int, budget: float) -> list[tuple[float, float]]:
    """Seconds for a call of each, in blocks of calls in turn, for about `budget` seconds in all, every call waited for:
    what slows the machine for longer than a block slows both. Who goes first changes."""
    for f in (ours, theirs):
        for _ in range(2):
            jax.block_until_ready(f())
    calls = [max(1, int(budget / 2 / blocks / max(_block(f, 3), 1e-7))) for f in (ours, theirs)]
    pairs = []
    gc.collect()
    gc.disable()
    try:
        for i in range(blocks):
            if i % 2:
                a, b = _block(ours, calls[0]), _block(theirs, calls[1])
            else:
                b, a = _block(theirs, calls[1]), _block(ours, calls[0])
            pairs.append((a, b))
    finally:
        gc.enable()
    return pairs


def _block(f: Callable[[], Any], calls: int) -> float:
    """Seconds for one of `calls` calls."""
    start = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(f())
    return (time.perf_counter() - start) / calls
