"""What the loop is about, for people: whether it would act, the order that is open, what became of the last alerts. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from monitoring.brake import folded
from monitoring.loop import day, order_id
from schemas.control import Alert, Brake, BrakeKind, Candidate, RetrainingOrder, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from monitoring.loop import Loop
    from monitoring.policy import LoopPolicy
    from schemas.control_log import Entry

ARMED = "armed"
SPOKEN = {
    BrakeKind.APPROVE: "approved",
    BrakeKind.REFUSE: "refused",
    BrakeKind.LAPSE: "lapsed",
}


@dataclass(frozen=True)
class OrderStatus:
    """An order, and every step it has made so far, oldest first.

    Attributes:
        waits: For approval, in time or not.
        trained: Its candidate is there, or its training failed.
        window_start_ms: Of the alert that it answers, where that is known.
    """

    order_id: str
    reason: str
    opened_ms: int
    approve_by_ms: int | None
    steps: tuple[str, ...]
    is_open: bool
    waits: bool
    trained: bool
    window_start_ms: int | None


@dataclass(frozen=True)
class AlertStatus:
    """An alert, what was done about it, and what became of the order that it opened."""

    at_ms: int
    window_start_ms: int
    kinds: tuple[str, ...]
    version: str
    columns: tuple[str, ...]
    done: str
    steps: tuple[str, ...] = ()


@dataclass(frozen=True)
class LoopStatus:
    """All of it at `clock_ms`, the stream's.

    Attributes:
        state: "armed", "paused", "quiet", "proposed", "retraining" or "held back".
        held_back_by: Why an alert would not be obeyed now.
        paused_by: The pause in force, who and why.
        paused_until_ms: Where it ends by itself.
        order: The one that is open, else the newest.
        alerts: The newest first.
    """

    case: str
    clock_ms: int
    state: str
    held_back_by: str | None
    paused_by: str | None
    paused_until_ms: int | None
    quiet_until_ms: int | None
    approval: bool
    budget_left: int
    budget: int
    budget_per_ms: int
    cool_down_until_ms: int | None
    order: OrderStatus | None
    alerts: tuple[AlertStatus, ...]


def loop_status(
    case: str, entries: Sequence[Entry], policy: LoopPolicy, clock_ms: int, alerts_max: int
) -> LoopStatus:
    """The state of a use case's loop at `clock_ms`, from its control events."""
    loop = folded(entries, policy)
    pause = loop.paused(clock_ms)
    newest = sorted(loop.alerts.values(), key=lambda a: a.window_start_ms, reverse=True)
    cool_ms = loop.cool_down_until_ms()
    return LoopStatus(
        case=case,
        clock_ms=clock_ms,
        state=_state(loop, clock_ms),
        held_back_by=loop.held_back_by(clock_ms),
        paused_by=f"{pause.by}: {pause.reason}" if pause else None,
        paused_until_ms=pause.until_ms if pause else None,
        quiet_until_ms=policy.quiet_until_ms(clock_ms),
        approval=policy.approval,
        budget_left=loop.budget_left(clock_ms),
        budget=policy.orders_max,
        budget_per_ms=policy.orders_per_ms,
        cool_down_until_ms=cool_ms if cool_ms and cool_ms > clock_ms else None,
        order=_order(loop, entries),
        alerts=tuple(_alert(alert, loop, entries) for alert in newest[:alerts_max]),
    )


def steps(order: str, entries: Iterable[Entry]) -> tuple[str, ...]:
    """What has happened to an order, in the order in which the broker received it; repeats are told once."""
    told = (
        _step(entry.event)
        for entry in sorted(entries, key=lambda entry: entry.ingest_ms)
        if getattr(entry.event, "order_id", None) == order
    )
    return tuple(dict.fromkeys(step for step in told if step))


def _step(event: object) -> str:
    match event:
        case Brake(kind=kind, by=by, reason=reason) if kind in SPOKEN:
            return f"{SPOKEN[kind]} by {by}: {reason}"
        case Candidate(error=str(error)):
            return f"training failed: {error}"
        case Candidate(version=version):
            return f"trained {version}"
        case Verdict(verdict=kind, candidate=version, reason=reason):
            return f"{kind} {version}: {reason}"
    return ""


def _state(loop: Loop, clock_ms: int) -> str:
    if loop.paused(clock_ms):
        return "paused"
    if loop.proposed():
        return "proposed"
    if loop.open_orders():
        return "retraining"
    if loop.policy.quiet_until_ms(clock_ms):
        return "quiet"
    return "held back" if loop.held_back_by(clock_ms) else ARMED


def _order(loop: Loop, entries: Sequence[Entry]) -> OrderStatus | None:
    still_open = loop.open_orders()
    named = [loop.opened[name] for name in still_open] or sorted(
        loop.opened.values(), key=lambda order: order.event_time_ms
    )
    if not named:
        return None
    order: RetrainingOrder = named[-1]
    return OrderStatus(
        order_id=order.event_id,
        reason=order.reason,
        opened_ms=order.event_time_ms,
        approve_by_ms=order.approve_by_ms,
        steps=steps(order.event_id, entries),
        is_open=bool(still_open),
        waits=loop.proposed() is order,
        trained=order.event_id in loop.trained,
        window_start_ms=next(
            (a.window_start_ms for a in loop.alerts.values() if a.event_id == order.alert_id), None
        ),
    )


def _alert(alert: Alert, loop: Loop, entries: Sequence[Entry]) -> AlertStatus:
    order = loop.opened.get(order_id(alert.event_id))
    if order is None:
        done = f"held back by {alert.held_back_by}"
    elif order.event_time_ms > alert.event_time_ms:
        done = f"ordered {day(order.event_time_ms)}, after {alert.held_back_by}"
    else:
        done = "ordered" if order.approve_by_ms is None else "proposed"
    kinds = tuple(kind.value for kind in alert.kinds)
    return AlertStatus(
        alert.event_time_ms,
        alert.window_start_ms,
        kinds,
        alert.version,
        alert.drifted,
        done,
        steps(order.event_id, entries) if order else (),
    )
