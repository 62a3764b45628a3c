"""How a benchmark is run: contenders by turns, medians and ratios, one row in `benchmarks/results.json`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from statistics import median

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results.json"
REPEATS = 5


def race(
    contenders: Mapping[str, Callable[[], object]], repeats: int = REPEATS
) -> dict[str, list[float]]:
    """Seconds of each contender, `repeats` times after one that warms up; the order turns around every time."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(repeats + 1):
        names = list(contenders)
        for name in names if repeat % 2 == 0 else reversed(names):
            began = time.perf_counter()
            contenders[name]()
            if repeat:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio(one: list[float], two: list[float]) -> tuple[float, list[float]]:
    """The median of `one / two`, run by run, and its spread."""
    ratios = [a / b for a, b in zip(one, two, strict=True)]
    return round(median(ratios), 2), [round(min(ratios), 2), round(max(ratios), 2)]


def row(
    letter: str, name: str, seconds: Mapping[str, list[float]], packages: tuple[str, ...]
) -> dict[str, object]:
    """A result: `ours` and `limit` must be among the contenders, whoever else is there is a peer."""
    to_limit, spread = ratio(seconds["ours"], seconds["limit"])
    peers = {
        n: ratio(s, seconds["ours"])[0] for n, s in seconds.items() if n not in ("ours", "limit")
    }
    return {
        "row": letter,
        "name": name,
        "ours_ms": round(1_000 * median(seconds["ours"]), 3),
        "limit_ms": round(1_000 * median(seconds["limit"]), 3),
        "ours_to_limit": to_limit,
        "spread": spread,
        "peer_to_ours": peers,
        "versions": {package: version(package) for package in packages},
    }


def record(result: Mapping[str, object]) -> None:
    """Replace the row of this name, and show it."""
    RESULTS.parent.mkdir(exist_ok=True)
    held = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    rows = [*(r for r in held if r["name"] != result["name"]), result]
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    print(json.dumps(result))  # noqa: T201 - a benchmark is there to be read
