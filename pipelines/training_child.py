"""The training process as its parent sees it: started early, given one job, listened to, ended."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from types import TracebackType
from typing import IO, Self

import structlog
from pydantic import ValidationError

from pipelines.train_process import ONE_THREAD, Job, Line

log = structlog.get_logger()


class TrainingChild:
    """One process for one job. It imports what it needs, which takes seconds, whether it has its job or not."""

    def __init__(self, case: str, threads: int) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, and the name of a use case
            [sys.executable, "-m", "pipelines.train_process", case],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # A signal to the worker's group is the worker's to answer: the order of a training that it broke off stays open.
            process_group=0,
            env=os.environ | ONE_THREAD | {"OMP_NUM_THREADS": str(threads)},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._lines: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
        threading.Thread(target=_read, args=(self._stdout, self._lines), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether it can still be given a job."""
        return self._process.poll() is None

    def give(self, job: Job) -> None:
        """Its job.

        Raises:
            BrokenPipeError: It ended before.
        """
        self._stdin.write(job.model_dump_json().encode() + b"\n")
        self._stdin.flush()

    def line(self, timeout_s: float) -> Line | None:
        """The next thing it says; None at its end.

        Raises:
            queue.Empty: It says nothing for so long.
        """
        return self._lines.get(timeout=timeout_s)

    def wait(self) -> int:
        """Its exit code, once it has ended of itself."""
        return self._process.wait()

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        try:
            self._stdin.close()
        except BrokenPipeError:
            log.debug("trainer.process", text="ended before it had its job")
        self._stdout.close()


class Spare:
    """A process for the next job, started while there is none."""

    def __init__(self, case: str, threads: int) -> None:
        self._case, self._threads = case, threads
        self._child: TrainingChild | None = None

    def keep(self) -> None:
        """Have one. One that has died is not started again before it is wanted: it would die again, and again."""
        if self._child is None:
            self._child = TrainingChild(self._case, self._threads)

    def take(self) -> TrainingChild:
        """The one that is kept, or a new one."""
        child, self._child = self._child, None
        if child is not None and not child.alive:
            log.warning("trainer.process", text="the one kept ready has ended")
            child.close()
            child = None
        return child or TrainingChild(self._case, self._threads)

    def close(self) -> None:
        """End it."""
        if self._child is not None:
            self._child.close()


def _read(source: IO[bytes], lines: queue.SimpleQueue[Line | None]) -> None:
    """Hand on what the process says; None at its end. Other output than ours is not a line, and ignored."""
    try:
        for text in source:
            try:
                lines.put(Line.model_validate_json(text))
            except ValidationError:
                log.warning("trainer.process", text=text.decode(errors="replace").strip())
    except ValueError:
        # The pipe was closed under us because the training was given up.
        log.debug("trainer.process", text="closed")
    lines.put(None)
