"""Stops training at SIGINT or SIGTERM, after the current call of the compiled program, with its results saved."""

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
    """A signal was received; the results so far are read, and saved where there is a checkpoint."""


class _State:
    handling = False
    signal: int | None = None  # the last one that ended a call


_state = _State()


@contextlib.contextmanager
def handling_signals() -> Iterator[None]:
    """Stops the engine at the first signal; the second one gets the default handler. Keeps handlers of the user. Does
    nothing outside the main thread, or with several processes, which would have to stop at the same step."""
    is_main = threading.current_thread() is threading.main_thread()
    if _state.handling or not is_main or jax.process_count() > 1:
        yield
        return
    defaults = {number: signal.getsignal(number) for number in SIGNALS if signal.getsignal(number) in _DEFAULTS}

    def restore() -> None:
        for number, handler in defaults.items():
            signal.signal(number, handler)

    def note(number: int, frame: Any) -> None:
        _state.signal = number
        restore()

    _state.handling, _state.signal = True, None
    for number in defaults:
        signal.signal(number, note)
    try:
        yield
    finally:
        _state.handling = False
        restore()


def is_interrupted() -> bool:
    """Returns whether a signal was received inside `handling_signals`."""
    return _state.handling and _state.signal is not None


def received_signal() -> int | None:
    """Returns the signal that ended the latest call, once; None if there was none."""
    number, _state.signal = _state.signal, None
    return number


def warn_interrupted(caller: str, words: str) -> str:
    """Warns that a result is incomplete, and returns the message."""
    name = signal.Signals(_state.signal).name if _state.signal else "an interrupt"
    message = f"Stopped by {name}: {words}"
    warnings.warn(f"{caller}: {message}", stacklevel=3)
    return message
