"""From drifted windows to retraining orders: deduplicated, cooled down, one at a time, within a budget. Pure.

The state is nothing but a fold over the control events, in any order and however often each is repeated, so a restart
rebuilds it by reading them again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from monitoring.policy import DAY_MS, LoopPolicy
from schemas.control import Alert, Candidate, RetrainingOrder, Verdict, VerdictKind

# An admitted candidate is still on its way: its order is closed by what the guard says.
CLOSING = frozenset({VerdictKind.REFUSE, VerdictKind.PROMOTE, VerdictKind.ROLL_BACK})

LoopEvent = Alert | RetrainingOrder | Candidate | Verdict


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
    """Which alerts, orders and closings there have been.

    Attributes:
        alerts: Start of each window that was alerted → what held its order back. By window and not by id, because a
            restart may judge a window again after its champion was replaced.
        opened_ms: Order id → event time of its opening.
        closed_ms: Order id → event time of its first closing; may be known before the order itself.
    """

    policy: LoopPolicy
    alerts: dict[int, str | None] = field(default_factory=dict)
    opened_ms: dict[str, int] = field(default_factory=dict)
    closed_ms: dict[str, int] = field(default_factory=dict)

    def observe(self, event: LoopEvent) -> None:
        """Fold one control event into the state."""
        match event:
            case Alert():
                self.alerts[event.window_start_ms] = event.held_back_by
            case RetrainingOrder():
                self.opened_ms[event.event_id] = event.event_time_ms
            case Candidate() if event.error is not None:
                self._close(event.order_id, event.event_time_ms)
            case Verdict(verdict=kind, order_id=str(order)) if kind in CLOSING:
                self._close(order, event.event_time_ms)

    def open_orders(self) -> list[str]:
        """Orders that nothing has closed; never more than one that this loop opened."""
        return sorted(self.opened_ms.keys() - self.closed_ms.keys())

    def decide(self, window_start_ms: int, event_time_ms: int) -> Decision:
        """What to do about a drifted window, decided at `event_time_ms`."""
        if window_start_ms in self.alerts:
            return Decision(repeated=True, held_back_by=self.alerts[window_start_ms])
        return Decision(held_back_by=self._held_back_by(event_time_ms))

    def _held_back_by(self, event_time_ms: int) -> str | None:
        if still_open := self.open_orders():
            return f"open order {still_open[0]}"
        latest_ms = max((*self.opened_ms.values(), *self._closings_ms()), default=None)
        if latest_ms is not None and event_time_ms < latest_ms + self.policy.cool_down_ms:
            return f"cool-down until {_day(latest_ms + self.policy.cool_down_ms)}"
        since_ms = event_time_ms - self.policy.orders_per_ms
        recent = sum(ms > since_ms for ms in self.opened_ms.values())
        if recent >= self.policy.orders_max:
            days = self.policy.orders_per_ms / DAY_MS
            return f"budget of {self.policy.orders_max} orders in {days:g} days"
        return None

    def _closings_ms(self) -> list[int]:
        return [ms for order, ms in self.closed_ms.items() if order in self.opened_ms]

    def _close(self, order: str, event_time_ms: int) -> None:
        self.closed_ms[order] = min(event_time_ms, self.closed_ms.get(order, event_time_ms))


def _day(event_time_ms: int) -> str:
    return datetime.fromtimestamp(event_time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
