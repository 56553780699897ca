"""A sweep on disk, chunk by chunk, so that one that was killed goes on where it was."""

import hashlib
import time
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lrjax.search.program import tree_of
from lrjax.search.runs import Runs
from lrjax.value import bad_argument

MOST_OF_TIME = 0.1  # the part of the time that may go into saving, in one process


def digest(*trees: Any) -> str:
    """Of the numbers in trees, and their structure."""
    hashed = hashlib.blake2b(digest_size=8)
    for tree in trees:
        leaves, structure = jax.tree.flatten(tree)
        hashed.update(str(structure).encode())
        for leaf in leaves:
            array = np.asarray(leaf)
            hashed.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()


def digest_of_function(function: Callable[..., Any], *arguments: Any) -> str:
    """Of what a function computes, the numbers that it closes over included."""
    lowered = jax.jit(function).lower(*arguments).as_text()  # a jaxpr doesn't show what an inner `jit` closes over
    return hashlib.blake2b(lowered.encode(), digest_size=8).hexdigest()


def identity(runs: Runs) -> dict[str, Any]:
    """By name, all that the results of a sweep depend on; functions by what they compute."""
    program, source = runs.program, runs.source
    run = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), runs.like_started())
    number = jax.tree.map(lambda x: x[0], runs.numbers)
    chunk = runs.batches(0, min(program.chunk, runs.steps))[0]
    batch = jax.eval_shape(program.at, chunk, 0, 0)
    params = jax.eval_shape(tree_of, run.params)
    update = lambda numbers, params, state: program.optimizer(numbers).update(params, state, params, value=0.0)
    evaluation = () if runs.eval_batch is None else (runs.eval_batch,)
    return {
        "steps": runs.steps,
        "hyperparameters": digest(runs.numbers),
        "optimizer": digest_of_function(update, number, run.params, run.state),
        "loss_fn": digest_of_function(program.loss_fn, params, batch),
        "init": digest_of_function(program.init, jax.random.key(0)) if program.init else digest(runs.init),
        "batches": digest(source.given) + digest_of_function(program.at, chunk, 0, 0),
        "eval_fn": digest_of_function(program.eval_fn, params, *evaluation) if program.eval_fn else None,
        "eval_batch": digest(runs.eval_batch),
        "diverged_above": program.diverged_above,
        "stop_when_diverged": program.stop,
        "devices": program.mesh.size,
        "runs_per_device": program.together,
    }


class Checkpoint:
    """The state of a sweep in a folder, written with orbax. `sweep` says by name which sweep it is."""

    def __init__(self, path: str | PathLike[str], sweep: dict[str, Any]):
        try:
            import orbax.checkpoint as orbax
        except ImportError:
            raise ImportError("sweep: `checkpoint` needs orbax: pip install 'lrjax[checkpoint]'.") from None
        self.path, self.sweep, self._orbax = Path(path).absolute(), sweep, orbax
        if self.path.exists() and (not self.path.is_dir() or self._is_foreign()):
            raise bad_argument("sweep", "checkpoint", "a new folder, or one that holds this sweep", str(path))
        # not in the background: what a wave carries is overwritten by its next step
        options = orbax.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
        self._manager = orbax.CheckpointManager(self.path, options=options)
        self._next_save = 0.0
        self._refuse_others()

    def _is_foreign(self) -> bool:
        return any(not (item.is_dir() and item.name.split(".")[0].isdecimal()) for item in self.path.iterdir())

    def _refuse_others(self) -> None:
        if (latest := self._manager.latest_step()) is None:
            return
        args = self._orbax.args.Composite(sweep=self._orbax.args.JsonRestore())
        there = self._manager.restore(latest, args=args).sweep
        names = [name for name in {**there, **self.sweep} if there.get(name) != self.sweep.get(name)]
        if names:
            differences = "; ".join(_difference(name, there.get(name), self.sweep.get(name)) for name in names)
            self._manager.close()
            raise ValueError(
                f"sweep: `checkpoint` must be a new folder, or one that holds this sweep; {str(self.path)!r} holds "
                f"another: {differences}."
            )

    def restore(self, record: dict[str, np.ndarray], carried: Callable[[np.ndarray], Any]) -> Any:
        """(record, what the waves carry, as `carried(position)` describes it), or None where nothing is saved."""
        if (latest := self._manager.latest_step()) is None:
            return None
        read, args = self._orbax.args.StandardRestore, self._orbax.args.Composite
        record = self._manager.restore(latest, args=args(record=read(record))).record
        like = carried(record["position"])
        if not like:
            return record, []
        return record, self._manager.restore(latest, args=args(carried=read(like))).carried

    def is_due(self, last: bool) -> bool:
        """After a chunk; some are left out where saving would take too much of the time, but not the `last` one."""
        return last or jax.process_count() > 1 or time.monotonic() >= self._next_save

    def save(self, record: dict[str, np.ndarray], carried: list[Any]) -> None:
        begin, write = time.monotonic(), self._orbax.args.StandardSave
        items = {"record": write(record), "sweep": self._orbax.args.JsonSave(self.sweep)}
        if carried:
            items["carried"] = write(carried)
        step = self._manager.latest_step()
        self._manager.save(0 if step is None else step + 1, args=self._orbax.args.Composite(**items))
        end = time.monotonic()
        self._next_save = end + (end - begin) * (1 / MOST_OF_TIME - 1)

    def close(self) -> None:
        self._manager.close()


def _difference(name: str, there: Any, here: Any) -> str:
    if isinstance(there, str) or isinstance(here, str):
        return f"`{name}` is not the same"
    short = lambda x: f"{len(x)} from {x[0]:.3g} to {x[-1]:.3g}" if isinstance(x, list) else str(x)
    if isinstance(there, list) and isinstance(here, list) and short(there) == short(here):
        return f"`{name}` are others"
    return f"`{name}` is {short(there)} there, {short(here)} here"
