"""The runs of a search on all devices, wave by wave."""

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from typing import Any

import chex
import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Mesh

from lrjax.search.batches import Batches
from lrjax.search.program import Program, Run, advance, arranged, evaluate, place, start

KEPT = 64  # chunks of batches
FIRST, ALWAYS = 16, 128  # steps of a call before it is known how long they take, and where all calls must be alike
CALL_SECONDS = 1.0
MOST_OF_MEMORY = 0.8  # the part of a device's free memory that the runs may take


def programmed(*, mesh: Mesh | None, together: int | None, runs: int, **parts: Any) -> Program:
    """The program for so many runs: on all devices, and as many at once as suit them."""
    devices = np.array(jax.devices()) if mesh is None else mesh.devices.ravel()
    if mesh is None and jax.process_count() == 1:
        devices = devices[:runs]
    mesh = Mesh(devices, ("runs",))  # whatever the axes of the given one
    each = -(-runs // mesh.size)
    return Program(mesh=mesh, together=min(together or _together(mesh) or each, each), **parts)


def _together(mesh: Mesh) -> int | None:
    """Runs that a device vectorises, at most; None for all.

    On a CPU one alone compiles fastest, ends when it diverged, and suits big models too.
    """
    return 1 if mesh.devices.flat[0].platform == "cpu" else None


class Runs:
    """All runs, [runs]; a wave are those that the devices train at the same time. What a wave carries is on the devices
    from its first step until it is finished."""

    def __init__(
        self,
        program: Program,
        source: Batches,
        steps: int,
        numbers: Any,
        init: Any,
        seeds: Sequence[int],
        seed_of: np.ndarray,
        eval_batch: Any = None,
        to_fit: bool = True,
    ):
        """`numbers` [runs, ...] and `seed_of` [runs], places in the list of seeds, say what each run is; `to_fit`,
        whether fewer go together where the memory holds no more."""
        self.program, self.source, self.steps, self.count = program, source, steps, len(seed_of)
        self.init, self.numbers, self._seeds, self._seed_of = init, numbers, np.asarray(seeds, np.int32), seed_of
        self.eval_batch = eval_batch
        self._carried: dict[int, Run] = {}
        self._given: dict[int, Any] = {}
        self._loaded: dict[tuple[int, int], Any] = {}
        self._steps_made = 0
        needed, free = self._compiled(), _free_bytes(program.mesh)
        while to_fit and free is not None and needed > MOST_OF_MEMORY * free and self.program.together > 1:
            self.program = replace(self.program, together=-(-self.program.together // 2))
            needed = self._compiled()
        self._began = time.monotonic()

    @property
    def waves(self) -> int:
        return -(-self.count // self.program.places)

    def of(self, wave: int) -> np.ndarray:
        """The runs of a wave; the last one repeats to fill it."""
        places = self.program.places
        return np.minimum(np.arange(wave * places, (wave + 1) * places), self.count - 1)

    def batches(self, begin: int, end: int) -> Any:
        """For the steps from `begin` to `end`, at most a chunk; some are kept, for the next wave."""
        if (begin, end) not in self._loaded:
            if self.source.once or len(self._loaded) == KEPT:
                self._loaded.clear()
            given = self.source.chunk(begin, end - begin), np.int32(begin), np.int32(end - begin)
            self._loaded[begin, end] = place(given, self.program.whole)
        chunk, *steps = self._loaded[begin, end]
        return (self._of_all, chunk), *steps

    @cached_property
    def _of_all(self) -> Any:
        return place(self.source.given, self.program.whole)

    def go(self, wave: int, batches: Any, awake: np.ndarray | None = None) -> jax.Array:
        """[places, chunk]: the losses of these steps, of the runs that are awake, nan of others and of steps not made.
        Does not wait for them."""
        if wave not in self._given:
            self._given[wave] = self._placed(wave)
        numbers, seeds, seed_of = self._given[wave]
        carried = self._carried.pop(wave, None) or start(self.program, numbers, seeds, self._params)
        mask = self._all_awake if awake is None else place(awake[self.of(wave)], self.program.by_run)
        self._carried[wave], losses = advance(self.program, carried, numbers, seed_of, mask, *batches)
        return losses

    def until(self, begin: int, end: int) -> int:
        """Where the next call ends: after about a second, so that slow runs too show, and save, how far they are; for
        loaded batches, and in processes that have to agree, after as many steps always."""
        size, known = self.program.chunk, self._steps_made
        if self.source.once or jax.process_count() > 1:
            return min(begin + min(size, ALWAYS), end)
        steps = CALL_SECONDS * known / (time.monotonic() - self._began) if known else FIRST
        return min(begin + min(size, 2 ** int(math.log2(max(1, steps)))), end)  # powers of two meet loaded chunks again

    def read(self, losses: jax.Array, steps: int) -> np.ndarray:
        """[places, steps]: what `go` gave for so many steps; waits for it."""
        found = fetched(losses)[:, :steps]
        self._steps_made += steps
        return found

    def carried(self, waves: Sequence[int]) -> list[Run]:
        return [self._carried[wave] for wave in waves if wave in self._carried]

    def go_on_with(self, waves: Sequence[int], carried: Sequence[Run]) -> None:
        """From what was saved."""
        self._carried = dict(zip(waves, carried, strict=True))

    def finish(self, wave: int) -> tuple[chex.Array, chex.Array | None]:
        """([places]: whether each run of a wave is alive, its `eval_fn`); then forgets what the wave carries."""
        evaluated = None if self.program.eval_fn is None else self.evaluated(wave)
        del self._given[wave]
        return self._carried.pop(wave).alive, evaluated

    def evaluated(self, wave: int) -> jax.Array:
        """[places]: of `eval_fn`."""
        return evaluate(self.program, self._carried[wave].params, self._eval_batch)

    @cached_property
    def _eval_batch(self) -> Any:
        return place(self.eval_batch, self.program.whole)

    def _placed(self, wave: int) -> Any:
        """(numbers, seeds, places of the seeds) of a wave, on the devices."""
        runs = self.of(wave)
        given = jax.tree.map(lambda x: x[runs], self.numbers), self._seeds[self._seed_of[runs]], self._seed_of[runs]
        return place(given, self.program.by_run)

    @property
    def _all_awake(self) -> jax.Array:
        return place(np.ones(self.program.places, bool), self.program.by_run)

    @cached_property
    def _params(self) -> Any:
        if self.program.init:
            return None
        tx = self.program.optimizer(jax.tree.map(lambda x: x[0], self.numbers))
        return place(arranged(tx, jax.tree.map(np.asarray, self.init)), self.program.whole)

    def like_started(self) -> Run:
        """Shapes and places of what a wave carries."""
        numbers, seeds, _ = self._placed(0)
        run = start.eval_shape(self.program, numbers, seeds, self._params)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.program.by_run), run)

    def _compiled(self) -> float:
        """Compiles both programs at the same time, for the calls that follow; the bytes that a device needs."""
        program, (numbers, seeds, seed_of) = self.program, self._placed(0)
        with ThreadPoolExecutor(1) as pool:
            starting = pool.submit(start.lower(program, numbers, seeds, self._params).compile)
            batches = self.batches(0, min(program.chunk, self.steps))
            compiled = advance.lower(
                program, self.like_started(), numbers, seed_of, self._all_awake, *batches
            ).compile()
            starting.result()
        memory = compiled.memory_analysis()
        if memory is None:
            return 0.0
        others = self.waves - 1 if self.source.once else min(self.waves - 1, 1)  # that carry something at the same time
        return memory.argument_size_in_bytes + memory.temp_size_in_bytes + others * memory.alias_size_in_bytes


def _free_bytes(mesh: Mesh) -> int | None:
    """Of the fullest of the devices here; None where that isn't known, as on a CPU."""
    stats = [device.memory_stats() for device in mesh.local_devices]
    return min((s["bytes_limit"] - s["bytes_in_use"] for s in stats if s and "bytes_limit" in s), default=None)


def fetched(x: jax.Array) -> np.ndarray:
    """In every process, all of it."""
    return np.asarray(x if x.is_fully_addressable else process_allgather(x, tiled=True))
