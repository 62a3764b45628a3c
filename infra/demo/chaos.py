"""Kills a scorer replica and each worker of the loop, kill -9, at moments that a seed decides."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import psutil
import structlog

REPLICA = "ServeReplica"
TRAINER = "trainer"
# The trainer dies while it trains, which is no slice of the replay's.
BETWEEN_SLICES = ("replica", "admission", "guard", "outcomes", "drift", "auditor")
# Of the replay's turns in which it waits for a training, a tenth of a second each.
HELD_TURNS = (10, 60)
log = structlog.get_logger()


class Kill(NamedTuple):
    """What was killed."""

    victim: str
    pid: int


class Chaos:
    """Kills each of `BETWEEN_SLICES` once, after slices chosen at random among `slices`, and the trainer in its first training.

    Only descendants of `supervisor_pid` are looked at: processes that this stack started. Without `wanted` nobody is killed.
    """

    def __init__(self, seed: int, slices: int, supervisor_pid: int, *, wanted: bool) -> None:
        chance = random.Random(seed)
        victims = chance.sample(BETWEEN_SLICES, len(BETWEEN_SLICES)) if wanted else []
        # Not in the first tenth, where the service may still be warming up, nor in the last.
        middle = range(slices // 10, max(slices * 9 // 10, slices // 10 + len(victims)))
        self.moments = dict(zip(sorted(chance.sample(middle, len(victims))), victims, strict=True))
        self.killed: list[Kill] = []
        self._trainer_in = chance.randint(*HELD_TURNS) if wanted else 0
        self._chance, self._supervisor, self._slice = chance, supervisor_pid, 0

    def after_slice(self) -> None:
        """Count a slice; kill where its number was drawn."""
        self._slice += 1
        victim = self.moments.get(self._slice)
        if victim is not None:
            self._kill(victim)

    def while_held(self) -> None:
        """Count a turn in which the replay waits for a training; kill the trainer once."""
        if self._trainer_in:
            self._trainer_in -= 1
            if not self._trainer_in:
                self._kill(TRAINER)

    def _kill(self, victim: str) -> None:
        found = self._processes(_is_replica if victim == "replica" else _is_worker(victim))
        if found:
            pid = self._chance.choice(found)
            log.warning("chaos kills", victim=victim, pid=pid, slice=self._slice)
            os.kill(pid, signal.SIGKILL)
            self.killed.append(Kill(victim, pid))

    def _processes(self, wanted: Callable[[list[str]], bool]) -> list[int]:
        started = psutil.Process(self._supervisor).children(recursive=True)
        return sorted(p.pid for p in started if wanted(_command(p)))


def _is_replica(command: list[str]) -> bool:
    """By the process title, which Ray sets to the actor's class."""
    return " ".join(command).startswith(f"ray::{REPLICA}")


def _is_worker(name: str) -> Callable[[list[str]], bool]:
    return lambda command: ("worker", name) in pairwise(command)


def _command(process: psutil.Process) -> list[str]:
    try:
        command: list[str] = process.cmdline()
    except psutil.Error:
        return []
    return command
