"""What goes on while a fault is injected: a step, over and over, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self


class Meanwhile:
    """Repeats a step until its block ends; what the step raises is raised there.

    Args:
        step: Done again and again. What it shares with the case is the case's to look after.
        pause_s: Between two of them.
    """

    def __init__(self, step: Callable[[], None], pause_s: float) -> None:
        self._step, self._pause_s = step, pause_s
        self._stop = threading.Event()
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._repeat)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def finish(self) -> None:
        """Stop before the block ends; nothing is done any more when this returns."""
        self._stop.set()
        self._thread.join()

    def __exit__(self, *raised: object) -> None:
        self.finish()
        if self._failed is not None and raised[0] is None:
            raise self._failed

    def _repeat(self) -> None:
        try:
            while not self._stop.is_set():
                self._step()
                self._stop.wait(self._pause_s)
        except Exception as error:  # noqa: BLE001 - raised where the block ends
            self._failed = error
