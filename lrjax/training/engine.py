"""Trains the runs of a task on all devices, wave by wave."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lrjax.domains import is_function
from lrjax.training.batches import Batches, as_batches
from lrjax.training.compiled import compiled
from lrjax.training.interrupt import Interrupted, is_interrupted
from lrjax.training.parameters import is_joined, is_key, merge
from lrjax.training.program import Carry, Interval, Program, RunInputs, put_on_devices, split_init
from lrjax.training.record import Record
from lrjax.training.runs import Runs
from lrjax.training.sharding import RUNS, normalized_spec, runs_mesh
from lrjax.training.task import Task
from lrjax.training.waves import Waves, fetch
from lrjax.value import bad_argument

CACHED_CHUNKS = 64
FIRST_CALL_STEPS = 16  # before it is known how long a step takes
MULTIPROCESS_CALL_STEPS = 128
CALL_SECONDS = 1.0
MEMORY_FRACTION = 0.8  # of a device's free memory that the runs may take
NEVER = 2**31 - 1

Show = Callable[[np.ndarray, int, int], None]  # gets run indices, begin and end of the steps that were recorded


class Engine:
    """Trains runs of a task, wave by wave.

    Args:
      caller: the function that the user called, for errors.
      task: the task.
      runs: the runs.
      steps: of each run.
      eval_every: steps between two evaluations; None to evaluate after the last step only.
      mesh: the devices; None for all.
      runs_per_device: runs that a device trains at the same time; None for a default that suits the device.
      stop_diverged: whether runs stop when their parameters are not finite.
      hashed: whether loaded batches are hashed, for a checkpoint.
      begin: the step at which the runs begin: their carry there is `initial`, which must be set then.
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
        runs_per_device: int | None = None,
        stop_diverged: bool = True,
        hashed: bool = False,
        begin: int = 0,
    ):
        self.caller, self.task, self.runs, self.steps, self.eval_every = caller, task, runs, steps, eval_every or NEVER
        self.begin = begin
        self.initial: Carry | None = None  # of one run, on the host; None where runs begin as the task says
        self.evaluated_before = np.zeros(0, int)  # updates made before the evaluations up to `begin`
        self.source = as_batches(caller, task, steps, runs.seeds, hashed, begin)
        program = build_program(caller, task, runs, self.source, mesh, runs_per_device, stop_diverged)
        self.waves = Waves(self.count, program)
        self._loaded: dict[tuple[int, int], Any] = {}
        self._pending: deque[Callable[[], None]] = deque()  # read later: the devices compute meanwhile
        self._released = 0  # waves in `_pending`, whose carry is on the devices until then
        self._steps_made = 0
        self.record = self._fit_memory(may_shrink=runs_per_device is None)
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
        return np.unique(np.concatenate([self.evaluated_before, at[at > self.begin], [self.steps]]))

    def is_evaluated(self, step: int) -> bool:
        return step % self.eval_every == 0 or step == self.steps

    @property
    def groups(self) -> list[range]:
        """The waves that advance chunk by chunk together: each by itself, or all where batches are loaded once."""
        waves = range(self.waves.wave_count)
        return [waves] if self.source.load_once else [range(wave, wave + 1) for wave in waves]

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
        """Trains the active (bool [runs]) runs of some waves from step `begin` to `end` and writes `record`.

        `pause(step)` is called after each call of the compiled program. Results are read asynchronously: see
        `read_pending`.

        Raises:
          Interrupted: a signal was received; the results of all calls are read.
        """
        eval_at = end if evaluate_at_end else NEVER
        self.waves.mark_needed(active)
        while begin < end:
            if is_interrupted():
                self.read_pending()
                raise Interrupted(f"{self.caller}: stopped by a signal.")
            chunk_end = self._chunk_end(begin, end, len(waves))
            for wave in waves:
                interval = Interval(*map(np.int32, (begin, chunk_end - begin, self.eval_every, eval_at)))
                recorded = self._dispatch(wave, active, self.load_chunk(begin, chunk_end), interval)
                self._pending.append(partial(self._read, wave, active, begin, chunk_end, recorded, show))
            begin = chunk_end
            pause(begin)
            self.read_pending(left=2)

    @property
    def _step_seconds(self) -> float:
        """The mean time of a step of a wave so far."""
        return (time.monotonic() - self._began) / max(self._steps_made, 1)

    def read_pending(self, left: int = 0) -> None:
        """Reads the results of all calls but the latest `left` ones."""
        while len(self._pending) > left:
            self._pending.popleft()()

    def release(self, wave: int, finish: Callable[[Carry], None] = lambda carry: None) -> None:
        """Forgets the carry of a wave; `finish` gets it once the results are read. The carry of the waves released
        before is freed first, so that the devices hold at most one beside that of the wave that is trained."""
        while self._released:
            self._pending.popleft()()
        carry = self.waves.forget(wave)

        def free() -> None:
            self._released -= 1
            finish(carry)

        self._released += 1
        self._pending.append(free)

    def drop(self, run_indices: np.ndarray) -> np.ndarray:
        """Drops the carry of runs, where their wave has no other run that is needed. Compiles a program for fewer runs
        on a device where that takes less time than it would save over a full-length run. Returns the runs whose carry
        is forgotten: if they are trained again, they start at step 0."""
        self.read_pending()
        seconds, now = self.steps * self._step_seconds, self.program.runs_per_device
        forgotten = self.waves.drop(run_indices, lambda fewer: (1 - fewer / now) * seconds > self._compile_seconds)
        self._compiled = compiled(self.program)
        return forgotten

    def rearrange(self, order: np.ndarray, runs_per_device: int) -> None:
        """Sets the order of the runs and how many a device trains, before any has a carry."""
        self.waves.set_order(order)
        self.waves.program = replace(self.program, runs_per_device=runs_per_device)
        self._compiled = compiled(self.program)

    def to_devices(self, carry: Carry) -> Carry:
        """Puts the carry of a run on the first device, or sharded as it was, with trees in place of joined vectors."""
        carry = jax.tree.map(lambda x: x.tree if is_joined(x) else x, carry, is_leaf=is_joined)
        sharding, mesh = self.program.run_sharding, self.program.mesh
        if sharding is None:
            return jax.device_put(carry)
        is_here = lambda devices: any(device.process_index == jax.process_index() for device in devices.flat)
        own = Mesh(next(filter(is_here, mesh.devices)), mesh.axis_names[1:])
        return put_on_devices(
            carry, jax.tree.map(lambda spec: NamedSharding(own, spec), sharding.carry_specs(carry, mesh))
        )

    def carry_shapes(self) -> Carry:
        """Shapes, dtypes and shardings of the carry of a wave."""
        carry, by_run = self._compiled.start.eval_shape(self._run_inputs(0), self._given_init), self.program.by_run
        describe = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
        if self.program.run_sharding is None:
            return jax.tree.map(lambda x: describe(x, by_run), carry)
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), carry)
        mesh = self.program.mesh
        named = lambda spec: NamedSharding(mesh, normalized_spec(PartitionSpec(RUNS, *spec), mesh))
        specs = self.program.run_sharding.carry_specs(one, mesh)
        return jax.tree.map(lambda x, spec: describe(x, named(spec)), carry, specs)

    @property
    def _max_waves(self) -> int:
        """How many waves have their carry on the devices at the same time: all that are trained in turn, all runs that
        a search resumes, or the wave that is trained and the one before it."""
        if self.source.load_once:
            return len(self.groups[0])
        concurrent = self.runs.max_concurrent
        return min(self.waves.wave_count, 2 if concurrent is None else max(2, -(-concurrent // self.program.wave_size)))

    @cached_property
    def validation(self) -> Any:
        return put_on_devices(self.task.validation_batches, self.program.replicated)

    def _dispatch(self, wave: int, active: np.ndarray, chunk: Any, interval: Interval) -> Any:
        """Dispatches a call asynchronously and returns what it records, on the devices."""
        if wave not in self.waves.inputs:
            self.waves.inputs[wave] = self._run_inputs(wave)
        inputs = self.waves.inputs[wave]
        carry = self.waves.carried.pop(wave, None)
        carry = self._first_carry(inputs) if carry is None else carry
        mask = put_on_devices(active[self.waves.run_indices(wave)], self.program.by_run)
        carry, recorded = self._compiled.advance(carry, inputs, mask, chunk, interval, self.validation)
        self.waves.carried[wave] = carry
        return recorded

    def _first_carry(self, inputs: RunInputs) -> Carry:
        """Returns the carry of a wave at its first step."""
        if self.initial is None:
            return self._compiled.start(inputs, self._given_init)

        # copies, since the carry is donated
        repeat = lambda x: (jnp if is_key(x) else np).stack([x] * self.program.wave_size)
        carry = jax.tree.map(repeat, self.initial)
        return put_on_devices(carry, jax.tree.map(lambda x: x.sharding, self.carry_shapes()))

    def _read(self, wave: int, active: np.ndarray, begin: int, end: int, recorded: Any, show: Show) -> None:
        """Waits for a dispatched call and writes what it recorded."""
        indices = self.waves.run_indices(wave)
        mask = active[indices]
        indices = indices[mask]
        self.record.write(indices, begin, end, jax.tree.map(lambda x: fetch(x)[mask], recorded))
        self._steps_made += end - begin
        show(indices, begin, end)

    def _chunk_end(self, begin: int, end: int, waves: int) -> int:
        """Returns the step at which the next call ends: after about a second, so that slow runs too show and save their
        progress. Several processes must make equal calls, so there the number of steps is fixed."""
        size = self.program.chunk_size
        if jax.process_count() > 1:
            return min(begin + min(size, MULTIPROCESS_CALL_STEPS), end)
        steps = CALL_SECONDS / self._step_seconds / waves if self._steps_made else FIRST_CALL_STEPS
        return min(begin + min(size, 2 ** int(math.log2(max(1, steps)))), end)  # a power of two: cached chunks fit

    def load_chunk(self, begin: int, end: int) -> Any:
        """Returns (arrays that all chunks share, the chunk of these steps); caches chunks for the next wave."""
        if (begin, end) not in self._loaded:
            if self.source.load_once or len(self._loaded) == CACHED_CHUNKS:
                self._loaded.clear()
            chunk = self.source.load_chunk(begin, end - begin)
            self._loaded[begin, end] = put_on_devices(chunk, self.program.replicated)
        return self._shared, self._loaded[begin, end]

    @cached_property
    def example_chunk(self) -> Any:
        """The chunk of the first call, or its shapes."""
        if self.source.chunk_shapes is None:
            return self.load_chunk(0, min(self.program.chunk_size, self.steps))
        dtype = lambda x: jax.dtypes.canonicalize_dtype(x.dtype)
        describe = lambda x: jax.ShapeDtypeStruct(x.shape, dtype(x), sharding=self.program.replicated)
        return self._shared, jax.tree.map(describe, self.source.chunk_shapes)

    @cached_property
    def _shared(self) -> Any:
        return put_on_devices(self.source.shared, self.program.replicated)

    def _run_inputs(self, wave: int) -> RunInputs:
        """Puts the inputs of the runs of a wave on the devices."""
        runs, indices = self.runs, self.waves.run_indices(wave)
        seed_index = runs.seed_index[indices].astype(np.int32)
        inputs = RunInputs(
            jax.tree.map(lambda x: x[indices], runs.hyperparams),
            np.asarray(runs.seeds, np.int32)[seed_index],
            seed_index,
            runs.is_control[indices],
        )
        return put_on_devices(inputs, self.program.by_run)

    @cached_property
    def _given_init(self) -> Any:
        """The parts of the task's `init` on the devices, where it is a tree."""
        if self.program.init:
            return None
        tx = self.program.optimizer(jax.tree.map(lambda x: x[0], self.runs.hyperparams))
        init = jax.tree.map(lambda x: x if is_key(x) else np.asarray(x), self.task.init)
        trained, others, model_state = split_init(self.program, tx, init)
        replicated = self.program.replicated
        if self.program.run_sharding is None:
            return put_on_devices((trained, others, model_state), replicated)
        specs = self.program.run_sharding.param_specs(merge(trained, others), trained, self.program.mesh)
        shardings = jax.tree.map(lambda spec: NamedSharding(self.program.mesh, spec), specs)
        return (
            put_on_devices(trained, shardings),
            put_on_devices(others, replicated),
            put_on_devices(model_state, replicated),
        )

    def _fit_memory(self, may_shrink: bool) -> Record:
        """Compiles the program, for fewer runs at the same time where memory is short. Returns an empty record."""
        free = _free_bytes(self.program.mesh)
        needed, recorded = self._compile()
        while may_shrink and free is not None and needed > MEMORY_FRACTION * free and self.program.runs_per_device > 1:
            self.waves.program = replace(self.program, runs_per_device=-(-self.program.runs_per_device // 2))
            needed, recorded = self._compile()
        recorded["metrics"] = list(self.task.metrics)  # in the task's order, since the first decides: JAX sorts names
        return Record.empty(self.count, self.steps, recorded)

    def _compile(self) -> tuple[float, Any]:
        """Compiles `start` and `advance` in parallel. Returns (the bytes that a device needs, the names of what is
        recorded)."""
        begin, program, inputs = time.monotonic(), self.program, self._run_inputs(0)
        self._compiled = compiled(program)
        with ThreadPoolExecutor(1) as pool:
            starting = pool.submit(self._compiled.start.lower(inputs, self._given_init).compile)
            end = min(program.chunk_size, self.steps)
            mask = put_on_devices(np.ones(program.wave_size, bool), program.by_run)
            interval = Interval(*map(np.int32, (0, end, self.eval_every, self.steps)))
            traced = self._compiled.advance.trace(
                self.carry_shapes(), inputs, mask, self.example_chunk, interval, self.validation
            )
            executable = traced.lower().compile()
            starting.result()
        self._compiled.seconds = max(self._compiled.seconds, time.monotonic() - begin)
        self._compile_seconds = self._compiled.seconds
        recorded = jax.tree.map(lambda x: None, traced.out_info[1])
        memory = executable.memory_analysis()
        if memory is None:
            return 0.0, recorded
        others = self._max_waves - 1  # whose carry is on the devices too
        return memory.argument_size_in_bytes + memory.temp_size_in_bytes + others * memory.alias_size_in_bytes, recorded


def build_program(
    caller: str,
    task: Task,
    runs: Runs,
    source: Batches,
    mesh: Mesh | None,
    runs_per_device: int | None,
    stop_diverged: bool,
) -> Program:
    """Builds the program that trains these runs on all devices."""
    count = len(runs.seed_index)
    mesh = runs_mesh(caller, mesh, task.run_sharding is not None, count)
    each = -(-min(runs.max_concurrent or count, count) // mesh.shape[RUNS])
    return Program(
        objective=task.objective,
        make_optimizer=runs.make_optimizer,
        batch_at=source.batch_at,
        init=task.init if is_function(task.init) else None,
        metrics=tuple(task.metrics.items()),
        chunk_size=source.chunk_size,
        runs_per_device=min(runs_per_device or _default_runs_per_device(mesh) or each, each),
        stop_diverged=stop_diverged,
        mesh=mesh,
        run_sharding=task.run_sharding,
    )


def _default_runs_per_device(mesh: Mesh) -> int | None:
    """Returns the most runs that a device should vectorise; None for no limit.

    On a CPU a single run compiles fastest, stops when its parameters aren't finite, and suits big models too.
    """
    return 1 if mesh.devices.flat[0].platform == "cpu" else None


def _free_bytes(mesh: Mesh) -> int | None:
    """Returns the free memory of the fullest local device; None where that isn't known, as on a CPU."""
    stats = [device.memory_stats() for device in mesh.local_devices]
    return min((s["bytes_limit"] - s["bytes_in_use"] for s in stats if s and "bytes_limit" in s), default=None)


def check_mesh(caller: str, mesh: Any) -> None:
    if mesh is not None and not isinstance(mesh, Mesh):
        raise bad_argument(caller, "mesh", "a jax.sharding.Mesh, or None for all devices", mesh)
