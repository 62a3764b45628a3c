"""Where each job of a plan begins, and what it would lose by that."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from features import plan_files
from features.lake import Lake
from features.views import Handover, Plan
from pipelines import handover, state_loss
from pipelines.flink_sql import Job, job
from pipelines.state_loss import StateLost
from schemas import topics

if TYPE_CHECKING:
    from features.settings import StoreSettings
    from pipelines.settings import FlinkSettings
    from schemas.settings import KafkaSettings


def jobs_of(wanted: Plan, kafka: KafkaSettings, flink: FlinkSettings) -> list[Job]:
    """A job for each view, beginning where the plan says."""
    return [job(view, kafka, flink, wanted.handover(view)) for view in wanted.views]


def begun(
    case: str,
    before: Plan,
    wanted: Plan,
    kafka: KafkaSettings,
    stores: StoreSettings,
    flink: FlinkSettings,
) -> Plan:
    """The wanted plan with where each view's job begins: as before, as a hand-over under way says, or with the lake of now.

    Raises:
        HandoverRefused: Lake and stream do not meet.
        FlinkUnavailable, KafkaUnavailable: An engine is out of reach.
    """
    lake = Lake(stores)
    known = _comes_back(case, before, wanted, kafka, stores, flink)
    known |= {view.versioned: before.handover(view) for view in before.views}
    waiting = plan_files.pending(stores.plan_path) or Plan()
    begins: dict[str, Handover] = {}
    for view in wanted.views:
        one = waiting.handover(view)
        if view.versioned in known:
            one = known[view.versioned]
        elif one is None or not handover.still_possible(view, one, kafka):
            one = handover.begin(view, lake, kafka)
        if one is not None:
            begins[view.versioned] = one
    return msgspec.structs.replace(wanted, handovers=begins)


def _comes_back(
    case: str,
    before: Plan,
    wanted: Plan,
    kafka: KafkaSettings,
    stores: StoreSettings,
    flink: FlinkSettings,
) -> dict[str, Handover | None]:
    """Retired versions whose job can go on where it stopped, because the stream still holds what came since."""
    table, now_ms = topics.table_of(case), time.time_ns() // 1_000_000
    asked = {view.versioned for view in wanted.views}
    held = {
        one.view.versioned: one
        for one in before.retired
        if one.view.versioned in asked
        and now_ms - one.until_ms < table[one.view.topic].retention_ms / 2
    }
    if not held:
        return {}
    had_run = Plan(
        views=tuple(one.view for one in held.values()),
        handovers={name: one.handover for name, one in held.items() if one.handover},
    )
    found = state_lost(had_run, kafka, stores, flink)
    gone = found.views if found else ()
    return {name: one.handover for name, one in held.items() if name not in gone}


def staying(before: Plan, wanted: Plan) -> Plan:
    """Of the applied plan, the views that stay as they are."""
    stays = {view.versioned for view in wanted.views}
    return msgspec.structs.replace(
        before, views=tuple(view for view in before.views if view.versioned in stays)
    )


def state_lost(
    had_run: Plan, kafka: KafkaSettings, stores: StoreSettings, flink: FlinkSettings
) -> StateLost | None:
    """What running again what had run would lose.

    Raises:
        FlinkUnavailable, KafkaUnavailable: An engine is out of reach.
    """
    jobs = jobs_of(had_run, kafka, flink)
    return state_loss.found_at_start(had_run, jobs, kafka, stores, flink)
