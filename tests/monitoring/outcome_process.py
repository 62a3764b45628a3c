"""The outcome join in a process of its own, to be killed: `outcome_process.py <case> <bootstrap> <folder> [fault]`.

`fault` = `die-forgetting`: joined rows take a second to leave, and the process kills itself (SIGKILL) as soon as the
broker has one tombstone of a waiting half. `fault` = `stop-joining`: joined rows take longer than a stop, which comes (SIGTERM) as
soon as the first of them is to leave.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Mapping
from typing import Any

from monitoring import half_log, outcomes
from monitoring.halves import Change, Pair
from monitoring.settings import MonitoringSettings
from schemas.settings import KafkaSettings
from schemas.worker import WorkerContext
from tests.monitoring import rig


class SlowRows(outcomes.OutcomeJoin):
    """Joined rows take a second to leave."""

    leave_s = 1.0

    async def _publish(self, pair: Pair) -> Awaitable[Any]:
        async def later() -> None:
            await asyncio.sleep(self.leave_s)
            await (await super(SlowRows, self)._publish(pair))

        return asyncio.create_task(later())


class StopJoining(SlowRows):
    """They take longer than a stop, which comes with the first of them."""

    leave_s = 60.0

    async def _publish(self, pair: Pair) -> Awaitable[Any]:
        os.kill(os.getpid(), signal.SIGTERM)
        return await super()._publish(pair)


class DieForgetting(half_log.HalfLog):
    """Kills the process as soon as the broker has a tombstone."""

    async def write(self, partition: int, change: Change) -> Awaitable[Any]:
        delivery: asyncio.Future[Any] = asyncio.ensure_future(
            await super().write(partition, change)
        )
        if change[1] is None:
            delivery.add_done_callback(lambda _: os.kill(os.getpid(), signal.SIGKILL))
        return delivery


if __name__ == "__main__":
    case, bootstrap, folder, *fault = sys.argv[1:]
    if fault == ["die-forgetting"]:
        outcomes.OutcomeJoin = SlowRows  # type: ignore[misc]
        outcomes.HalfLog = DieForgetting  # type: ignore[attr-defined]
    if fault == ["stop-joining"]:
        outcomes.OutcomeJoin = StopJoining  # type: ignore[misc]
    rig.register(case)
    stop = threading.Event()

    def say(counters: Mapping[str, float | int | str]) -> None:
        sys.stdout.write(json.dumps(dict(counters)) + "\n")
        sys.stdout.flush()

    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    outcomes.run(
        WorkerContext(case, stop, say),
        KafkaSettings(bootstrap_servers=bootstrap),
        MonitoringSettings(faust_dir=folder),
    )
