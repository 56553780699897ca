"""Loads batches from an iterable, in a thread ahead of the devices."""

import atexit
import contextvars
import functools
import hashlib
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

import jax
import numpy as np

from lrjax.jax_versions import enable_x64
from lrjax.training.data import count_examples
from lrjax.value import bad_argument

MAX_LOADED_STEPS, MAX_LOADED_BYTES = 128, 2**26  # of the batches of one chunk, and of those read ahead


def steps_that_fit(maximum: int, size: int) -> int:
    """Returns how many steps of `size` bytes each may be in a chunk, `maximum` at most."""
    return max(1, min(maximum, MAX_LOADED_BYTES // max(1, size)))


class Loader:
    """Loads each batch once, ahead of the steps, and none after the last step. What can be iterated again, such as a
    list, starts again at its end, and its first batch is that of step 0. An iterator goes on where it is: its next
    batch is that of step `begin`.

    Args:
      caller: the function that the user called, for errors.
      data: an iterable of batches.
      steps: of a run: the number of batches that are needed.
      hashed: whether batches are hashed while they are loaded.
      begin: the first step.
    """

    def __init__(self, caller: str, data: Iterable[Any], steps: int, hashed: bool, begin: int = 0):
        self.caller, self.data, self.steps, self.is_repeatable = caller, data, steps, not isinstance(data, Iterator)
        self._hashed = hashlib.blake2b(digest_size=8) if hashed else None
        self._first = 0 if self.is_repeatable else begin  # the step of the first batch
        self._digests = [""]  # [n]: of the first n batches
        self._has_warned = False
        source = self._repeat() if self.is_repeatable else self._epoch(iter(data))
        first = next(source, None)
        if first is None:
            raise bad_argument("Task", "data", "at least 1 batch", data)
        self.chunk_size = steps_that_fit(MAX_LOADED_STEPS, sum(np.asarray(x).nbytes for x in jax.tree.leaves(first)))
        self.first_batch = jax.tree.map(np.asarray, first)
        self._start(chain([first], source))

    def _start(self, source: Iterator[Any]) -> None:
        """Starts to read at the first batch."""
        source = self._hash(islice(source, self.steps - self._first))
        self._source = source if isinstance(self.data, (list, tuple)) else read_ahead(source, self.chunk_size)
        self._taken = self._first  # the step of the next batch

    def chunk(self, start: int, count: int) -> Any:
        """Returns `count` batches, stacked, with the last one repeated up to `chunk_size`."""
        self._skip_to(start)
        batches = list(islice(self._source, count))
        if len(batches) < count:
            raise bad_argument("Task", "data", f"at least {start + count} batches", f"only {start + len(batches)}")
        self._taken = start + count
        try:
            return jax.tree.map(lambda *xs: np.stack(xs), *batches, *batches[-1:] * (self.chunk_size - count))
        except ValueError:
            shapes = sorted({str(jax.tree.map(np.shape, batch)) for batch in batches})
            words = "batches all of one shape (a last one that is shorter is left out)"
            raise bad_argument("Task", "data", words, shapes) from None

    def digest(self, steps: int) -> str:
        """Returns the digest of the batches of the first steps, reading those that were not read yet."""
        if self._hashed is None:
            return ""
        count = max(steps - self._first, 0)
        if count >= len(self._digests):
            self._skip_to(steps)
        return self._digests[count]

    def _skip_to(self, step: int) -> None:
        if step < self._taken:
            if not self.is_repeatable:
                words = f"something that {self.caller} can go through again, such as a list"
                raise bad_argument("Task", "data", words, self.data)
            self._start(self._repeat())
        for _ in islice(self._source, step - self._taken):
            self._taken += 1

    def _hash(self, source: Iterator[Any]) -> Iterator[Any]:
        for number, batch in enumerate(source, start=1):
            if self._hashed is not None and number == len(self._digests):
                for leaf in jax.tree.leaves(batch):
                    self._hashed.update(np.ascontiguousarray(leaf).tobytes())
                self._digests.append(self._hashed.hexdigest())
            yield batch

    def _repeat(self) -> Iterator[Any]:
        while True:
            empty = True
            for batch in self._epoch(iter(self.data)):
                empty = False
                yield batch
            if empty:
                return

    def _epoch(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yields the batches of one pass through the data, without a last one that has fewer examples."""
        count = None
        for batch in batches:
            examples = count_examples(batch)
            count = count or examples
            if examples is not None and count is not None and examples < count:
                following = next(batches, None)
                if following is None:
                    self._warn_dropped(examples, count)
                    return
                yield batch  # not the last one: an error when it is stacked
                yield following
            else:
                yield batch

    def _warn_dropped(self, examples: int, count: int) -> None:
        if not self._has_warned:
            words = f"Task: the last batch of a pass through the data has {examples} examples, the others {count}"
            warnings.warn(f"{words}; it is left out.", stacklevel=2)
        self._has_warned = True


class _Queue:
    """The items that a thread has read ahead, and the exception that ended it."""

    def __init__(self, maximum: int):
        self.items: deque[Any] = deque()
        self.maximum, self.ended, self.error, self.closed = maximum, False, None, False
        self.changed = threading.Condition()

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def fill(self, source: Iterator[Any]) -> None:
        """Reads until the source ends or the queue is closed."""
        error = None
        try:
            for item in source:
                with self.changed:
                    self.items.append(item)
                    self.changed.notify_all()
                    self.changed.wait_for(lambda: self.closed or len(self.items) < self.maximum)
                    if self.closed:
                        return
        except BaseException as raised:  # raised again in the thread that reads the queue
            error = raised
        with self.changed:
            self.ended, self.error = True, error
            self.changed.notify_all()


class _ReadAhead:
    """The iterator that `read_ahead` returns: when it is garbage collected, its thread ends."""

    def __init__(self, queue: _Queue):
        self._queue = queue
        weakref.finalize(self, queue.close)

    def __iter__(self) -> "_ReadAhead":
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
    """Ends all threads before the interpreter exits: one that wakes up later can end the process with an error."""

    def end() -> None:
        for thread, queue in list(_reading.items()):
            queue.close()
            thread.join(timeout=1.0)

    atexit.register(end)


def read_ahead(source: Iterator[Any], maximum: int) -> Iterator[Any]:
    """Yields the same items, read in a thread, at most `maximum` ahead. An exception of the source is raised after the
    items before it."""
    queue, x64 = _Queue(maximum), jax.dtypes.canonicalize_dtype(float) == np.float64

    def fill() -> None:
        with enable_x64(x64):  # as in the calling thread
            queue.fill(source)
        del _reading[thread]

    run = contextvars.copy_context().run
    thread = threading.Thread(target=run, args=(fill,), name="lrjax reading ahead", daemon=True)
    _reading[thread] = queue
    _end_at_exit()
    thread.start()
    return _ReadAhead(queue)
