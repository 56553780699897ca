"""The engine: it trains the runs of a task on all devices, wave by wave."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lrjax.domains import is_function
from lrjax.training.batches import Batches, as_batches
from lrjax.training.compiled import compiled
from lrjax.training.interrupt import Interrupted, is_interrupted
from lrjax.training.parameters import is_joined, is_key, merge
from lrjax.training.program import Carry, Identity, Interval, Program, parts_of, place
from lrjax.training.record import Record
from lrjax.training.sharding import RUNS, as_named, runs_mesh
from lrjax.training.task import Task
from lrjax.training.waves import Waves, fetch
from lrjax.value import bad_argument

KEPT = 64  # chunks of batches
FIRST, ALWAYS = 16, 128  # steps of a call before it is known how long they take, and where all calls must be alike
CALL_SECONDS = 1.0
MOST_OF_MEMORY = 0.8  # the part of a device's free memory that the runs may take
NEVER = 2**31 - 1

Show = Callable[[np.ndarray, int, int], None]  # run indices, and the steps, from one to another, that are recorded


@dataclass(frozen=True)
class Runs:
    """What each run is. The arrays have the runs first."""

    make: Callable[[Any], Any]  # from the numbers of a run to its optimizer
    numbers: Any
    seeds: Sequence[int]  # the list of seeds
    seed_index: np.ndarray  # of each run, in that list
    is_control: np.ndarray  # bool: whether it never updates
    together: int | None = None  # how many are under way at the same time, at most; None for all


def with_controls(make: Callable[[Any], Any], numbers: Any, seeds: Sequence[int], seed_index: np.ndarray) -> Any:
    """(every setting of `numbers` with the seeds at `seed_index`, then a control of each seed; the setting of each run,
    −1 for a control)."""
    settings, each, controls = len(jax.tree.leaves(numbers)[0]), len(seed_index), len(seeds)
    repeat = lambda x: np.concatenate([x.repeat(each, axis=0), x[:1].repeat(controls, axis=0)])
    setting_of = np.append(np.arange(settings).repeat(each), np.full(controls, -1))
    index = np.append(np.tile(seed_index, settings), np.arange(controls)).astype(np.int32)
    return Runs(make, jax.tree.map(repeat, numbers), seeds, index, setting_of < 0), setting_of


class Engine:
    """Trains runs of a task, wave by wave.

    Args:
      caller: the function that the user called, for errors.
      task: what is trained.
      runs: what each run is.
      steps: of each run.
      eval_every: steps between two evaluations; None for the last step alone.
      mesh: the devices; None for all.
      vectorized: runs that a device trains at the same time; None for what suits it.
      stop: whether a run whose parameters aren't finite costs no more time.
      hashed: whether loaded batches are hashed, for a checkpoint.
    """

    def __init__(
        self,
        caller: str,
        task: Task,
        runs: Runs,
        steps: int,
        *,
        eval_every: int | None = None,
        mesh: Mesh | None = None,
        vectorized: int | None = None,
        stop: bool = True,
        hashed: bool = False,
    ):
        self.caller, self.task, self.runs, self.steps, self.eval_every = caller, task, runs, steps, eval_every or NEVER
        self.source = as_batches(caller, task, steps, runs.seeds, hashed)
        program = build_program(caller, task, runs, self.source, mesh, vectorized, stop)
        self.waves = Waves(self.count, program)
        self._loaded: dict[tuple[int, int], Any] = {}
        self._pending: deque[Callable[[], None]] = deque()  # the devices go on while results are read
        self._released = 0  # waves in `_pending`, on the devices until then
        self._steps_made = 0
        self.record = self._fit_memory(may_shrink=vectorized is None)
        self._began = time.monotonic()

    @property
    def count(self) -> int:
        return len(self.runs.seed_index)

    @property
    def program(self) -> Program:
        return self.waves.program

    @cached_property
    def evaluated_at(self) -> np.ndarray:
        """Updates made before each evaluation."""
        at = np.arange(self.eval_every, self.steps + 1, self.eval_every)
        return np.unique(np.append(at, self.steps))

    def is_evaluated(self, step: int) -> bool:
        return step % self.eval_every == 0 or step == self.steps

    @property
    def groups(self) -> list[range]:
        """Waves that are trained side by side: one after the other, or all where a batch should be asked for once."""
        waves = range(self.waves.number)
        return [waves] if self.source.once else [range(wave, wave + 1) for wave in waves]

    def advance(
        self,
        active: np.ndarray,
        waves: Sequence[int],
        begin: int,
        end: int,
        show: Show,
        pause: Callable[[int], object] = lambda step: None,
        evaluate_at_end: bool = True,
    ) -> None:
        """Trains the runs of some waves that are active (bool [runs]) from one step to another, and puts down what they
        did in `record`. `pause(step)` is called after each call of the program. Results are read later: see
        `settle`.

        Raises:
          Interrupted: a signal came; the results of all calls are read.
        """
        eval_at = end if evaluate_at_end else NEVER
        self.waves.need(active)
        while begin < end:
            if is_interrupted():
                self.settle()
                raise Interrupted(f"{self.caller}: stopped by a signal.")
            chunk_end = self._chunk_end(begin, end, len(waves))
            for wave in waves:
                interval = Interval(*map(np.int32, (begin, chunk_end - begin, self.eval_every, eval_at)))
                found = self._dispatch(wave, active, self.batches(begin, chunk_end), interval)
                self._pending.append(partial(self._read, wave, active, begin, chunk_end, found, show))
            begin = chunk_end
            pause(begin)
            self.settle(left=2)

    @property
    def _step_seconds(self) -> float:
        """Of a step of a wave, so far."""
        return (time.monotonic() - self._began) / max(self._steps_made, 1)

    def settle(self, left: int = 0) -> None:
        """Reads the results of all calls but the latest."""
        while len(self._pending) > left:
            self._pending.popleft()()

    def release(self, wave: int, finish: Callable[[Carry], None] = lambda carry: None) -> None:
        """Forgets what a wave carries; `finish` gets it once the results are read. What the waves released before it
        carry is freed first: the devices hold one of these beside the wave that is trained."""
        while self._released:
            self._pending.popleft()()
        carry = self.waves.forget(wave)

        def free() -> None:
            self._released -= 1
            finish(carry)

        self._released += 1
        self._pending.append(free)

    def drop(self, run_indices: np.ndarray) -> np.ndarray:
        """Forgets what runs carry, where nothing else of their wave is needed; lanes of a wave are left out where as
        many steps of them as a run has would take longer than to compile a program for fewer. Returns the runs that
        are forgotten, which begin anew if they are asked for again."""
        self.settle()
        seconds, lanes_now = self.steps * self._step_seconds, self.program.vectorized
        found = self.waves.drop(run_indices, lambda lanes: (1 - lanes / lanes_now) * seconds > self._compile_seconds)
        self._compiled = compiled(self.program)
        return found

    def rearrange(self, order: np.ndarray, lanes: int) -> None:
        """Puts the runs in another order, in so many lanes of a device, before anything is carried."""
        self.waves.put_in_order(order)
        self.waves.program = replace(self.program, vectorized=lanes)
        self._compiled = compiled(self.program)

    def on_devices(self, carry: Carry) -> Carry:
        """What a run carried, with trees in place of joined vectors: on the first device, or sharded as it was."""
        carry = jax.tree.map(lambda x: x.tree if is_joined(x) else x, carry, is_leaf=is_joined)
        sharding, mesh = self.program.run_sharding, self.program.mesh
        if sharding is None:
            return jax.device_put(carry)
        is_here = lambda devices: any(device.process_index == jax.process_index() for device in devices.flat)
        own = Mesh(next(filter(is_here, mesh.devices)), mesh.axis_names[1:])
        return place(carry, jax.tree.map(lambda spec: NamedSharding(own, spec), sharding.of_carry(carry, mesh)))

    def carry_shapes(self) -> Carry:
        """Shapes, dtypes and shardings of what a wave carries."""
        carry, by_run = self._compiled.start.eval_shape(self._identity(0), self._given), self.program.by_run
        describe = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
        if self.program.run_sharding is None:
            return jax.tree.map(lambda x: describe(x, by_run), carry)
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), carry)
        mesh = self.program.mesh
        named = lambda spec: NamedSharding(mesh, as_named(PartitionSpec(RUNS, *spec), mesh))
        specs = self.program.run_sharding.of_carry(one, mesh)
        return jax.tree.map(lambda x, spec: describe(x, named(spec)), carry, specs)

    @property
    def _most_waves(self) -> int:
        """Of those on the devices at the same time: all that are trained side by side, all runs that a search may have
        under way, or the one that is trained and the one before it."""
        if self.source.once:
            return len(self.groups[0])
        together = self.runs.together
        return min(self.waves.number, 2 if together is None else max(2, -(-together // self.program.wave_size)))

    @cached_property
    def validation(self) -> Any:
        return place(self.task.validation_batches, self.program.replicated)

    def _dispatch(self, wave: int, active: np.ndarray, chunk: Any, interval: Interval) -> Any:
        """Dispatches asynchronously; what is recorded, on the devices."""
        if wave not in self.waves.identities:
            self.waves.identities[wave] = self._identity(wave)
        identity = self.waves.identities[wave]
        carry = self.waves.carried.pop(wave, None)
        carry = self._compiled.start(identity, self._given) if carry is None else carry
        mask = place(active[self.waves.run_indices(wave)], self.program.by_run)
        carry, record = self._compiled.advance(carry, identity, mask, chunk, interval, self.validation)
        self.waves.carried[wave] = carry
        return record

    def _read(self, wave: int, active: np.ndarray, begin: int, end: int, found: Any, show: Show) -> None:
        """Waits for what was dispatched."""
        indices = self.waves.run_indices(wave)
        keep = active[indices]
        indices = indices[keep]
        self.record.write(indices, begin, end, jax.tree.map(lambda x: fetch(x)[keep], found))
        self._steps_made += end - begin
        show(indices, begin, end)

    def _chunk_end(self, begin: int, end: int, waves: int) -> int:
        """Where the next call ends: after about a second, so that slow runs too show, and save, how far they are; in
        processes that have to agree, after as many steps always."""
        size = self.program.chunk
        if jax.process_count() > 1:
            return min(begin + min(size, ALWAYS), end)
        steps = CALL_SECONDS / self._step_seconds / waves if self._steps_made else FIRST
        return min(begin + min(size, 2 ** int(math.log2(max(1, steps)))), end)  # powers of two meet loaded chunks again

    def batches(self, begin: int, end: int) -> Any:
        """(what all chunks share, the batches of at most a chunk of steps); some are kept, for the next wave."""
        if (begin, end) not in self._loaded:
            if self.source.once or len(self._loaded) == KEPT:
                self._loaded.clear()
            self._loaded[begin, end] = place(self.source.chunk(begin, end - begin), self.program.replicated)
        return self._shared, self._loaded[begin, end]

    @cached_property
    def example_chunk(self) -> Any:
        """Batches of the first call, as `batches` gives them, or their shapes."""
        if self.source.like is None:
            return self.batches(0, min(self.program.chunk, self.steps))
        dtype = lambda x: jax.dtypes.canonicalize_dtype(x.dtype)
        describe = lambda x: jax.ShapeDtypeStruct(x.shape, dtype(x), sharding=self.program.replicated)
        return self._shared, jax.tree.map(describe, self.source.like)

    @cached_property
    def _shared(self) -> Any:
        return place(self.source.given, self.program.replicated)

    def _identity(self, wave: int) -> Identity:
        """What the runs of a wave are, on the devices."""
        runs, indices = self.runs, self.waves.run_indices(wave)
        seed_index = runs.seed_index[indices].astype(np.int32)
        identity = Identity(
            jax.tree.map(lambda x: x[indices], runs.numbers),
            np.asarray(runs.seeds, np.int32)[seed_index],
            seed_index,
            runs.is_control[indices],
        )
        return place(identity, self.program.by_run)

    @cached_property
    def _given(self) -> Any:
        if self.program.init:
            return None
        tx = self.program.optimizer(jax.tree.map(lambda x: x[0], self.runs.numbers))
        init = jax.tree.map(lambda x: x if is_key(x) else np.asarray(x), self.task.init)
        trained, others, model_state = parts_of(self.program, tx, init)
        replicated = self.program.replicated
        if self.program.run_sharding is None:
            return place((trained, others, model_state), replicated)
        specs = self.program.run_sharding.of_params(merge(trained, others), trained, self.program.mesh)
        shardings = jax.tree.map(lambda spec: NamedSharding(self.program.mesh, spec), specs)
        return place(trained, shardings), place(others, replicated), place(model_state, replicated)

    def _fit_memory(self, may_shrink: bool) -> Record:
        """Compiles the program, for fewer runs at the same time where the memory holds no more; an empty record."""
        free = _free_bytes(self.program.mesh)
        needed, recorded = self._compile()
        while may_shrink and free is not None and needed > MOST_OF_MEMORY * free and self.program.vectorized > 1:
            self.waves.program = replace(self.program, vectorized=-(-self.program.vectorized // 2))
            needed, recorded = self._compile()
        recorded["metrics"] = list(self.task.metrics)  # the first decides; JAX sorts names
        return Record.empty(self.count, self.steps, recorded)

    def _compile(self) -> tuple[float, Any]:
        """Compiles both programs at the same time, for the calls that follow: (the bytes that a device needs, the names
        of what is recorded)."""
        begin, program, identity = time.monotonic(), self.program, self._identity(0)
        self._compiled = compiled(program)
        with ThreadPoolExecutor(1) as pool:
            starting = pool.submit(self._compiled.start.lower(identity, self._given).compile)
            end = min(program.chunk, self.steps)
            mask = place(np.ones(program.wave_size, bool), program.by_run)
            interval = Interval(*map(np.int32, (0, end, self.eval_every, self.steps)))
            traced = self._compiled.advance.trace(
                self.carry_shapes(), identity, mask, self.example_chunk, interval, self.validation
            )
            made = traced.lower().compile()
            starting.result()
        self._compiled.seconds = max(self._compiled.seconds, time.monotonic() - begin)
        self._compile_seconds = self._compiled.seconds
        recorded = jax.tree.map(lambda x: None, traced.out_info[1])
        memory = made.memory_analysis()
        if memory is None:
            return 0.0, recorded
        others = self._most_waves - 1  # that carry too
        return memory.argument_size_in_bytes + memory.temp_size_in_bytes + others * memory.alias_size_in_bytes, recorded


def build_program(
    caller: str, task: Task, runs: Runs, source: Batches, mesh: Mesh | None, vectorized: int | None, stop: bool
) -> Program:
    """The program for so many runs: on all devices, and as many at once as suit them."""
    count = len(runs.seed_index)
    mesh = runs_mesh(caller, mesh, task.run_sharding is not None, count)
    each = -(-min(runs.together or count, count) // mesh.shape[RUNS])
    return Program(
        objective=task.objective,
        make=runs.make,
        batch_at=source.batch_at,
        init=task.init if is_function(task.init) else None,
        metrics=tuple(task.metrics.items()),
        chunk=source.size,
        vectorized=min(vectorized or _suitable(mesh) or each, each),
        stop=stop,
        mesh=mesh,
        run_sharding=task.run_sharding,
    )


def _suitable(mesh: Mesh) -> int | None:
    """Runs that a device vectorises, at most; None for all.

    On a CPU one alone compiles fastest, ends when its parameters aren't finite, and suits big models too.
    """
    return 1 if mesh.devices.flat[0].platform == "cpu" else None


def _free_bytes(mesh: Mesh) -> int | None:
    """Of the fullest of the devices here; None where that isn't known, as on a CPU."""
    stats = [device.memory_stats() for device in mesh.local_devices]
    return min((s["bytes_limit"] - s["bytes_in_use"] for s in stats if s and "bytes_limit" in s), default=None)


def check_mesh(caller: str, mesh: Any) -> None:
    if mesh is not None and not isinstance(mesh, Mesh):
        raise bad_argument(caller, "mesh", "a jax.sharding.Mesh, or None for all devices", mesh)
