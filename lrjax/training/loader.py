"""Batches from an iterable, read ahead in a thread while the devices work."""

import atexit
import contextvars
import functools
import hashlib
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any

import jax
import numpy as np

from lrjax.jax_versions import enable_x64
from lrjax.training.task import examples_in
from lrjax.value import bad_argument

LOADED, LOADED_BYTES = 128, 2**26  # batches that are loaded for one call of the program, at most, and read ahead


def fitting(most: int, size: int) -> int:
    """How many steps may be loaded for one call, of so many bytes each."""
    return max(1, min(most, LOADED_BYTES // max(1, size)))


class Loader:
    """Asks for each batch once, ahead of the steps but for none after the last one; what can be gone through again,
    such as a list, begins anew after its end.

    Args:
      caller: the function that the user called, for errors.
      data: gives the batches.
      steps: of a run: how many are needed.
      hashed: whether they are hashed as they come.
    """

    def __init__(self, caller: str, data: Iterable[Any], steps: int, hashed: bool):
        self.caller, self.data, self.steps, self.again = caller, data, steps, not isinstance(data, Iterator)
        self._hashed = hashlib.blake2b(digest_size=8) if hashed else None
        self._digests = [""]  # by the number of batches
        self._noted = False
        source = self._endless() if self.again else self._pass(iter(data))
        first = next(source, None)
        if first is None:
            raise bad_argument("Task", "data", "at least 1 batch", data)
        self.size = fitting(LOADED, sum(np.asarray(x).nbytes for x in jax.tree.leaves(first)))
        self.example = jax.tree.map(np.asarray, first)
        self._begin(chain([first], source))

    def _begin(self, source: Iterator[Any]) -> None:
        """From the first batch on."""
        source = self._hashing(islice(source, self.steps))
        self._source = source if isinstance(self.data, (list, tuple)) else read_ahead(source, self.size)
        self._taken = 0

    def chunk(self, start: int, count: int) -> Any:
        """So many batches, stacked, and the last one repeated up to `size`."""
        self._skip_to(start)
        got = list(islice(self._source, count))
        if len(got) < count:
            got_words = f"an end after {start + len(got)}"
            raise bad_argument("Task", "data", f"at least {start + count} batches", got_words)
        self._taken = start + count
        try:
            return jax.tree.map(lambda *xs: np.stack(xs), *got, *got[-1:] * (self.size - count))
        except ValueError:
            shapes = sorted({str(jax.tree.map(np.shape, batch)) for batch in got})
            words = "batches all of one shape (a last one that is shorter is left out)"
            raise bad_argument("Task", "data", words, shapes) from None

    def digest(self, steps: int) -> str:
        """Of the first so many batches, which are read as far as they were not yet."""
        if self._hashed is None:
            return ""
        if steps >= len(self._digests):
            self._skip_to(steps)
        return self._digests[steps]

    def _skip_to(self, step: int) -> None:
        if step < self._taken:
            if not self.again:
                words = f"something that {self.caller} can go through again, such as a list"
                raise bad_argument("Task", "data", words, self.data)
            self._begin(self._endless())
        for _ in islice(self._source, step - self._taken):
            self._taken += 1

    def _hashing(self, source: Iterator[Any]) -> Iterator[Any]:
        for number, batch in enumerate(source, start=1):
            if self._hashed is not None and number == len(self._digests):
                for leaf in jax.tree.leaves(batch):
                    self._hashed.update(np.ascontiguousarray(leaf).tobytes())
                self._digests.append(self._hashed.hexdigest())
            yield batch

    def _endless(self) -> Iterator[Any]:
        while True:
            empty = True
            for batch in self._pass(iter(self.data)):
                empty = False
                yield batch
            if empty:
                return

    def _pass(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Those of one pass, without a last one that has fewer examples."""
        count = None
        for batch in batches:
            examples = examples_in(batch)
            count = count or examples
            if examples is not None and count is not None and examples < count:
                following = next(batches, None)
                if following is None:
                    self._note_dropped(examples, count)
                    return
                yield batch  # in the midst: an error
                yield following
            else:
                yield batch

    def _note_dropped(self, examples: int, count: int) -> None:
        if not self._noted:
            words = f"Task: the last batch of a pass through the data has {examples} examples, the others {count}"
            warnings.warn(f"{words}; it is left out.", stacklevel=2)
        self._noted = True


class _Queue:
    """Items that a thread has read, or what it raised."""

    def __init__(self, most: int):
        self.items: deque[Any] = deque()
        self.most, self.ended, self.error, self.closed = most, False, None, False
        self.changed = threading.Condition()

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def fill(self, source: Iterator[Any]) -> None:
        """Reads until the source ends or nobody wants more."""
        error = None
        try:
            for item in source:
                with self.changed:
                    self.items.append(item)
                    self.changed.notify_all()
                    self.changed.wait_for(lambda: self.closed or len(self.items) < self.most)
                    if self.closed:
                        return
        except BaseException as raised:  # the reader raises it
            error = raised
        with self.changed:
            self.ended, self.error = True, error
            self.changed.notify_all()


class _Ahead:
    """The iterator of `read_ahead`: when it is dropped, its thread ends."""

    def __init__(self, queue: _Queue):
        self._queue = queue
        weakref.finalize(self, queue.close)

    def __iter__(self) -> "_Ahead":
        return self

    def __next__(self) -> Any:
        queue = self._queue
        with queue.changed:
            queue.changed.wait_for(lambda: queue.items or queue.ended)
            if queue.items:
                queue.changed.notify_all()
                return queue.items.popleft()
            if queue.error is not None:
                raise queue.error
            raise StopIteration


_reading: dict[threading.Thread, _Queue] = {}


@functools.cache
def _end_at_exit() -> None:
    """Ends all threads before the interpreter does: one that wakes up later can end the process with an error."""

    def end() -> None:
        for thread, queue in list(_reading.items()):
            queue.close()
            thread.join(timeout=1.0)

    atexit.register(end)


def read_ahead(source: Iterator[Any], most: int) -> Iterator[Any]:
    """The same items, read in a thread, at most so many ahead. What the source raises is raised after the items before
    it."""
    queue, x64 = _Queue(most), jax.dtypes.canonicalize_dtype(float) == np.float64

    def fill() -> None:
        with enable_x64(x64):  # of the thread that asks
            queue.fill(source)
        del _reading[thread]

    run = contextvars.copy_context().run
    thread = threading.Thread(target=run, args=(fill,), name="lrjax reading ahead", daemon=True)
    _reading[thread] = queue
    _end_at_exit()
    thread.start()
    return _Ahead(queue)


class Calls:
    """What a generator function gives, anew at each pass."""

    def __init__(self, function: Callable[[], Iterator[Any]]):
        self._function = function

    def __iter__(self) -> Iterator[Any]:
        return self._function()
