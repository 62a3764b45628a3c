"""What a use case tolerates: the numbers by which drift, loop and guard decide. One `POLICY` in `monitoring/<case>.py`."""

from __future__ import annotations

from dataclasses import dataclass

from monitoring.drift import Thresholds

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
HOURS = 24
WEEKDAYS = 7


@dataclass(frozen=True)
class WindowPolicy:
    """How results are cut into windows: by event time, or by rows where `rows` is given. Windows do not overlap.

    Attributes:
        length_ms: By event time: of a window, aligned to the epoch. Also how much longer than its grace a window waits for
            outcomes while their join is behind.
        grace_ms: How long after its end a window waits for late results and for outcomes.
        rows_min: Fewer results (or joined rows) than this are not judged.
        rows_max: By event time: more are sampled down to this.
        rows: By rows: a window ends with so many results, whenever that is.
    """

    length_ms: int
    grace_ms: int
    rows_min: int
    rows_max: int = 50_000
    rows: int | None = None

    def __post_init__(self) -> None:
        if self.rows is not None and self.rows < max(self.rows_min, 1):
            raise ValueError(f"windows of {self.rows} rows would never hold {self.rows_min}")


@dataclass(frozen=True)
class DriftPolicy:
    """When a window differs too much.

    Attributes:
        inputs: For each model input.
        columns_min: So many inputs must have drifted for data drift, or one be broken.
        score: For the distribution of the champion's scores.
        auc_drop_min, log_loss_rise_min: Against the champion's held-out metrics, for concept drift.
        alpha: Its one-sided error, for each of the two metrics.
    """

    inputs: Thresholds
    columns_min: int
    score: Thresholds
    auc_drop_min: float
    log_loss_rise_min: float
    alpha: float


@dataclass(frozen=True)
class QuietHours:
    """Hours of the day, UTC, in which nothing is ordered: `[from_hour, until_hour)`, over midnight where the first is later.

    `weekdays` are those on which they begin, Monday 0.
    """

    from_hour: int
    until_hour: int
    weekdays: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)

    def __post_init__(self) -> None:
        hours, days = (self.from_hour, self.until_hour), self.weekdays
        if not all(0 <= h <= HOURS for h in hours) or self.from_hour == self.until_hour:
            raise ValueError(f"quiet hours of {hours}: wanted two different hours, 0 to 24")
        if not days or not all(0 <= d < WEEKDAYS for d in days):
            raise ValueError(f"quiet hours on {days}: wanted weekdays, 0 to 6")

    def end_ms(self, event_time_ms: int) -> int | None:
        """When they end, if `event_time_ms` lies within them."""
        length_ms = ((self.until_hour - self.from_hour) % HOURS or HOURS) * HOUR_MS
        today_ms = event_time_ms - event_time_ms % DAY_MS
        for midnight_ms in (today_ms - DAY_MS, today_ms):
            # The epoch was a Thursday.
            weekday = (midnight_ms // DAY_MS + 3) % WEEKDAYS
            begin_ms = midnight_ms + self.from_hour * HOUR_MS
            if weekday in self.weekdays and begin_ms <= event_time_ms < begin_ms + length_ms:
                return begin_ms + length_ms
        return None


@dataclass(frozen=True)
class LoopPolicy:
    """When an alert may order a retraining; all times are event time.

    Attributes:
        cool_down_ms: After an order was opened or closed.
        orders_max, orders_per_ms: The budget: so many orders within so much time.
        look_back_ms: How much of the past a retraining sees.
        quiet: Hours in which no order is opened; the newest alert of such hours is ordered when they end.
        approval: An order is only proposed: nothing trains before a person approved it.
        approval_ms: How long a proposal waits for that.
    """

    cool_down_ms: int
    orders_max: int
    orders_per_ms: int
    look_back_ms: int
    quiet: tuple[QuietHours, ...] = ()
    approval: bool = False
    approval_ms: int = 2 * DAY_MS

    def quiet_until_ms(self, event_time_ms: int) -> int | None:
        """The end of the quiet hours around `event_time_ms`, and of those that begin as they end; None outside of them."""
        until_ms = None
        # A week at most: whoever declares every hour quiet orders nothing.
        for _ in range(WEEKDAYS):
            at_ms = event_time_ms if until_ms is None else until_ms
            ends = [end for hours in self.quiet if (end := hours.end_ms(at_ms)) is not None]
            if not ends:
                break
            until_ms = max(ends)
        return until_ms


@dataclass(frozen=True)
class GuardPolicy:
    """How a canary is judged. The alphas add up to the chance that a canary as good as its champion is rolled back.

    Attributes:
        answers_min: Answers of the canary before anything is said of its errors, its time and its scores.
        rows_min: Joined canary rows before anything is said of what its scores are worth.
        rows_decide: Joined canary rows at the planned last look.
        duration_max_ms: The last look comes by then, in event time.
        mixture_sd: The size of harm, in nats of log-loss, that the sequential test is most sensitive to.
        fault_rise_min: The least rise of the rate of unscored answers worth a roll-back.
        slow_ms: An answer whose model took longer is slow; None does not look at time.
        slow_rise_min: The least rise of the rate of slow answers worth a roll-back.
        score_distance_max: Kolmogorov-Smirnov distance between the arms' scores that no sound retraining explains.
        alpha_log_loss, alpha_faults, alpha_slow: Of the sequential tests.
        alpha_last_log_loss, alpha_last_auc: Of the last look.
    """

    rows_min: int
    rows_decide: int
    duration_max_ms: int
    answers_min: int = 200
    mixture_sd: float = 0.05
    fault_rise_min: float = 0.01
    slow_ms: float | None = None
    slow_rise_min: float = 0.05
    score_distance_max: float = 0.5
    alpha_log_loss: float = 0.02
    alpha_faults: float = 0.005
    alpha_slow: float = 0.005
    alpha_last_log_loss: float = 0.01
    alpha_last_auc: float = 0.01

    @property
    def alpha(self) -> float:
        """The nominal rate of false roll-backs (union bound)."""
        watched = self.alpha_log_loss + self.alpha_faults + self.alpha_slow
        return watched + self.alpha_last_log_loss + self.alpha_last_auc


@dataclass(frozen=True)
class Policy:
    """Everything monitoring asks of a use case."""

    window: WindowPolicy
    drift: DriftPolicy
    loop: LoopPolicy
    guard: GuardPolicy
