"""Three times what can be answered, offered for a minute and a half.

Injected: first as many callers as the door lets in measure what is answered a second; then three times that is offered at the front
door, whatever is answered, for 90 s. Must hold: the door says 429, with Retry-After, to what is too much; of what it accepts,
99 % is answered within two seconds; what is on its way stays within the bound of the settings, and so does memory; once the
callers are gone the lag drains: I1 to I9. Does not show: five minutes, as in the list of faults (90 s are enough to fill
every queue several times over), or overload by those who publish to Kafka themselves: their queue is the log, which is bounded by its
retention, and their requests expire where they say so.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter

import numpy as np
from aiohttp import ClientSession, ClientTimeout, TCPConnector

from tests.faults import answers
from tests.faults.door import ACKNOWLEDGED, Door, batch
from tests.faults.replicas import Replicas, assigned_within
from tests.faults.stage import Stage

IN_FLIGHT = 256
ROWS = 16
# Ids that the ledger is told at once.
BLOCK = 64 * ROWS
CALL_TIMEOUT_S = 30.0
MEASURE_S, OVERLOAD_S = 10.0, 90.0
TIMES = 3
P99_MS_MAX = 2_000
# Above that the caller itself is what is too slow.
WAITING_MAX = 400


class Load:
    """Callers of the door, and what they saw. The ledger is written by the block, or its disk would be what is slow."""

    def __init__(self, stage: Stage, door: Door) -> None:
        self._stage, self._door = stage, door
        self._requests = f"{stage.case}.requests"
        self._next, self._intended = 0, 0
        self._promised: list[str] = []
        self.statuses: Counter[int] = Counter()
        self.accepted_ms: list[float] = []
        self.silent = 0

    async def one(self, session: ClientSession) -> int:
        """One batch, its status and how long it took."""
        numbers = self._numbers()
        body = json.dumps(batch(numbers))
        began_s = time.monotonic()
        async with session.post(f"/v2/models/{self._stage.case}/infer", data=body) as response:
            answer = await response.read()
        if response.status == 200:
            self.accepted_ms.append((time.monotonic() - began_s) * 1000)
        if response.status in (429, 503) and "retry-after" not in response.headers:
            self.silent += 1
        taken = response.status in ACKNOWLEDGED
        self._promised += (
            [f"q{n}" for n in numbers] if taken else json.loads(answer).get("acknowledged", [])
        )
        if len(self._promised) >= BLOCK:
            self.note()
        self.statuses[response.status] += 1
        return response.status

    def note(self) -> None:
        """What the answers promised, into the ledger."""
        self._stage.ledger.promised(self._requests, self._promised)
        self._promised = []

    def _numbers(self) -> range:
        if self._next == self._intended:
            self._intended += BLOCK
            ids = [f"q{n}" for n in range(self._next, self._intended)]
            self._stage.ledger.intend(self._requests, ids)
            self._door.asked.update(ids)
        self._next += ROWS
        return range(self._next - ROWS, self._next)

    async def measure(self, session: ClientSession) -> float:
        """Batches a second that are answered where each caller waits for its answer."""
        ends_s = time.monotonic() + MEASURE_S

        async def caller() -> int:
            done = 0
            while time.monotonic() < ends_s:
                done += await self.one(session) == 200
            return done

        done = await asyncio.gather(*(caller() for _ in range(IN_FLIGHT // ROWS // 2)))
        return sum(done) / MEASURE_S

    async def offer(self, session: ClientSession, rate: float) -> int:
        """So many batches a second, on time whatever is answered; returns how many were offered."""
        began_s, offered = time.monotonic(), 0
        waiting: set[asyncio.Task[int]] = set()
        while (now_s := time.monotonic() - began_s) < OVERLOAD_S:
            while offered < now_s * rate and len(waiting) < WAITING_MAX:
                task = asyncio.create_task(self.one(session))
                waiting.add(task)
                task.add_done_callback(waiting.discard)
                offered += 1
            await asyncio.sleep(0.005)
        await asyncio.gather(*waiting)
        return offered


def run(stage: Stage) -> None:
    """Measure, overload, drain."""
    replicas = Replicas(stage)
    scorer = replicas.start()
    door = Door(stage, door_in_flight_max=IN_FLIGHT)
    door.start()
    check = stage.outcome.check
    check("it came to work", holds=assigned_within(scorer) and stage.until(door.ready) is not None)
    load = Load(stage, door)
    rate, offered = asyncio.run(_play(load, door))
    stage.inject(f"{TIMES} times {rate * ROWS:.0f} requests a second for {OVERLOAD_S:.0f} s")
    check("it was too much", holds=load.statuses[429] > 0, came=load.statuses)
    check("each 429 and 503 says when to come again", holds=not load.silent, came=load.silent)
    p99_ms = float(np.percentile(load.accepted_ms, 99))
    check("p99 of the accepted", holds=p99_ms <= P99_MS_MAX, came=p99_ms)
    late = load.statuses[504]
    check("nobody accepted is left waiting", holds=not late, came=late)
    lag = replicas.lag()
    check("what is on its way is bounded", holds=lag <= IN_FLIGHT, came=lag)
    began_s = time.monotonic()
    stage.recovers("lag drains", lambda: not replicas.lag(), replicas.lag)
    stage.outcome.recovery_s["last caller to lag 0"] = round(time.monotonic() - began_s, 2)
    answers.check(stage, door.asked)
    replicas.check_log()
    stage.outcome.counts |= {
        "answered a second": int(rate * ROWS),
        "offered a second": int(offered * ROWS / OVERLOAD_S),
        "p99 ms": int(p99_ms),
        **{f"batches {status}": n for status, n in sorted(load.statuses.items())},
    }


async def _play(load: Load, door: Door) -> tuple[float, int]:
    # Not httpx: its pool costs more the more wait, until the caller is what is too slow.
    session = ClientSession(
        door.url, connector=TCPConnector(limit=0), timeout=ClientTimeout(CALL_TIMEOUT_S)
    )
    async with session:
        rate = await load.measure(session)
        load.statuses.clear()
        load.accepted_ms.clear()
        offered = await load.offer(session, TIMES * rate)
    load.note()
    return rate, offered
