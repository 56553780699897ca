"""Times two functions side by side, on a machine that does other work too."""

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Pair(NamedTuple):
    """Seconds for one call of ours and of theirs (medians), and the median of the ratios of neighbouring blocks."""

    ours: float
    theirs: float
    ratio: float


def side_by_side(ours: Callable[[], Any], theirs: Callable[[], Any], blocks: int, budget: float) -> Pair:
    """Times blocks of calls in turn, who begins changing from block to block, for about `budget` seconds in all.

    Every call is waited for. A ratio is of two neighbouring blocks, so what slows the machine for longer than a block
    slows both of them.
    """
    for f in (ours, theirs):
        jax.block_until_ready(f())
        jax.block_until_ready(f())
    calls = [max(1, int(budget / 2 / blocks / max(_block(f, 1), 1e-7))) for f in (ours, theirs)]
    seconds: tuple[list[float], list[float]] = ([], [])
    gc.collect()
    gc.disable()
    try:
        for i in range(blocks):
            for which in (0, 1) if i % 2 else (1, 0):
                seconds[which].append(_block((ours, theirs)[which], calls[which]))
    finally:
        gc.enable()
    ratios = [a / b for a, b in zip(*seconds, strict=True)]
    return Pair(statistics.median(seconds[0]), statistics.median(seconds[1]), statistics.median(ratios))


def _block(f: Callable[[], Any], calls: int) -> float:
    """Seconds for one of `calls` calls."""
    start = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(f())
    return (time.perf_counter() - start) / calls
