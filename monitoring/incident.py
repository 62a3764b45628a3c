"""The champion below its accuracy floor: an event, from one judged window. Pure."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from schemas.control import Incident

if TYPE_CHECKING:
    from monitoring.judgement import Judgement
    from monitoring.windows import Window
    from schemas.requirements import Accuracy


def incident(
    case: str, floor: Accuracy, window: Window, judgement: Judgement, event_time_ms: int
) -> Incident | None:
    """The incident of a window; None where the floor is met, or too few outcomes say otherwise.

    A suspended champion earns no outcomes, so that an incident does not repeat itself.
    """
    value = judgement.live.metrics()[floor.metric]
    if value is None or judgement.live.rows < floor.rows_min or floor.met_by(value):
        return None
    said = f"{floor.metric} {value:.4f} on {judgement.live.rows:,} outcomes"
    return Incident(
        event_time_ms=event_time_ms,
        event_id=f"incident-{case}-{judgement.version}-{window.start_ms}",
        case=case,
        decided_at_ms=time.time_ns() // 1_000_000,
        requirement="accuracy",
        version=judgement.version,
        value=value,
        bound=floor.value,
        rows=judgement.live.rows,
        window_start_ms=window.start_ms,
        window_end_ms=window.end_ms,
        reason=f"{said} misses the floor of {floor.value:g}",
    )
