"""Trains every run of an engine from its first step to its last, with checkpoints."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from lrjax.training.checkpoint import Checkpoint
from lrjax.training.divergence import control_windows
from lrjax.training.engine import Engine, Show
from lrjax.training.interrupt import is_interrupted
from lrjax.training.kept_models import KeptModels


def train_to_end(engine: Engine, kept: KeptModels, show: Show, checkpoint: Checkpoint | None = None) -> None:
    """Trains group after group of waves; before these it evaluates the controls on the first and the last batches."""
    if checkpoint is not None:
        checkpoint.restore(engine, kept)
    begin, load_once = int(engine.record.position[1]), engine.source.load_once
    if not load_once and not kept.finished.any() and begin == 0:
        for window in control_windows(engine.steps):
            run_controls(engine, *window)
    to_train = ~kept.finished & (load_once | ~engine.runs.is_control)
    groups = [(i, waves) for i, waves in enumerate(engine.groups) if to_train[engine.waves.run_indices_of(waves)].any()]
    for group, waves in groups:

        def save(step: int, last: bool = False, group: int = group, waves: Sequence[int] = waves) -> None:
            at_end = step == engine.steps
            engine.record.position[:] = (group + 1, 0) if at_end else (group, step)
            if checkpoint is not None and checkpoint.is_due(last or is_interrupted()):
                engine.read_pending()
                checkpoint.save(engine, kept, [] if at_end else waves)

        engine.advance(to_train, waves, begin, engine.steps, show, lambda step: step < engine.steps and save(step))
        for wave in waves:
            engine.release(wave, partial(kept.finish, wave))
        save(engine.steps, last=group == groups[-1][0])
        begin = 0
    engine.read_pending()


def run_controls(engine: Engine, begin: int, end: int) -> None:
    """Records the losses of the controls, which never update, on the batches of some steps; skips the steps before."""
    waves = engine.waves.waves_of(np.flatnonzero(engine.runs.is_control))  # none where there are no controls
    resumable = set(engine.waves.carried)
    at_end = end == engine.steps
    engine.advance(engine.runs.is_control, waves, begin, end, lambda *args: None, evaluate_at_end=at_end)
    for wave in waves:
        if wave not in resumable and engine.waves.wave_count > 1:  # others need its memory; a single wave goes on
            engine.release(wave)
    engine.read_pending()
