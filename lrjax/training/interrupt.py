"""SIGINT and SIGTERM end a training after the present call of its program: what there is is saved, and returned."""

import contextlib
import signal
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import jax

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)


class Interrupted(KeyboardInterrupt):
    """A signal came, and what was trained until then is settled, and saved where there is a checkpoint."""


class _State:
    handling = False
    signal: int | None = None  # the last one that ended a call


_state = _State()


@contextlib.contextmanager
def handling_signals() -> Iterator[None]:
    """Lets the engine end at the first signal; the second one acts as it did before. Handlers of the user stay. Only in
    the main thread, and in one process: several would have to agree."""
    is_main = threading.current_thread() is threading.main_thread()
    if _state.handling or not is_main or jax.process_count() > 1:
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS if signal.getsignal(number) in _DEFAULTS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: Any) -> None:
        _state.signal = number
        restore()

    _state.handling, _state.signal = True, None
    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        _state.handling = False
        restore()


def is_interrupted() -> bool:
    """Whether the call that handles signals got one."""
    return _state.handling and _state.signal is not None


def received() -> int | None:
    """The signal that ended the latest call, if one did and it was not asked for yet."""
    number, _state.signal = _state.signal, None
    return number


def note_interrupted(caller: str, words: str) -> str:
    """Warns that a result is a part of what was asked for, and returns these words."""
    name = signal.Signals(_state.signal).name if _state.signal else "an interrupt"
    found = f"Stopped by {name}: {words}"
    warnings.warn(f"{caller}: {found}", stacklevel=3)
    return found
