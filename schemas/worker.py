"""What every worker is given by whoever starts it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Event


@dataclass(frozen=True)
class WorkerContext:
    """The use case a worker serves, its stop signal, and where it reports its counters.

    `report` is cheap and may be called about once a second; it is never called after `run` returned.
    """

    case: str
    stop: Event
    report: Callable[[Mapping[str, float | int | str]], None]
