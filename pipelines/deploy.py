"""Feature definitions onto the running engines: Feast's registry, lake tables, tile topics, Flink jobs.

`plan` tells what `apply` would do. Both may be repeated; what is already so is left alone. Definitions are compiled by
Feast, which takes its six to ten seconds to import: only here, never in a worker.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from features import certificate
from features.state_cost import Cost, refuse_costly
from features.views import Plan
from pipelines.flink_jobs import FlinkJobs, FlinkUnavailable, RunningJob, submit
from pipelines.flink_sql import Job, job, job_prefix
from schemas import evolution, topics

if TYPE_CHECKING:
    from features.feast_store import Diff
    from features.settings import StoreSettings
    from pipelines.settings import FlinkSettings
    from schemas.settings import KafkaSettings

VIEW = "view "
# `plan` is also asked where nothing runs, and must not hang there.
KAFKA_ANSWER_S = 3.0


class Deployed(NamedTuple):
    """What `apply` did, or, from `plan`, what it would do.

    Attributes:
        diff: Definitions and lake tables.
        topics: Tile topics created; from `plan`, None where Kafka does not answer.
        submitted: Views whose job is submitted; from `plan`, None where the cluster does not answer.
        cancelled: Jobs cancelled, by name.
        costs: What each view keeps for an entity.
    """

    diff: Diff
    topics: tuple[str, ...] | None
    submitted: tuple[str, ...] | None
    cancelled: tuple[str, ...]
    costs: tuple[Cost, ...] = ()


def plan(case: str, kafka: KafkaSettings, stores: StoreSettings, flink: FlinkSettings) -> Deployed:
    """What `apply` would do; changes nothing, and works without a running stack.

    Raises:
        PlanRefused: A definition cannot be run; every reason is in it.
        SqlRefused: A name of a view cannot be put into SQL.
        StateRefused: A view would keep more than is allowed for an entity.
        IncompatibleSchema: A contract refuses what its released schema accepts.
    """
    evolution.require_compatible(case)
    feast_store = _feast_store()
    wanted, diff = feast_store.plan(case, stores)
    diff = diff._replace(tables=feast_store.missing_tables(case, stores))
    costs = _costs(wanted, flink)
    jobs = _jobs(wanted, kafka, flink)
    tile_topics = _missing_topics(kafka, wanted)
    try:
        with FlinkJobs(flink) as cluster:
            alive = cluster.alive()
    except FlinkUnavailable:
        return Deployed(diff, tile_topics, None, (), costs)
    running = {one.name for one in alive}
    missing = [one for one in jobs if one.name not in running]
    outdated = _of_views(alive, [one.view for one in missing]) + _of_views(alive, _removed(diff))
    return Deployed(
        diff,
        tile_topics,
        tuple(one.view for one in missing),
        tuple(one.name for one in outdated),
        costs,
    )


def apply(
    case: str,
    kafka: KafkaSettings,
    stores: StoreSettings,
    flink: FlinkSettings,
    progress: Callable[[str], None] | None = None,
) -> Deployed:
    """Make the engines run a use case's definitions.

    A job that is not running starts from the state that it left, unless its definition has changed or its tiles are gone.
    Rings of a removed view are left to the online store; nothing reads them any more.

    Raises:
        PlanRefused, SqlRefused, StateRefused: A definition cannot be run; nothing was changed.
        IncompatibleSchema: A contract refuses what its released schema accepts; nothing was changed.
        Uncertified: A view has no certificate, and the settings demand one; nothing was changed.
        LakeSchemaChanged: A lake table has other columns than its contract.
        TopicError, FlinkUnavailable, SubmissionFailed: An engine is out of reach or refused; apply again.
    """
    say = progress or (lambda _: None)
    evolution.require_compatible(case)
    say("registering definitions")
    feast_store = _feast_store()
    wanted, _ = feast_store.plan(case, stores)
    # Before anything is written, so that what is refused changes nothing.
    costs = _costs(wanted, flink)
    if flink.require_certificate:
        certificate.require(wanted, stores.plan_path)
    jobs = _jobs(wanted, kafka, flink)
    diff = feast_store.apply(case, stores)
    applied = Plan.load(stores.plan_path)
    created = topics.create(kafka, (topics.tile_topic(view.topic_out) for view in applied.views))
    cancelled: list[RunningJob] = []
    with FlinkJobs(flink) as cluster:
        cancelled = _of_views(cluster.alive(), _removed(diff))
        cluster.cancel(cancelled)
    say("submitting feature jobs")
    # Tiles of a new topic must all be written, and a job that goes on writes only those that change.
    fresh = [view.name for view in applied.views if view.topic_out in created]
    submitted = submit(jobs, flink, say, lasting=True, fresh=fresh)
    return Deployed(
        diff,
        tuple(created),
        tuple(one.view for one in submitted),
        tuple(one.name for one in cancelled),
        costs,
    )


def _feast_store() -> ModuleType:
    feast_store = import_module("features.feast_store")
    # Feast says of every stream feature view that it is experimental; that is why headrace runs them. Only now, for
    # Feast sets filters of its own when it is imported.
    warnings.filterwarnings("ignore", message="Stream feature views are experimental")
    return feast_store


def _jobs(wanted: Plan, kafka: KafkaSettings, flink: FlinkSettings) -> list[Job]:
    return [job(view, kafka, flink) for view in wanted.views]


def _costs(wanted: Plan, flink: FlinkSettings) -> tuple[Cost, ...]:
    return tuple(refuse_costly(wanted.views, flink.lateness_s, flink.entity_bytes_max))


def _missing_topics(kafka: KafkaSettings, wanted: Plan) -> tuple[str, ...] | None:
    try:
        names = [view.topic_out for view in wanted.views]
        return tuple(topics.missing(kafka, names, KAFKA_ANSWER_S))
    except topics.TopicError:
        return None


def _removed(diff: Diff) -> list[str]:
    return [name.removeprefix(VIEW) for name in diff.removed if name.startswith(VIEW)]


def _of_views(alive: list[RunningJob], views: list[str]) -> list[RunningJob]:
    prefixes = tuple(job_prefix(view) for view in views)
    return [one for one in alive if one.name.startswith(prefixes)] if prefixes else []
