"""Words to the loop and to its releases, as the commands and the page of the loop say them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra import atomic_file
from infra.by_option import said_by
from infra.time_option import AGO, time_option
from infra.workers import report_path
from monitoring import brake
from monitoring.loop import day
from schemas import usecase

if TYPE_CHECKING:
    from infra.settings import Settings
    from monitoring.policy import LoopPolicy
    from schemas.control import Brake, BrakeKind


def policy_of(settings: Settings) -> LoopPolicy:
    """What the use case tolerates of its loop."""
    policy: LoopPolicy = usecase.load("monitoring", settings.case).POLICY.loop
    return policy


def clock_ms(settings: Settings) -> int:
    """The stream's clock as the drift worker last reported it; 0 where it never did."""
    return int((atomic_file.read_json(report_path(settings, "drift")) or {}).get("clock_ms", 0))


def training(settings: Settings) -> str:
    """What the trainer said last; empty where it does not train."""
    report = atomic_file.read_json(report_path(settings, "trainer")) or {}
    return str(report.get("training", ""))


def pull(
    settings: Settings,
    kind: BrakeKind,
    *,
    reason: str,
    by: str = "",
    order: str | None = None,
    until: str = "",
) -> Brake:
    """Say a word to the loop, as the user of this shell where `by` is empty.

    Args:
        settings: Of the use case.
        kind: What is said.
        reason: Kept with it.
        by: Who says it.
        order: The order it is about.
        until: When a pause ends by itself: ISO 8601, or how long from now on, by the stream's clock.

    Raises:
        BrakeRefused: It would change nothing.
        NotATime: `until` is none.
        ControlLogUnavailable: Kafka did not take it.
    """
    word = brake.Word(kind, said_by(by), reason, order, *_end(until))
    return brake.pull(settings.kafka, settings.case, policy_of(settings), word, clock_ms(settings))


def said(word: Brake) -> str:
    """A word that was published, as a line."""
    of = f" {word.order_id}" if word.order_id else ""
    until = f" until {day(word.until_ms)}" if word.until_ms else ""
    return f"{word.sequence}: {word.kind}{of}{until} ({word.by}: {word.reason})"


def _end(until: str) -> tuple[int | None, int | None]:
    """An instant, or how long from now on: whoever knows the stream's clock counts on from it."""
    if not until:
        return None, None
    if AGO.fullmatch(until.strip()):
        return None, -time_option("--until", until, 0)
    return time_option("--until", until, None), None
