"""How a benchmark is run: contenders by turns, medians and ratios, one row in `benchmarks/results.json`.

Beside wall time stand the CPU seconds of the process that does the work and its peak of resident memory: mostly the
contender's own, Flink's TaskManager where a job does it. Redis and Kafka, which all share, are not in them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results.json"
REPEATS = 5
MINE = ("ours", "limit")


class Run(NamedTuple):
    """One run of one contender."""

    seconds: float
    cpu_s: float
    peak_mb: float


Contender = Callable[[], object]
Runs = Mapping[str, Sequence[Run]]


def measured(work: Contender) -> Run:
    """Do it once. Work that happens in another process answers with the `Run` it measured there."""
    # Forgets the peak so far (proc(5), clear_refs); what is resident already still counts.
    Path("/proc/self/clear_refs").write_text("5")
    began, cpu_began = time.perf_counter(), time.process_time()
    answer = work()
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    return answer if isinstance(answer, Run) else Run(seconds, cpu_s, _peak_mb())


def _peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


class Elsewhere:
    """What other processes have used since this was made; for work that is only asked for here."""

    def __init__(self, *pids: int) -> None:
        self._processes = [psutil.Process(pid) for pid in pids]
        self._cpu_began_s = self._cpu_s()

    def run(self, seconds: float) -> Run:
        """Up to now; the clock may have stopped earlier, after `seconds`."""
        held_mb = sum(process.memory_info().rss for process in self._processes) / 2**20
        return Run(seconds, self._cpu_s() - self._cpu_began_s, held_mb)

    def _cpu_s(self) -> float:
        times = [process.cpu_times() for process in self._processes]
        return float(sum(spent.user + spent.system for spent in times))


def race(contenders: Mapping[str, Contender], repeats: int = REPEATS) -> dict[str, list[Run]]:
    """Runs of each contender, `repeats` times after one that warms up; the order turns around every time."""
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    for repeat in range(repeats + 1):
        names = list(contenders)
        for name in names if repeat % 2 == 0 else reversed(names):
            run = measured(contenders[name])
            if repeat:
                runs[name].append(run)
    return runs


def times(work: Contender, calls: int) -> Contender:
    """Work too short to be measured alone, many times over; `row` divides by `calls` again."""

    def repeated() -> None:
        for _ in range(calls):
            work()

    return repeated


def ratio(one: Sequence[Run], two: Sequence[Run]) -> tuple[float, list[float]]:
    """The median of the seconds `one / two`, run by run, and its spread."""
    ratios = [a.seconds / b.seconds for a, b in zip(one, two, strict=True)]
    return round(median(ratios), 2), [round(min(ratios), 2), round(max(ratios), 2)]


def row(
    letter: str,
    name: str,
    runs: Runs,
    versions: Mapping[str, str] | Sequence[str],
    note: str = "",
    calls: int = 1,
) -> dict[str, object]:
    """A result: `ours` and `limit` must be among the contenders, whoever else is there is a peer.

    `versions` are of packages in this environment, or given whole; a run was `calls` pieces of work.
    """
    runs = {
        n: [Run(r.seconds / calls, r.cpu_s / calls, r.peak_mb) for r in of]
        for n, of in runs.items()
    }
    to_limit, spread = ratio(runs["ours"], runs["limit"])
    peers = {n: ratio(r, runs["ours"]) for n, r in runs.items() if n not in MINE}
    given = (
        versions if isinstance(versions, Mapping) else {name: version(name) for name in versions}
    )
    return {
        "row": letter,
        "name": name,
        "ours_ms": shown_ms(runs["ours"]),
        "limit_ms": shown_ms(runs["limit"]),
        "ours_to_limit": to_limit,
        "spread": spread,
        "peer_to_ours": {n: found for n, (found, _) in peers.items()},
        "peer_spread": {n: found for n, (_, found) in peers.items()},
        "contenders": {
            n: {
                "ms": shown_ms(r),
                "cpu_s": round(median(one.cpu_s for one in r), 6),
                "peak_mb": round(max(one.peak_mb for one in r)),
            }
            for n, r in runs.items()
        },
        "versions": dict(given),
        "note": note,
        "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ"),
    }


def shown_ms(runs: Sequence[Run]) -> float:
    """The median, in milliseconds."""
    return round(1_000 * median(run.seconds for run in runs), 3)


def record(result: Mapping[str, object]) -> None:
    """Replace the row of this name, and show it."""
    RESULTS.parent.mkdir(exist_ok=True)
    held = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    rows = [*(r for r in held if r["name"] != result["name"]), result]
    rows.sort(key=lambda r: r["row"])
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    print(json.dumps(result))  # noqa: T201 - a benchmark is there to be read
