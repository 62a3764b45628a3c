"""Row h's traffic: requests at a steady rate in a thread of their own, and what answers them, by whom and when."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from schemas.control import Release
from tests.loop.crew import Crew
from tests.loop.follower import Answer, Follower
from tests.loop.known_run import KnownRun

# After an epoch is in force, what the one before it had taken up is still to be read.
SETTLED_S = 0.3


class Steady:
    """Requests of a run from where it stands, until the block ends. Waits are in the caller's thread."""

    def __init__(self, run: KnownRun, crew: Crew, rate: int) -> None:
        self._run, self._crew, self._rate = run, crew, rate
        self._follower = Follower(run.settings.kafka, run.settings.case)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self._failed: list[BaseException] = []

    def __enter__(self) -> Self:
        self._follower.__enter__()
        while not self._follower.look_at_control(0.1).releases:
            pass
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._thread.join()
        self._follower.__exit__(kind, error, trace)

    def until_canary(self) -> tuple[int, str]:
        """Wait for a canary that has answered: its epoch and its version."""

        def answered() -> bool:
            # It takes seconds, in which the others need the cores.
            self._look(0.02)
            now = self._newest()
            return now.canary is not None and self._by(now.canary, now.epoch) is not None

        self._crew.until("an answer of a canary", answered, pause_s=0)
        now = self._newest()
        return now.epoch, str(now.canary)

    def until_answered_by(self, version: str, epoch: int) -> None:
        """Wait for an answer of a version in an epoch, or later."""

        def answered() -> bool:
            self._look()
            return self._by(version, epoch) is not None

        self._crew.until(f"an answer of {version}", answered, pause_s=0)

    def until_epoch(self, epoch: int) -> None:
        """Wait until all answers are of this epoch or later."""

        def answered() -> bool:
            self._look()
            return any(a.epoch >= epoch for a, _ in self._latest(self._rate))

        self._crew.until(f"epoch {epoch}", answered, pause_s=0)
        until_s = time.monotonic() + SETTLED_S
        while time.monotonic() < until_s:
            self._look()

    def first_of(self, version: str, epoch: int) -> float:
        """When the first answer of a version in an epoch was read, in seconds of the wall clock."""
        found = self._by(version, epoch)
        assert found is not None
        return found

    def last_of(self, version: str) -> float:
        """When its last answer was."""
        return max(at for a, at in self._latest(10 * self._rate) if a.version == version)

    def released_s(self, epoch: int) -> float:
        """When the broker had a release."""
        control = self._follower.control
        return next(
            entry.ingest_ms / 1_000
            for entry in control.entries
            if isinstance(entry.event, Release) and entry.event.epoch == epoch
        )

    def tally(self) -> tuple[int, int]:
        """Requests sent so far, when each has its answer, and how many have two."""
        sent = self._run.sender.sent
        left = {f"r{n}" for n in range(sent)}

        def answered() -> bool:
            self._look()
            left.difference_update([name for name in left if name in self._follower.answers])
            return not left

        self._crew.until("every answer", answered, within_s=30.0)
        return sent, self._follower.twice

    def _ask(self) -> None:
        try:
            first, began = self._run.sender.sent, time.monotonic()
            while not self._ending.is_set():
                due = first + int((time.monotonic() - began) * self._rate)
                self._run.sender.ask(due)
                time.sleep(0.002)
        except BaseException as error:
            self._failed.append(error)
            raise

    def _look(self, wait_s: float = 0.002) -> None:
        assert not self._failed, self._failed
        self._follower.look(wait_s)
        self._follower.look_at_control(0)

    def _newest(self) -> Release:
        return self._follower.control.releases[-1]

    def _latest(self, count: int) -> list[tuple[Answer, float]]:
        answers = self._follower.answers
        names = (
            f"r{n}" for n in range(max(0, self._run.sender.sent - count), self._run.sender.sent)
        )
        return [answers[name] for name in names if name in answers]

    def _by(self, version: str, epoch: int) -> float | None:
        mine = [
            at
            for a, at in self._latest(10 * self._rate)
            if a.version == version and a.epoch >= epoch
        ]
        return min(mine, default=None)
