"""The runs of a search, on all devices: settings × seeds, driven from step to step."""

from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Mesh

from lrjax.search.batches import Batches
from lrjax.search.program import Program, advance, evaluate, place, start


def programmed(*, mesh: Mesh | None, together: int | None, runs: int, **parts: Any) -> Program:
    """The program for so many runs: on all devices, and in groups that suit them."""
    if mesh is None:
        devices = jax.devices()
        mesh = Mesh(np.array(devices if jax.process_count() > 1 else devices[:runs]), ("runs",))
    each = -(-runs // mesh.size)
    is_cpu = mesh.devices.flat[0].platform == "cpu"
    return Program(mesh=mesh, together=min(together or (1 if is_cpu else each), each), **parts)


class Runs:
    """The state of all runs. On the devices the runs are one axis; here they are [settings, seeds]."""

    def __init__(self, program: Program, source: Batches, numbers: Any, init: Any, settings: int, seeds: int):
        self.program, self.source, self.shape = program, source, (settings, seeds)
        runs, places = settings * seeds, program.mesh.size * program.together
        self._run = np.minimum(np.arange(-(-runs // places) * places), runs - 1)  # the last one fills the groups
        self._numbers = place(jax.tree.map(lambda x: x[self._run // seeds], numbers), program.by_run)
        self._seeds = place((self._run % seeds).astype(np.int32), program.by_run)
        params = None if callable(init) else place(init, program.whole)
        self._carried = start(program, self._numbers, self._seeds, params)

    def go(self, begin: int, end: int, awake: np.ndarray | None = None) -> np.ndarray:
        """[settings, seeds, end − begin]: the losses of the steps from `begin` to `end`, at most a chunk, of the runs
        that are awake, nan of others and of steps not made."""
        program, count = self.program, end - begin
        wanted = np.ones(self.shape, bool) if awake is None else awake
        batches = self.source.chunk(begin, count, program.chunk)
        chunk = place((batches, np.int32(begin), np.int32(count)), program.whole)
        mask = place(wanted.ravel()[self._run], program.by_run)
        self._carried, losses = advance(program, self._carried, self._numbers, self._seeds, mask, *chunk)
        return self._fetched(losses)[:, :, :count]

    def evaluated(self, batch: Any) -> np.ndarray:
        """[settings, seeds]: of `eval_fn`."""
        placed = None if batch is None else place(batch, self.program.whole)
        return self._fetched(evaluate(self.program, self._carried.params, placed))

    @property
    def diverged(self) -> np.ndarray:
        return ~self._fetched(self._carried.alive)

    def _fetched(self, x: jax.Array) -> np.ndarray:
        whole = np.asarray(x if x.is_fully_addressable else process_allgather(x, tiled=True))
        settings, seeds = self.shape
        return whole[: settings * seeds].reshape(settings, seeds, *x.shape[1:])
