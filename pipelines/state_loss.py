"""State that nothing brings back: a job's checkpoint is gone, and its stream no longer holds what it had counted.

Such a job would begin with what is left and write smaller counts than there were. The lake still has everything, so a new
hand-over of the same definition counts it all again, under a version of its own, beside what is read.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from confluent_kafka import KafkaException

from features.lake import Lake
from features.settings import StoreSettings
from features.views import Plan, View
from pipelines import reach
from pipelines.flink_jobs import FlinkJobs
from pipelines.flink_sql import Job
from pipelines.polling import unavailable
from pipelines.settings import FlinkSettings
from schemas.errors import HeadraceError
from schemas.settings import KafkaSettings

AGAIN = "headrace features apply"


class StateLost(HeadraceError):
    """Jobs would start from less than they had counted.

    Attributes:
        views: Their views' versions.
    """

    views: tuple[str, ...] = ()


def without_state(plan: Plan, jobs: Sequence[Job], flink: FlinkSettings) -> list[View]:
    """The views whose job does not run, and has left no checkpoint that is found.

    Also where only a setting of the job is another than before: its state then is of another job. None of them where
    the checkpoints are not on this machine.

    Args:
        plan: What had run.
        jobs: One for each of its views.
        flink: The cluster.

    Raises:
        FlinkUnavailable: The cluster does not answer.
    """
    with FlinkJobs(flink) as cluster:
        alive = {one.name for one in cluster.alive()}
        recovery = cluster.recovery()
    if recovery is None:
        return []
    named = zip(plan.views, jobs, strict=True)
    return [v for v, one in named if one.name not in alive and recovery.newest(one) is None]


def lost(
    views: Collection[View], plan: Plan, kafka: KafkaSettings, lake: Lake, lateness_s: int
) -> StateLost | None:
    """Which of these views, beginning without state, would lack events, and which; None where none would.

    Raises:
        KafkaUnavailable: The cluster is out of reach.
    """
    told: dict[str, str] = {}
    gone: list[View] = []
    try:
        for view in views:
            for hole in reach.holes(view, plan.handover(view), lake, kafka, lateness_s):
                at = f"{view.topic}, partition {hole.partition}"
                told[at] = f"{hole.events:,} events before offset {hole.first} are deleted"
                gone = gone if view in gone else [*gone, view]
    except KafkaException as error:
        raise unavailable("looking for what jobs had counted", error) from error
    if not gone:
        return None
    names = [view.name for view in gone]
    found = StateLost(
        f"jobs of views {', '.join(names)}",
        wanted="the state that they left, or every event that it had counted",
        came=f"there is no checkpoint, and of {'; of '.join(f'{k} {v}' for k, v in told.items())}",
        mend=f"Count again from the lake: {AGAIN} {' '.join(f'--again {name}' for name in names)}",
    )
    found.views = tuple(view.versioned for view in gone)
    return found


def found_at_start(
    plan: Plan,
    jobs: Sequence[Job],
    kafka: KafkaSettings,
    stores: StoreSettings,
    flink: FlinkSettings,
) -> StateLost | None:
    """What would be lost by running now again what had run: a plan's views, and a job for each.

    Raises:
        FlinkUnavailable, KafkaUnavailable: An engine is out of reach.
    """
    suspects = without_state(plan, jobs, flink)
    return lost(suspects, plan, kafka, Lake(stores), flink.lateness_s) if suspects else None
