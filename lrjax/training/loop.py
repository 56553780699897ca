"""Every run of an engine from its first step to its last, with checkpoints."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from lrjax.training.checkpoint import Checkpoint
from lrjax.training.divergence import control_windows
from lrjax.training.engine import Engine, Show
from lrjax.training.interrupt import is_interrupted
from lrjax.training.kept import Kept


def train_to_end(engine: Engine, kept: Kept, show: Show, checkpoint: Checkpoint | None = None) -> None:
    """Trains group after group of waves; before them it looks at the controls, on some batches."""
    if checkpoint is not None:
        checkpoint.restore(engine, kept)
    begin, once = int(engine.record.position[1]), engine.source.once
    if not once and not kept.finished.any() and begin == 0:
        for window in control_windows(engine.steps):
            show_controls(engine, *window)
    to_train = ~kept.finished & (once | ~engine.runs.is_control)
    groups = [(i, waves) for i, waves in enumerate(engine.groups) if to_train[engine.waves.run_indices_of(waves)].any()]
    for group, waves in groups:

        def save(step: int, last: bool = False, group: int = group, waves: Sequence[int] = waves) -> None:
            at_end = step == engine.steps
            engine.record.position[:] = (group + 1, 0) if at_end else (group, step)
            if checkpoint is not None and checkpoint.is_due(last or is_interrupted()):
                engine.settle()
                checkpoint.save(engine, kept, [] if at_end else waves)

        engine.advance(to_train, waves, begin, engine.steps, show, lambda step: step < engine.steps and save(step))
        for wave in waves:
            engine.release(wave, partial(kept.finish, wave))
        save(engine.steps, last=group == groups[-1][0])
        begin = 0
    engine.settle()


def show_controls(engine: Engine, begin: int, end: int) -> None:
    """What the data do by themselves: the losses of these steps without an update, which need no steps before."""
    waves = engine.waves.containing(np.flatnonzero(engine.runs.is_control))  # none where there are no controls
    under_way = set(engine.waves.carried)
    at_end = end == engine.steps
    engine.advance(engine.runs.is_control, waves, begin, end, lambda *args: None, evaluate_at_end=at_end)
    for wave in waves:
        if wave not in under_way and engine.waves.number > 1:  # others need its memory; one alone just goes on
            engine.release(wave)
    engine.settle()
