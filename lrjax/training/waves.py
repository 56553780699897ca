"""Waves: the runs that the devices train at the same time, and what they carry from step to step."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from lrjax.training.parameters import is_key
from lrjax.training.program import Carry, Identity, Program
from lrjax.training.sharding import RUNS

NONE = np.zeros(0, int)


class Waves:
    """What a wave carries stays on the devices from its first step until it is forgotten.

    Args:
      count: of all runs.
      program: says how many a wave are.
    """

    def __init__(self, count: int, program: Program):
        self.count, self.program = count, program
        self.carried: dict[int, Carry] = {}
        self.identities: dict[int, Identity] = {}
        self._needed = np.zeros(count, bool)  # the runs whose carry is
        self.put_in_order(np.arange(count))

    def put_in_order(self, order: np.ndarray) -> None:
        """The runs as waves take them."""
        self.order, self._place = order, np.argsort(order)

    @property
    def number(self) -> int:
        return -(-self.count // self.program.wave_size)

    def run_indices(self, wave: int) -> np.ndarray:
        """The runs of a wave; the last one repeats to fill it."""
        size = self.program.wave_size
        return self.order[np.minimum(np.arange(wave * size, (wave + 1) * size), self.count - 1)]

    def run_indices_of(self, waves: Sequence[int]) -> np.ndarray:
        return np.concatenate([NONE, *(self.run_indices(wave) for wave in waves)])

    def containing(self, run_indices: np.ndarray) -> list[int]:
        """The waves of some runs."""
        return np.unique(self._place[run_indices] // self.program.wave_size).tolist()

    def need(self, active: np.ndarray) -> None:
        """bool [runs]: these go on."""
        self._needed |= active

    def of_run(self, carry: Carry, run: int) -> Carry:
        """Of what a wave carries the part of one run, on the host."""
        index, vectorized = int(self._place[run]) % self.program.wave_size, self.program.vectorized
        begin = index // vectorized * vectorized  # of the runs that are on the same devices

        def take(x: jax.Array) -> Any:
            if not x.is_fully_addressable:
                return fetch(x[index])
            shards = [s for s in x.addressable_shards if s.replica_id == 0 and (s.index[0].start or 0) == begin]
            one = lambda part: fetch(part)[0] if vectorized == 1 else fetch(part[index % vectorized])
            if len(shards) == 1:  # without compiling anything where it is one run
                return one(shards[0].data)
            whole = np.empty(x.shape[1:], x.dtype)
            for shard in shards:
                whole[shard.index[1:]] = one(shard.data)
            return whole

        return jax.tree.map(take, carry)

    def carried_by(self, run: int) -> Carry:
        """What a run carries, on the host."""
        return self.of_run(self.carried[self.containing(np.array([run]))[0]], run)

    def forget(self, wave: int) -> Carry:
        """What a wave carried, which is no longer kept here."""
        self.identities.pop(wave, None)
        self._needed[self.run_indices(wave)] = False
        return self.carried.pop(wave)

    def drop(self, run_indices: np.ndarray, is_worth: Callable[[int], bool]) -> np.ndarray:
        """Forgets what runs carry: whole waves of them, and lanes of waves where it is worth a program with so many
        lanes of a device. Returns the runs that are forgotten, which begin anew if they are asked for again."""
        self._needed[run_indices] = False
        gone = [wave for wave in self.carried if not self._needed[self.run_indices(wave)].any()]
        forgotten = self.run_indices_of(gone)
        for wave in gone:
            self.forget(wave)
        return np.union1d(forgotten, self._compact(is_worth))

    def _compact(self, is_worth: Callable[[int], bool]) -> np.ndarray:
        """Puts the runs that are needed side by side, in as few lanes of the devices as they fill. Returns the others,
        which are forgotten."""
        program, devices, runs = self.program, self.program.mesh.shape[RUNS], np.flatnonzero(self._needed)
        lanes = -(-len(runs) // devices)
        if not self.carried or not 0 < lanes < program.vectorized or jax.process_count() > 1 or not is_worth(lanes):
            return NONE
        waves = sorted(self.carried)
        index = np.searchsorted(waves, self._place[runs] // program.wave_size) * program.wave_size
        index += self._place[runs] % program.wave_size
        index = index[np.minimum(np.arange(lanes * devices), len(index) - 1)]
        shardings = jax.tree.map(lambda x: x.sharding, self.carried[waves[0]])
        join = lambda carried: jax.tree.map(lambda *xs: jnp.concatenate(xs)[index], *carried)
        kept = jax.jit(join, out_shardings=shardings)([self.carried.pop(wave) for wave in waves])
        self.carried, self.identities = {0: kept}, {}
        others = np.setdiff1d(self.order, runs)
        self.put_in_order(np.concatenate([runs, others]))
        self.program = replace(program, vectorized=lanes)
        return others

    def line_up(self, run_indices: np.ndarray) -> None:
        """Puts runs that carry nothing side by side, behind those that do, so that they fill few waves."""
        first = (max(self.carried, default=-1) + 1) * self.program.wave_size
        if first <= self._place[run_indices].min():
            rest = np.setdiff1d(self.order[first:], run_indices)
            self.put_in_order(np.concatenate([self.order[:first], run_indices, rest]))


def fetch(x: jax.Array) -> Any:
    """All of it, in every process."""
    if is_key(x):
        return x
    return np.asarray(x if x.is_fully_addressable else process_allgather(x, tiled=True))
