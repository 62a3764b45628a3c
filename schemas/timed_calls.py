"""Calls that may hang: made in a thread of their own, ended when their time is over, left behind where they cannot be.

ONNX Runtime ends a run between two of its nodes, or two turns of a loop, once `RunOptions.terminate` is set (onnxruntime
`core/framework/sequential_executor.cc`). A single node that hangs is beyond it; then the thread is left behind, and its
caller goes on without it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

# For a call to return once it was told to end: between two nodes of a graph lies at most the work of one on one batch.
GRACE_S = 0.1


class Overran(Exception):
    """A call did not return in time; `left` says whether its thread was left behind."""

    def __init__(self, within_s: float, *, left: bool) -> None:
        self.within_s, self.left = within_s, left
        super().__init__(f"more than {within_s * 1000:.0f} ms")


class StillHanging(Exception):
    """An earlier call of the same name was left behind and has not returned; no other is made."""


class TimedCalls(Generic[T]):
    """Makes calls one at a time, for one caller; costs two changes of threads a call."""

    def __init__(self, within_s: float) -> None:
        self._within_s = within_s
        self._worker: _Worker[T] | None = None
        self._left: dict[str, _Worker[T]] = {}

    def __call__(self, name: str, call: Callable[[], T], end: Callable[[], None]) -> T:
        """Make a call.

        Args:
            name: Whose call it is. While one is left behind, others of that name are not made.
            call: What may hang.
            end: Asks it, from another thread, to end soon.

        Raises:
            Overran: It did not return in time.
            StillHanging: An earlier one never has.
            Exception: What `call` raised.
        """
        if name in self.hanging():
            raise StillHanging(name)
        worker = self._worker = self._worker or _Worker()
        worker.begin(call)
        if not worker.ended(self._within_s):
            end()
            left = not worker.ended(GRACE_S)
            if left:
                self._left[name], self._worker = worker, None
                worker.leave()
            raise Overran(self._within_s, left=left)
        return worker.outcome()

    def hanging(self) -> tuple[str, ...]:
        """The names of calls that were left behind and still hang."""
        if self._left:
            self._left = {name: w for name, w in self._left.items() if w.thread.is_alive()}
        return tuple(self._left)

    def close(self) -> None:
        """Let the thread go; one that hangs goes when its call returns, or with the process."""
        if self._worker is not None:
            self._worker.leave()
            self._worker = None


class _Worker(Generic[T]):
    """A thread that makes one call after the other. Locks, because nothing in Python hands over faster."""

    def __init__(self) -> None:
        self._asked, self._done = threading.Lock(), threading.Lock()
        self._asked.acquire()
        self._done.acquire()
        self._call: Callable[[], T] | None = None
        self._returned: list[T] = []
        self._raised: BaseException | None = None
        # A daemon, because it may never end.
        self.thread = threading.Thread(target=self._run, name="timed-call", daemon=True)
        self.thread.start()

    def begin(self, call: Callable[[], T]) -> None:
        self._call = call
        self._asked.release()

    def ended(self, within_s: float) -> bool:
        return self._done.acquire(timeout=within_s)

    def outcome(self) -> T:
        raised, self._raised = self._raised, None
        if raised is not None:
            raise raised
        return self._returned.pop()

    def leave(self) -> None:
        """End once what goes on now is over."""
        self._call = None
        self._asked.release()

    def _run(self) -> None:
        while True:
            self._asked.acquire()
            call = self._call
            if call is None:
                return
            self._returned.clear()
            self._raised = None
            try:
                self._returned.append(call())
            except BaseException as error:  # noqa: BLE001 - raised again where it was asked for
                self._raised = error
            # Whatever it closes over goes with the call, not with the next one.
            call = self._call = None
            self._done.release()
