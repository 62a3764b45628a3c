"""Kills a scorer replica, kill -9, at a moment that a seed decides."""

from __future__ import annotations

import os
import random
import signal

import psutil
import structlog

REPLICA = "ServeReplica"
log = structlog.get_logger()


class Chaos:
    """Kills one replica at each of `kills` slices chosen at random among `slices`.

    Only descendants of `supervisor_pid` are looked at: processes that this stack started.
    """

    def __init__(self, seed: int, slices: int, kills: int, supervisor_pid: int) -> None:
        chance = random.Random(seed)
        # Not in the first tenth, where the service may still be warming up, nor in the last.
        middle = range(slices // 10, max(slices * 9 // 10, slices // 10 + kills))
        self.moments = sorted(chance.sample(middle, kills))
        self.killed: list[int] = []
        self._chance, self._supervisor, self._slice = chance, supervisor_pid, 0

    def after_slice(self) -> None:
        """Count a slice; kill where its number was drawn."""
        self._slice += 1
        if self._slice in self.moments:
            replicas = self._replicas()
            if replicas:
                pid = self._chance.choice(replicas)
                log.warning("chaos kills a replica", pid=pid, slice=self._slice)
                os.kill(pid, signal.SIGKILL)
                self.killed.append(pid)

    def _replicas(self) -> list[int]:
        """Replicas of the scorer, by their process title, which Ray sets to the actor's class."""
        started = psutil.Process(self._supervisor).children(recursive=True)
        return sorted(p.pid for p in started if _title(p).startswith(f"ray::{REPLICA}"))


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
