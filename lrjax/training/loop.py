"""Every run of an engine from its first step to its last, with checkpoints."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from lrjax.training.checkpoint import Checkpoint
from lrjax.training.engine import Engine, Show
from lrjax.training.kept import Kept

CONTROL = 64  # steps of a control, where it need not go along


def train_to_end(engine: Engine, kept: Kept, show: Show, checkpoint: Checkpoint | None = None) -> None:
    """Trains group after group of waves; before them the controls, for a few steps."""
    if checkpoint is not None:
        checkpoint.restore(engine, kept)
    begin, once = int(engine.record.position[1]), engine.source.once
    if not once and not kept.finished.any() and begin == 0:
        train_controls(engine, min(CONTROL, engine.steps))
    to_train = ~kept.finished & (once | ~engine.runs.is_control)
    groups = [(i, waves) for i, waves in enumerate(engine.groups) if to_train[engine.run_indices_of(waves)].any()]
    for group, waves in groups:

        def save(step: int, last: bool = False, group: int = group, waves: Sequence[int] = waves) -> None:
            at_end = step == engine.steps
            engine.record.position[:] = (group + 1, 0) if at_end else (group, step)
            if checkpoint is not None and checkpoint.is_due(last):
                engine.settle()
                checkpoint.save(engine, kept, [] if at_end else waves)

        engine.advance(to_train, waves, begin, engine.steps, show, lambda step: step < engine.steps and save(step))
        for wave in waves:
            engine.release(wave, partial(kept.finish, wave))
        save(engine.steps, last=group == groups[-1][0])
        begin = 0
    engine.settle()


def train_controls(engine: Engine, steps: int) -> None:
    """Shows what the data do by themselves: the losses of the first steps, without an update."""
    waves = engine.waves_of(np.flatnonzero(engine.runs.is_control))  # none where there are no controls
    engine.advance(engine.runs.is_control, waves, 0, steps, lambda run_indices, begin, end: None)
    engine.settle()
    for wave in waves:
        if engine.runs.is_control[engine.run_indices(wave)].all():  # others go on from where they are
            engine.release(wave)
