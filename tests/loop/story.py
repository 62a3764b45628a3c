"""What became of one run."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Worth:
    """What a stretch of the stream was answered with."""

    rows: int
    auc: float | None
    log_loss: float | None


@dataclass
class Story:
    """What became of one run. Rows are counted from the first that was sent; delays from the first drifted one.

    Attributes:
        drift_at: The first drifted row.
        quiet, false: Windows judged that ended before the drift, and what was seen in them.
        found_rows: To the end of the window that found the drift; None if none did.
        found: What was seen in it.
        orders: Retrainings; `orders_false` of them were ordered by a window from before the drift.
        candidates, refused, rolled_back, promoted: What became of them.
        promoted_rows: Until the promoted version answered everything; None if none was promoted.
        alerts_after: Alerts of windows that began after that.
        before, between, after: The champion's worth: before the drift, from there to the promotion, and since.
        never: Of the first champion, had it answered the rows since.
        rows: Sent in all.
        lost: Rows without an answer, or with two.
    """

    stream: str
    seed: int
    drift_at: int
    rows: int = 0
    quiet: int = 0
    false: list[str] = field(default_factory=list)
    found_rows: int | None = None
    found: list[str] = field(default_factory=list)
    alerts: int = 0
    orders: int = 0
    orders_false: int = 0
    candidates: int = 0
    refused: int = 0
    rolled_back: int = 0
    promoted: int = 0
    promoted_rows: int | None = None
    alerts_after: int = 0
    before: Worth | None = None
    between: Worth | None = None
    after: Worth | None = None
    never: Worth | None = None
    lost: int = 0
    wall_s: float = 0.0
    said: list[str] = field(default_factory=list)
