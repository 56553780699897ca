"""Saves an engine after each chunk, so that a killed training can resume."""

import hashlib
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lrjax.training.engine import Engine
from lrjax.training.kept_models import KeptModels
from lrjax.training.parameters import is_key
from lrjax.training.program import Carry
from lrjax.transforms.migrate import state_version
from lrjax.value import bad_argument

SAVING_FRACTION = 0.1  # of the time that may be spent on saving, in one process
_UNFINISHED = ".orbax-checkpoint-tmp"  # the suffix of folders that orbax is writing
_FULL = "No space left on device"
_IGNORED = (".DS_Store", "Thumbs.db", "desktop.ini")  # files of file managers


def digest(*trees: Any) -> str:
    """Hashes the arrays and the structure of trees."""
    hashed = hashlib.blake2b(digest_size=8)
    for tree in trees:
        leaves, structure = jax.tree.flatten(tree)
        hashed.update(str(structure).encode())
        for leaf in leaves:
            array = np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)
            hashed.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()


def digest_of_function(function: Callable[..., Any], *arguments: Any) -> str:
    """Hashes what a function computes, including the arrays that it closes over."""
    lowered = jax.jit(function).lower(*arguments).as_text()  # a jaxpr doesn't show what an inner `jit` closes over
    return hashlib.blake2b(lowered.encode(), digest_size=8).hexdigest()


def fingerprint(engine: Engine) -> dict[str, Any]:
    """Describes by name all that the results depend on; functions by the digest of what they compute."""
    program, source, task, runs = engine.program, engine.source, engine.task, engine.runs
    carry = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), engine.carry_shapes())
    first, key = jax.tree.map(lambda x: x[0], runs.hyperparams), jax.eval_shape(lambda: jax.random.key(0))
    chunk = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), engine.example_chunk)  # on any devices
    batch = jax.eval_shape(program.batch_at, chunk, 0, 0)

    def update(hyperparams: Any, carry: Carry) -> Any:
        zero = lambda params: 0.0
        extra = {"value": 0.0, "grad": carry.trained, "value_fn": zero, "obj_fn": zero}
        return program.optimizer(hyperparams).update(carry.trained, carry.opt_state, carry.trained, **extra)

    params = jax.eval_shape(lambda carry: carry.params, carry)
    state = (carry.model_state,) if task.has_state else ()
    objective = program.objective
    loss = objective if objective.value_and_grad_fn is None else objective.user_value_and_grad
    validation = tuple(jax.tree.map(lambda x: x[0], batches) for batches in task.validation_batches[:1])
    started = {} if engine.initial is None else {"start": digest([engine.begin, *jax.tree.leaves(engine.initial)])}
    return started | {
        "steps": engine.steps,
        "seeds": list(map(int, runs.seeds)),
        "hyperparameters": digest(runs.hyperparams),
        "optimizer": digest_of_function(update, first, carry),
        "loss_fn": digest_of_function(loss, params, carry.model_state, batch, key),
        "init": digest_of_function(program.init, jax.random.key(0)) if program.init else digest(task.init),
        "data": digest(source.shared) + source.digest(1) + digest_of_function(program.batch_at, chunk, 0, 0),
        "batch_size": task.batch_size,
        "metrics": [f"{name} {metric.mode} {digest_of_function(metric.function, params, *state, *validation)}"
                    for name, metric in program.metrics],
        "validation": digest(task.validation_batches),
        "eval_every": int(engine.eval_every),
        "stop_when_diverged": program.stop_diverged,
    }  # fmt: skip


class Checkpoint:
    """The state of an engine in a folder, written with orbax.

    Args:
      caller: the function that the user called, for errors.
      path: of the folder.
      names: all that the runs depend on, by name: a folder in which these differ is refused.
    """

    def __init__(self, caller: str, path: str | PathLike[str], names: dict[str, Any]):
        try:
            import orbax.checkpoint as orbax
        except ImportError:
            raise ImportError(f"{caller}: `checkpoint` needs orbax: pip install 'lrjax[checkpoint]'.") from None
        self.caller, self._orbax = caller, orbax
        self.names = {"state_version": state_version, **names}
        self.path = check_folder(caller, path, _is_orbax_step)
        self._manager, self._next_save, self._failed = self._open(), 0.0, False
        self._check_fingerprint()

    def _open(self) -> Any:
        # synchronous: the next step overwrites the donated carry of a wave
        options = self._orbax.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
        return self._orbax.CheckpointManager(self.path, options=options)

    def _check_fingerprint(self) -> None:
        if (latest := self._manager.latest_step()) is None:
            return
        args = self._orbax.args.Composite(names=self._orbax.args.JsonRestore())
        there = self._read(lambda: self._manager.restore(latest, args=args).names)
        if there.setdefault("state_version", 1) > state_version:
            self._manager.close()
            raise ValueError(
                f"{self.caller}: `checkpoint` must be of this lrjax or an older one; {str(self.path)!r} is of a "
                f"newer one, with states of version {there['state_version']}; this one's are {state_version}."
            )
        different = [name for name in {**there, **self.names} if there.get(name) != self.names.get(name)]
        if different:
            differences = "; ".join(_difference(name, there.get(name), self.names.get(name)) for name in different)
            self._manager.close()
            raise ValueError(
                f"{self.caller}: `checkpoint` must be a new folder, or one of an earlier call of `{self.caller}`; "
                f"{str(self.path)!r} holds another: {differences}."
            )

    def _read(self, restore: Callable[[], Any]) -> Any:
        try:
            return restore()
        except Exception as error:  # orbax raises many kinds
            words = "a folder that can be read"
            reason = f"{self.path}: damaged, {type(error).__name__}"
            raise bad_argument(self.caller, "checkpoint", words, reason) from error

    def restore(self, engine: Engine, kept: KeptModels) -> dict[str, Any] | None:
        """Restores the engine and the kept models, if anything was saved. Returns the notes of the search."""
        if (latest := self._manager.latest_step()) is None:
            return None
        args, read, read_json = (
            self._orbax.args.Composite,
            self._orbax.args.StandardRestore,
            self._orbax.args.JsonRestore,
        )
        saved = self._read(lambda: self._manager.restore(latest, args=args(record=read(), notes=read_json())))
        record, notes = saved.record, saved.notes
        for name, x in vars(engine.record).items():  # dicts in the engine's order of names
            arrays = {key: np.array(record[name][key]) for key in x} if isinstance(x, dict) else np.array(record[name])
            setattr(engine.record, name, arrays)
        self._check_data(engine, notes)
        kept.finished[:] = record["finished"]
        waves, run_indices = notes["waves"], notes["kept"]
        if (search := notes["search"]) is not None:
            engine.rearrange(np.array(notes["order"]), notes["runs_per_device"])
        if notes["wave_size"] != engine.program.wave_size:  # on other devices, unfinished runs start again
            engine.record.position[:], waves, search = (0, engine.begin), [], None
        shapes: dict[str, Any] = {}
        if waves:
            shapes["carried"] = [_as_saved(engine.carry_shapes()) for _ in waves]
        if run_indices:
            one = lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
            shapes["kept"] = [jax.tree.map(one, _as_saved(engine.carry_shapes())) for _ in run_indices]
        if shapes:
            items = {name: read(tree) for name, tree in shapes.items()}
            saved = self._read(lambda: self._manager.restore(latest, args=args(**items)))
            if waves:
                carries = [_as_carry(leaves, engine.carry_shapes()) for leaves in saved.carried]
                engine.waves.carried.update(zip(waves, carries, strict=True))
            if run_indices:
                leaves_of_runs = jax.tree.map(np.asarray, saved.kept)
                carries = [_as_carry(leaves, engine.carry_shapes()) for leaves in leaves_of_runs]
                kept.carried = dict(zip(run_indices, carries, strict=True))
        return search

    def _check_data(self, engine: Engine, notes: dict[str, Any]) -> None:
        """Checks that loaded batches are the same: reads again those that were used."""
        if notes["digest"] != engine.source.digest(notes["data_steps"]):
            raise ValueError(
                f"{self.caller}: `checkpoint` must be a new folder, or one of an earlier call of `{self.caller}`; "
                f"{str(self.path)!r} holds another: `data` is not the same."
            )

    def is_due(self, last: bool) -> bool:
        """Returns whether to save after a chunk: always after the `last` one, else unless it would take too much of the
        time."""
        return last or jax.process_count() > 1 or time.monotonic() >= self._next_save

    def save(
        self, engine: Engine, kept: KeptModels, waves: Sequence[int], search: dict[str, Any] | None = None
    ) -> None:
        """Saves the record, the kept models, the carries of some waves, and the notes of a search."""
        begin, orbax, program = time.monotonic(), self._orbax.args, engine.program
        group, step = map(int, engine.record.position)
        data_steps = 0 if not engine.source.load_once else step if group == 0 else engine.steps
        record = {name: x for name, x in vars(engine.record).items() if not isinstance(x, dict) or x}
        record |= {"finished": kept.finished}
        notes = {"digest": engine.source.digest(data_steps), "data_steps": data_steps, "kept": list(kept.carried)}
        notes |= {"waves": list(waves), "wave_size": program.wave_size, "search": search}
        if search is not None:
            notes |= {"order": engine.waves.order.tolist(), "runs_per_device": program.runs_per_device}
        items = {
            "record": orbax.StandardSave(record),
            "names": orbax.JsonSave(self.names),
            "notes": orbax.JsonSave(notes),
        }
        carried = [engine.waves.carried[wave] for wave in waves]
        if carried:
            items["carried"] = orbax.StandardSave([_as_saved(c) for c in carried])
        if kept.carried:
            items["kept"] = orbax.StandardSave([_as_saved(carry) for carry in kept.carried.values()])
        latest = self._manager.latest_step()
        size = sum(x.nbytes for x in jax.tree.leaves([record, *kept.carried.values(), *carried]))
        try:
            if size > shutil.disk_usage(self.path).free:  # the error of orbax would be a hundred lines long
                raise OSError(_FULL)
            self._manager.save(0 if latest is None else latest + 1, args=orbax.Composite(**items))
        except Exception as error:  # orbax raises a ValueError for a full disk
            self._warn_failed(error)
        end = time.monotonic()
        self._next_save = end + (end - begin) * (1 / SAVING_FRACTION - 1)

    def _warn_failed(self, error: Exception) -> None:
        """Warns, once, that saving failed, and removes the unfinished folder. Keeps the previous checkpoint and lets
        the training continue."""
        for folder in self.path.glob(f"*{_UNFINISHED}"):
            shutil.rmtree(folder, ignore_errors=True)
        if not self._failed:
            reason = _FULL if _FULL in str(error) else f"{type(error).__name__}: {str(error)[:200]}"
            there = "nothing is saved" if self._manager.latest_step() is None else "what was saved before stays"
            words = f"{self.caller}: `checkpoint` {str(self.path)!r} cannot be written: {reason}; {there}"
            warnings.warn(f"{words}, and the training goes on.", stacklevel=2)
        self._failed = True
        self._manager.close()
        self._manager = self._open()

    def close(self) -> None:
        self._manager.close()


def check_folder(caller: str, path: Any, is_ours: Callable[[Path], bool]) -> Path:
    """Returns the folder, and creates it if it doesn't exist.

    Raises:
      ValueError: it cannot be written, or holds anything but folders that `is_ours` accepts.
    """
    if not isinstance(path, (str, PathLike)):
        raise bad_argument(caller, "checkpoint", "the path of a folder", path)
    folder = Path(path).absolute()
    try:
        foreign = lambda item: item.name not in _IGNORED and not (item.is_dir() and is_ours(item))
        is_foreign = folder.exists() and (not folder.is_dir() or any(map(foreign, folder.iterdir())))
        if not is_foreign:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ".lrjax").touch()
            (folder / ".lrjax").unlink()
    except (OSError, ValueError) as error:
        reason = f"{folder}: {getattr(error, 'strerror', None) or error}"
        raise bad_argument(caller, "checkpoint", "a folder that can be written", reason) from None
    if is_foreign:
        raise bad_argument(caller, "checkpoint", f"a new folder, or one of an earlier call of `{caller}`", str(folder))
    return folder


def _is_orbax_step(item: Path) -> bool:
    return item.name.split(".")[0].isdecimal()


def _as_saved(carry: Carry) -> Any:
    """Returns the leaves of a carry, with key data in place of keys: orbax knows neither state classes nor keys."""

    def data(x: Any) -> Any:
        if not isinstance(x, jax.ShapeDtypeStruct):
            return jax.random.key_data(x)
        shape = jax.eval_shape(jax.random.key_data, x)
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=x.sharding)

    return [data(x) if is_key(x) else x for x in jax.tree.leaves(carry)]


def _as_carry(saved: list[Any], shapes: Carry) -> Carry:
    """Returns the carry that `_as_saved` made a list of."""
    leaves, structure = jax.tree.flatten(shapes)
    wrap = lambda x: jax.random.wrap_key_data(x, impl=jax.random.key_impl(jax.random.key(0)))
    return structure.unflatten([wrap(x) if is_key(leaf) else x for x, leaf in zip(saved, leaves, strict=True)])


def _difference(name: str, saved: Any, current: Any) -> str:
    if isinstance(saved, str) or isinstance(current, str):
        return f"`{name}` is not the same"
    short = lambda x: f"{len(x)} from {x[0]:.3g} to {x[-1]:.3g}" if _are_numbers(x) else str(x)
    if isinstance(saved, list) and isinstance(current, list) and short(saved) == short(current):
        return f"`{name}` are others"
    if isinstance(saved, list) and not _are_numbers(saved + (current or [])):
        return f"`{name}` is not the same"
    return f"`{name}` is {short(saved)} there, {short(current)} here"


def _are_numbers(x: Any) -> bool:
    return isinstance(x, list) and bool(x) and all(isinstance(v, (int, float)) for v in x)
