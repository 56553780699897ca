"""Groups runs into waves, the runs that the devices train at the same time, and holds their carries."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.training.parameters import is_key
from lrjax.training.program import Carry, Program, RunInputs
from lrjax.training.sharding import RUNS

NONE = np.zeros(0, int)


class Waves:
    """The waves of an engine. The carry of a wave stays on the devices from its first step until it is forgotten.

    Args:
      count: of all runs.
      program: has the size of a wave.
    """

    def __init__(self, count: int, program: Program):
        self.count, self.program = count, program
        self.carried: dict[int, Carry] = {}
        self.inputs: dict[int, RunInputs] = {}
        self._needed = np.zeros(count, bool)  # bool [runs]: whether the carry of each is needed
        self.set_order(np.arange(count))

    def set_order(self, order: np.ndarray) -> None:
        """Sets the order in which runs are assigned to waves."""
        self.order, self._position = order, np.argsort(order)

    @property
    def wave_count(self) -> int:
        return -(-self.count // self.program.wave_size)

    def run_indices(self, wave: int) -> np.ndarray:
        """Returns the runs of a wave; the last run repeats to fill it."""
        size = self.program.wave_size
        return self.order[np.minimum(np.arange(wave * size, (wave + 1) * size), self.count - 1)]

    def run_indices_of(self, waves: Sequence[int]) -> np.ndarray:
        return np.concatenate([NONE, *(self.run_indices(wave) for wave in waves)])

    def waves_of(self, run_indices: np.ndarray) -> list[int]:
        """Returns the waves that these runs are in."""
        return np.unique(self._position[run_indices] // self.program.wave_size).tolist()

    def mark_needed(self, active: np.ndarray) -> None:
        """Marks the active (bool [runs]) runs as needed."""
        self._needed |= active

    def slice_run(self, carry: Carry, run: int) -> Carry:
        """Returns the carry of one run from that of its wave, on the host."""
        index, runs_per_device = int(self._position[run]) % self.program.wave_size, self.program.runs_per_device
        begin = index // runs_per_device * runs_per_device  # of the runs on the same devices

        def take(x: jax.Array) -> Any:
            if not x.is_fully_addressable:
                return fetch(x[index])
            shards = [s for s in x.addressable_shards if s.replica_id == 0 and (s.index[0].start or 0) == begin]
            one = lambda part: fetch(part)[0] if runs_per_device == 1 else fetch(part[index % runs_per_device])
            if len(shards) == 1:  # compiles nothing where a device has one run
                return one(shards[0].data)
            assembled = np.empty(x.shape[1:], x.dtype)
            for shard in shards:
                assembled[shard.index[1:]] = one(shard.data)
            return assembled

        return jax.tree.map(take, carry)

    def carry_of(self, run: int) -> Carry:
        """Returns the carry of a run, on the host."""
        return self.slice_run(self.carried[self.waves_of(np.array([run]))[0]], run)

    def forget(self, wave: int) -> Carry:
        """Removes the carry of a wave and returns it."""
        self.inputs.pop(wave, None)
        self._needed[self.run_indices(wave)] = False
        return self.carried.pop(wave)

    def drop(self, run_indices: np.ndarray, is_worth_compiling: Callable[[int], bool]) -> np.ndarray:
        """Drops the carry of runs: of waves that have no run left, and, where `is_worth_compiling` a program with that
        many runs per device, of the others too. Returns the runs whose carry is forgotten."""
        self._needed[run_indices] = False
        unneeded = [wave for wave in self.carried if not self._needed[self.run_indices(wave)].any()]
        forgotten = self.run_indices_of(unneeded)
        for wave in unneeded:
            self.forget(wave)
        return np.union1d(forgotten, self._compact(is_worth_compiling))

    def _compact(self, is_worth_compiling: Callable[[int], bool]) -> np.ndarray:
        """Gathers the runs that are needed in one wave with as few runs per device as possible. Returns the others,
        which are forgotten."""
        program, devices, runs = self.program, self.program.mesh.shape[RUNS], np.flatnonzero(self._needed)
        fewer = -(-len(runs) // devices)
        if not self.carried or not 0 < fewer < program.runs_per_device or jax.process_count() > 1:
            return NONE
        if not is_worth_compiling(fewer):
            return NONE
        waves = sorted(self.carried)
        index = np.searchsorted(waves, self._position[runs] // program.wave_size) * program.wave_size
        index += self._position[runs] % program.wave_size
        index = index[np.minimum(np.arange(fewer * devices), len(index) - 1)]
        shardings = jax.tree.map(lambda x: x.sharding, self.carried[waves[0]])
        gather = lambda carried: jax.tree.map(lambda *xs: jnp.concatenate(xs)[index], *carried)
        carry = jax.jit(gather, out_shardings=shardings)([self.carried.pop(wave) for wave in waves])
        self.carried, self.inputs = {0: carry}, {}
        others = np.setdiff1d(self.order, runs)
        self.set_order(np.concatenate([runs, others]))
        self.program = replace(program, runs_per_device=fewer)
        return others

    def make_contiguous(self, run_indices: np.ndarray) -> None:
        """Moves runs without a carry together, behind those with one, so that they are in few waves."""
        first = (max(self.carried, default=-1) + 1) * self.program.wave_size
        if first <= self._position[run_indices].min():
            rest = np.setdiff1d(self.order[first:], run_indices)
            self.set_order(np.concatenate([self.order[:first], run_indices, rest]))


def fetch(x: jax.Array) -> Any:
    """Copies an array to the host, all of it in every process."""
    if is_key(x):
        return x
    if x.is_fully_addressable:
        return np.asarray(x)
    from jax.experimental.multihost_utils import process_allgather  # here, for the time of the import

    return np.asarray(process_allgather(x, tiled=True))
