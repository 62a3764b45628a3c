"""The brake of the loop: pause and resume it, approve or refuse an order. Each word is an event on `control.brake`.

All who pull it write under one transactional id, and read the log after they have fenced whoever wrote before. So a word
is published only by one who has read all earlier words: an order is never both approved and lapsed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from monitoring.loop import Loop, day
from schemas.control import (
    Alert,
    Brake,
    BrakeKind,
    Candidate,
    RetrainingOrder,
    Verdict,
)
from schemas.control_log import ControlLog, Entry
from schemas.errors import HeadraceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from monitoring.policy import LoopPolicy
    from schemas.settings import KafkaSettings

# What the state of the loop is folded from, and the releases that say who is champion.
TOPICS = (
    "control.releases",
    "control.alerts",
    "control.retraining",
    "control.candidates",
    "control.verdicts",
    "control.brake",
)
STATUS = "`headrace loop status` shows what there is."


class BrakeRefused(HeadraceError):
    """A word that changes nothing, or comes too late. Nothing was published."""


@dataclass(frozen=True)
class Word:
    """What somebody says to the loop. A pause ends at `until_ms` of the stream's clock, or `length_ms` after it was said."""

    kind: BrakeKind
    by: str
    reason: str
    order_id: str | None = None
    until_ms: int | None = None
    length_ms: int | None = None


def folded(entries: Sequence[Entry], policy: LoopPolicy) -> Loop:
    """The loop as control events made it; what it is not made of is passed by."""
    loop = Loop(policy)
    for entry in entries:
        if isinstance(entry.event, Alert | RetrainingOrder | Candidate | Verdict | Brake):
            loop.observe(entry.event)
    return loop


def clock_ms(entries: Sequence[Entry], known_ms: int = 0) -> int:
    """The stream's clock, as far as control events tell; `known_ms` where somebody knows more."""
    return max([known_ms, *(entry.event.event_time_ms for entry in entries)])


def pull(
    kafka: KafkaSettings, case: str, policy: LoopPolicy, word: Word, known_clock_ms: int = 0
) -> Brake:
    """Publish a word, if it means something as things are.

    Args:
        kafka: The cluster.
        case: The use case.
        policy: Of its loop.
        word: What is said.
        known_clock_ms: The stream's clock, where the caller knows more than the control topics.

    Raises:
        BrakeRefused: The order is unknown, closed, lapsed or wants no approval; there is no pause to resume from; or the same
            pause is in force.
        ControlLogUnavailable: Kafka did not take it, or somebody else pulled the brake at the same moment.
    """
    with ControlLog(kafka, case, TOPICS, writer=f"control.brake.{case}") as control:
        entries = control.read_all()
        loop = folded(entries, policy)
        now_ms = clock_ms(entries, known_clock_ms) or time.time_ns() // 1_000_000
        if word.kind is BrakeKind.LAPSE:
            now_ms = known_clock_ms
        if word.length_ms is not None:
            word = replace(word, until_ms=now_ms + word.length_ms)
        check(loop, word, now_ms)
        said = brake(case, loop, word, now_ms)
        control.publish(said)
    return said


def brake(case: str, loop: Loop, word: Word, now_ms: int) -> Brake:
    """The event that says `word` next."""
    sequence = loop.sequence + 1
    return Brake(
        event_time_ms=now_ms,
        event_id=f"brake-{case}-{sequence}",
        case=case,
        decided_at_ms=time.time_ns() // 1_000_000,
        sequence=sequence,
        kind=word.kind,
        order_id=word.order_id,
        until_ms=word.until_ms,
        by=word.by,
        reason=word.reason,
    )


def check(loop: Loop, word: Word, now_ms: int) -> None:
    """Whether a word means something at `now_ms` (pure).

    Raises:
        BrakeRefused: It does not.
    """
    match word.kind:
        case BrakeKind.RESUME:
            if loop.paused(now_ms) is None:
                raise BrakeRefused("the loop", wanted="a pause to end", came="it is not paused")
        case BrakeKind.PAUSE:
            if word.until_ms is not None and word.until_ms <= now_ms:
                wanted = f"a pause that ends after {day(now_ms)}, the stream's clock"
                raise BrakeRefused("--until", wanted=wanted, came=f"it is {day(word.until_ms)}")
            pause = loop.paused(now_ms)
            if pause is not None and pause.until_ms == word.until_ms:
                ends = (
                    "without an end" if pause.until_ms is None else f"until {day(pause.until_ms)}"
                )
                came = f"it is paused {ends} by {pause.by}: {pause.reason}"
                raise BrakeRefused("the loop", wanted="a pause with another end", came=came)
        case _:
            _check_order(loop, word, now_ms)


def _check_order(loop: Loop, word: Word, now_ms: int) -> None:
    name = word.order_id or ""
    order = loop.opened.get(name)
    if order is None:
        raise BrakeRefused(
            f"order {name}", wanted="one that was opened", came="there is none", mend=STATUS
        )
    came = None
    if name in loop.closed_ms:
        came = "it is closed"
    elif name in loop.trained:
        came = "its candidate is there, and goes through the gate (`headrace release rollback` ends a canary)"
    elif word.kind is not BrakeKind.REFUSE and name in loop.approved:
        came = "it is approved"
    elif word.kind is not BrakeKind.REFUSE and order.approve_by_ms is None:
        came = "it waits for nobody"
    elif word.kind is BrakeKind.APPROVE and loop.lapsed(now_ms):
        came = f"its time was up at {day(order.approve_by_ms or 0)}"
    if came is not None:
        wanted = (
            "an open order" if word.kind is BrakeKind.REFUSE else "an order that waits for approval"
        )
        raise BrakeRefused(f"order {name}", wanted=wanted, came=came, mend=STATUS)
