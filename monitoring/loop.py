"""From drifted windows to retraining orders: deduplicated, cooled down, one at a time, within a budget; and the brakes. Pure.

The state is nothing but a fold over the control events, in any order and however often each is repeated, so a restart rebuilds
it by reading them again. Brakes are numbered, so that the newest is known whatever the order they are read in.

```
alert ──► held back by an open order, a pause, the cool-down, the budget: nothing follows
   │  └─► held back by quiet hours ──► at their end, if nothing else holds it
   ▼
order ──► (proposed ──► approved) ──► trained ──► candidate ──► refused, promoted, rolled back: closed
                └──► refused, or lapsed: closed
```
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from monitoring.policy import DAY_MS, LoopPolicy
from schemas.control import (
    Alert,
    Brake,
    BrakeKind,
    Candidate,
    RetrainingOrder,
    Verdict,
    VerdictKind,
)

# An admitted candidate is still on its way: its order is closed by what the guard says.
CLOSING = frozenset({VerdictKind.REFUSE, VerdictKind.PROMOTE, VerdictKind.ROLL_BACK})
QUIET = "quiet hours"

LoopEvent = Alert | RetrainingOrder | Candidate | Verdict | Brake


def alert_id(case: str, version: str, window_start_ms: int) -> str:
    """The same for the same window, however often it is judged."""
    return f"alert-{case}-{version}-{window_start_ms}"


def order_id(alert: str) -> str:
    """Of the order that an alert opens."""
    return f"order-{alert}"


@dataclass(frozen=True)
class Decision:
    """What to do about a drifted window.

    Attributes:
        repeated: The window was alerted before: publish nothing; the rest says what was done then.
        held_back_by: Why no order is opened; None to open one.
    """

    repeated: bool = False
    held_back_by: str | None = None

    @property
    def acts(self) -> bool:
        """Whether to publish an order with the alert."""
        return not self.repeated and self.held_back_by is None


@dataclass
class Loop:
    """Which alerts, orders, closings and brakes there have been.

    Attributes:
        alerts: Start of each window that was alerted → the alert. By window and not by id, because a restart may judge a
            window again after its champion was replaced.
        opened: Order id → the order.
        closed_ms: Order id → event time of its first closing; may be known before the order itself.
        trained: Orders that a candidate has answered.
        admitted: Orders whose candidate has passed the gate.
        approved: Orders that a person approved.
        pause: The newest pause or resume.
        sequence: The newest brake's.
    """

    policy: LoopPolicy
    alerts: dict[int, Alert] = field(default_factory=dict)
    opened: dict[str, RetrainingOrder] = field(default_factory=dict)
    closed_ms: dict[str, int] = field(default_factory=dict)
    trained: set[str] = field(default_factory=set)
    admitted: set[str] = field(default_factory=set)
    approved: set[str] = field(default_factory=set)
    pause: Brake | None = None
    sequence: int = 0

    def observe(self, event: LoopEvent) -> None:
        """Fold one control event into the state."""
        match event:
            case Alert():
                self.alerts[event.window_start_ms] = event
            case RetrainingOrder():
                self.opened[event.event_id] = event
            case Candidate():
                self.trained.add(event.order_id)
                if event.error is not None:
                    self._close(event.order_id, event.event_time_ms)
            case Verdict(verdict=kind, order_id=str(order)) if kind in CLOSING:
                self._close(order, event.event_time_ms)
            case Verdict(verdict=VerdictKind.ADMIT, order_id=str(order)):
                self.admitted.add(order)
            case Brake():
                self._brake(event)

    def open_orders(self) -> list[str]:
        """Orders that nothing has closed; never more than one that this loop opened."""
        return sorted(self.opened.keys() - self.closed_ms.keys())

    def proposed(self) -> RetrainingOrder | None:
        """The open order that waits for approval; None where there is none."""
        for name in self.open_orders():
            order = self.opened[name]
            if order.approve_by_ms is not None and name not in self.approved:
                return order
        return None

    def lapsed(self, event_time_ms: int) -> RetrainingOrder | None:
        """The proposal that has waited too long at `event_time_ms`; only a LAPSE closes it."""
        order = self.proposed()
        if order is None or order.approve_by_ms is None or event_time_ms <= order.approve_by_ms:
            return None
        return order

    def paused(self, event_time_ms: int) -> Brake | None:
        """The pause in force at `event_time_ms`."""
        pause = self.pause
        if pause is None or pause.kind is not BrakeKind.PAUSE:
            return None
        ended = pause.until_ms is not None and event_time_ms >= pause.until_ms
        return None if ended else pause

    def decide(self, window_start_ms: int, event_time_ms: int) -> Decision:
        """What to do about a drifted window, decided at `event_time_ms`."""
        known = self.alerts.get(window_start_ms)
        if known is not None:
            return Decision(repeated=True, held_back_by=known.held_back_by)
        return Decision(held_back_by=self.held_back_by(event_time_ms))

    def deferred(self, event_time_ms: int) -> tuple[Alert, int] | None:
        """The newest alert, where quiet hours alone held it back and have ended by `event_time_ms`; and when they did.

        The order is as of that end, and what was said after it counts neither way, so that a replay decides alike. Ask
        before the next window is closed, as of its closing: a newer alert speaks for itself.
        """
        newest = self.alerts[max(self.alerts)] if self.alerts else None
        if newest is None or order_id(newest.event_id) in self.opened:
            return None
        end_ms = self.policy.quiet_until_ms(newest.event_time_ms)
        held = (newest.held_back_by or "").startswith(QUIET)
        if not held or end_ms is None or event_time_ms < end_ms:
            return None
        if self.pause is not None and self.pause.event_time_ms > end_ms:
            return None  # it may have been paused then
        return None if self.held_back_by(end_ms) else (newest, end_ms)

    def cool_down_until_ms(self) -> int | None:
        """Until when the last opening or closing holds the next order back; None before the first order."""
        times = [order.event_time_ms for order in self.opened.values()]
        times += [ms for order, ms in self.closed_ms.items() if order in self.opened]
        return max(times) + self.policy.cool_down_ms if times else None

    def budget_left(self, event_time_ms: int) -> int:
        """How many orders may still be opened at `event_time_ms`."""
        since_ms = event_time_ms - self.policy.orders_per_ms
        recent = sum(order.event_time_ms > since_ms for order in self.opened.values())
        return max(self.policy.orders_max - recent, 0)

    def held_back_by(self, event_time_ms: int) -> str | None:
        """Why nothing would be ordered at `event_time_ms`; None where an alert would be obeyed."""
        if still_open := self.open_orders():
            waits = ", which waits for approval" if self.proposed() else ""
            return f"open order {still_open[0]}{waits}"
        if pause := self.paused(event_time_ms):
            return f"pause by {pause.by}: {pause.reason}"
        cool_ms = self.cool_down_until_ms()
        if cool_ms is not None and event_time_ms < cool_ms:
            return f"cool-down until {day(cool_ms)}"
        if self.budget_left(event_time_ms) == 0:
            days = self.policy.orders_per_ms / DAY_MS
            return f"budget of {self.policy.orders_max} orders in {days:g} days"
        # Last: what only quiet hours hold back is ordered at their end.
        quiet_ms = self.policy.quiet_until_ms(event_time_ms)
        return None if quiet_ms is None else f"{QUIET} until {day(quiet_ms)}"

    def _brake(self, brake: Brake) -> None:
        self.sequence = max(self.sequence, brake.sequence)
        match brake.kind:
            case BrakeKind.APPROVE if brake.order_id:
                self.approved.add(brake.order_id)
            case BrakeKind.REFUSE | BrakeKind.LAPSE if brake.order_id:
                self._close(brake.order_id, brake.event_time_ms)
            case BrakeKind.PAUSE | BrakeKind.RESUME:
                if self.pause is None or brake.sequence > self.pause.sequence:
                    self.pause = brake

    def _close(self, order: str, event_time_ms: int) -> None:
        self.closed_ms[order] = min(event_time_ms, self.closed_ms.get(order, event_time_ms))


def day(event_time_ms: int) -> str:
    """An instant for people, to the minute, in UTC; as a number where no calendar has it, for anybody may write to a topic."""
    try:
        return datetime.fromtimestamp(event_time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError):
        return f"{event_time_ms} ms after 1970"
