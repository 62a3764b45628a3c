"""Feature definitions onto the running engines: Feast's registry, lake tables, tile topics, Flink jobs.

`plan` tells what `apply` would do. Both may be repeated; what is already so is left alone. Definitions are compiled by
Feast, which takes its six to ten seconds to import: only here, never in a worker.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Collection
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import structlog

from features import certificate, plan_files, versions
from features.lake import Lake
from features.state_cost import Cost, refuse_costly
from features.views import Plan, View
from pipelines import handover, lineage, state_loss
from pipelines.beginnings import begun, jobs_of, state_lost, staying
from pipelines.flink_jobs import (
    CANNOT_RESTORE,
    FlinkJobs,
    FlinkUnavailable,
    RunningJob,
    TooFewSlots,
    submit,
)
from pipelines.flink_sql import Job, job_prefix, view_prefix
from pipelines.polling import KafkaUnavailable
from pipelines.pruning import prune as prune_retired
from schemas import evolution, topics
from schemas.errors import HeadraceError

if TYPE_CHECKING:
    from features.feast_store import Diff
    from features.settings import StoreSettings
    from pipelines.settings import FlinkSettings
    from schemas.settings import KafkaSettings

Say = Callable[[str], None]
# `plan` is also asked where nothing runs, and must not hang there.
KAFKA_ANSWER_S = 3.0

log = structlog.get_logger()


class ServiceChanged(HeadraceError):
    """A service would mean something else under its old name, and every model of it would be refused."""


class Deployed(NamedTuple):
    """What `apply` did, or, from `plan`, what it would do.

    Attributes:
        diff: Definitions and lake tables.
        topics: Tile topics created; from `plan`, None where Kafka does not answer.
        submitted: Views whose job is submitted; from `plan`, None where the cluster does not answer.
        cancelled: Jobs cancelled, by name.
        costs: What each view keeps for an entity.
        handed_over: Views of which a new version takes over.
        services_changed: Services that mean something else under their old name.
        pruned: What was removed of versions that nobody reads.
        incomplete: Views that count less than they should, because a job lost its state: to be counted again.
    """

    diff: Diff
    topics: tuple[str, ...] | None
    submitted: tuple[str, ...] | None
    cancelled: tuple[str, ...]
    costs: tuple[Cost, ...] = ()
    handed_over: tuple[str, ...] = ()
    services_changed: tuple[str, ...] = ()
    pruned: tuple[str, ...] = ()
    incomplete: tuple[str, ...] = ()


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
    costs = _costs(wanted, flink)
    before = plan_files.applied(stores.plan_path)
    wanted = versions.renewed(before, wanted)
    kept = msgspec.structs.replace(wanted, handovers=before.handovers)
    jobs = jobs_of(kept, kafka, flink)
    would = Deployed(
        diff._replace(tables=feast_store.missing_tables(case, stores)),
        _missing_topics(kafka, wanted),
        None,
        (),
        costs,
        tuple(view.name for view, old in versions.fresh(before, wanted) if old),
        tuple(versions.changed_services(before, wanted)),
        incomplete=_incomplete(before),
    )
    try:
        with FlinkJobs(flink) as cluster:
            alive = cluster.alive()
        found = state_lost(before, kafka, stores, flink)
    except FlinkUnavailable:
        return would
    except KafkaUnavailable:
        found = None
    if found:
        marked = msgspec.structs.replace(before, incomplete=(*before.incomplete, *found.views))
        would = would._replace(incomplete=_incomplete(marked))
    running = {one.name for one in alive}
    return would._replace(
        submitted=tuple(
            view.name for view, one in zip(kept.views, jobs, strict=True) if one.name not in running
        ),
        cancelled=tuple(one.name for one in _outdated(alive, before, kept, jobs)),
    )


def apply(
    case: str,
    kafka: KafkaSettings,
    stores: StoreSettings,
    flink: FlinkSettings,
    progress: Say | None = None,
    *,
    allow_service_changes: bool = False,
    prune: bool = False,
    again: Collection[str] = (),
) -> Deployed:
    """Make the engines run a use case's definitions.

    A job that is not running starts from the state that it left. A view whose tiles change gets a job, a topic and rings of
    its own beside the old ones, beginning with what the lake holds; readers switch when those have caught up, and only
    then the old job ends. What is left of it stays until it is pruned, so that the old definition can come back at once.

    Args:
        case: The use case.
        kafka: The cluster.
        stores: The online store, the lake and the registry.
        flink: The session cluster.
        progress: Told what happens.
        allow_service_changes: Let a service mean something else under its old name.
        prune: Remove what is left of versions that nobody reads any more: topics, rings, state.
        again: Views that are counted again from the lake, under a new version of the same definition.

    Raises:
        UnknownDefinition: `again` names a view that there is not.
        StateLost: A stream lacks what a job had counted and lost; nothing was changed. Count again.
        PlanRefused, SqlRefused, StateRefused, ServiceChanged, TooFewSlots: It cannot be run; nothing was changed.
        IncompatibleSchema: A contract refuses what its released schema accepts; nothing was changed.
        Uncertified: A view has no certificate, and the settings demand one; nothing was changed.
        LakeSchemaChanged: A lake table has other columns than its contract.
        HandoverRefused: Lake and stream do not meet; readers stay on what they read.
        HandoverSlow: A new version has not caught up; readers stay on what they read. Apply again.
        TopicError, FlinkUnavailable, SubmissionFailed: An engine is out of reach or refused; apply again.
    """
    say = progress or (lambda _: None)
    evolution.require_compatible(case)
    say("compiling definitions")
    feast_store, before = _feast_store(), plan_files.applied(stores.plan_path)
    wanted = versions.renewed(before, feast_store.plan(case, stores)[0], again)
    fresh = versions.fresh(before, wanted)
    # Before anything is written, so that what is refused changes nothing.
    costs = _costs(wanted, flink)
    _refuse_changed_services(before, wanted, allowed=allow_service_changes)
    _refuse_unrunnable(before, wanted, kafka, stores, flink)
    tables = feast_store.create_tables(case, stores)
    coming = begun(case, before, wanted, kafka, stores, flink)
    if fresh:
        # From here on the materializer keeps their rings too.
        coming.save(plan_files.next_path(stores.plan_path))
    created, submitted, cut = _run(coming, kafka, stores, flink, say)
    if before.views:
        handover.CatchingUp(case, kafka, stores, fresh, coming.handovers).wait(say)
    coming = msgspec.structs.replace(coming, incomplete=cut)
    after = versions.succeeded(before, coming, time.time_ns() // 1_000_000)
    say("registering definitions")
    diff = feast_store.apply(case, stores, after)._replace(tables=tables)
    ended = _end_outdated(before, after, kafka, flink)
    lineage.jobs_ended(stores, ended)
    return Deployed(
        *(diff, created, submitted, ended, costs),
        tuple(view.name for view, old in fresh if old),
        tuple(versions.changed_services(before, wanted)),
        _prune(after, kafka, stores, flink) if prune else (),
        _incomplete(after),
    )


def _end_outdated(
    before: Plan, after: Plan, kafka: KafkaSettings, flink: FlinkSettings
) -> tuple[str, ...]:
    with FlinkJobs(flink) as cluster:
        outdated = _outdated(cluster.alive(), before, after, jobs_of(after, kafka, flink))
        cluster.cancel(outdated)
    return tuple(one.name for one in outdated)


def _prune(
    after: Plan, kafka: KafkaSettings, stores: StoreSettings, flink: FlinkSettings
) -> tuple[str, ...]:
    with FlinkJobs(flink) as cluster:
        recovery = cluster.recovery()
    pruned = prune_retired(after, kafka, stores, recovery)
    left = msgspec.structs.replace(after, retired=(), retired_rows=())
    plan_files.switch(left, stores.plan_path)
    return pruned


def start(case: str, kafka: KafkaSettings, stores: StoreSettings, flink: FlinkSettings) -> None:
    """Run what was applied; the first time, and where no reader could notice, the definitions of now.

    Definitions that need a hand-over wait for `apply`: it takes readers and writers that run. So does a job that has lost
    what it counted: it begins with what is left, so that features stay fresh, and the plan says that it is incomplete.

    Raises:
        As `apply`.
    """
    wanted, _ = _feast_store().plan(case, stores)
    before = plan_files.applied(stores.plan_path)
    wanted = versions.renewed(before, wanted)
    changed = [view.name for view, _ in versions.fresh(before, wanted)]
    changed += versions.changed_services(before, wanted)
    found = state_lost(before, kafka, stores, flink)
    if not found and (not before.views or not changed):
        apply(case, kafka, stores, flink)
        return
    if changed:
        log.warning("definitions have changed; run `headrace features apply`", changed=changed)
    if found:
        log.error(str(found))
    _, _, cut = _run(before, kafka, stores, flink, lambda _: None)
    incomplete = {*before.incomplete, *cut, *(found.views if found else ())}
    if incomplete - set(before.incomplete):
        msgspec.structs.replace(before, incomplete=tuple(sorted(incomplete))).save(stores.plan_path)


def _incomplete(plan: Plan) -> tuple[str, ...]:
    return tuple(view.name for view in plan.views if view.versioned in plan.incomplete)


def _run(
    wanted: Plan, kafka: KafkaSettings, stores: StoreSettings, flink: FlinkSettings, say: Say
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Topics and jobs of a plan; the tile topics made, the views submitted, and the versions that lost what they had counted."""
    made = topics.create(kafka, (topics.tile_topic(view.topic_out) for view in wanted.views))
    begun = {one.base_topic for one in wanted.handovers.values() if one.base_topic}
    new = topics.create(kafka, map(topics.base_topic, sorted(begun)))
    lake = Lake(stores)
    for view in wanted.views:
        one = wanted.handover(view)
        if one and one.base_topic:
            say(f"{view.name}: tiles of the lake's snapshot {one.snapshot_id}")
            handover.write_base(view, one, lake, kafka, flink.lateness_s)
    say("submitting feature jobs")
    # Tiles of a new topic must all be written, and a job that goes on writes only those that change.
    fresh = [
        view.versioned
        for view in wanted.views
        if view.topic_out in made or _base_of(wanted, view.versioned) in new
    ]
    jobs = jobs_of(wanted, kafka, flink)
    unread: list[str] = []

    def heard(line: str) -> None:
        unread.extend(one.view for one in jobs if line.startswith(f"{CANNOT_RESTORE}{one.name}"))
        say(line)

    submitted = {one.view for one in submit(jobs, flink, heard, lasting=True, fresh=fresh)}
    cut = [view for view in wanted.views if view.versioned in unread]
    if found := state_loss.lost(cut, wanted, kafka, lake, flink.lateness_s):
        log.error(str(found))
        say(str(found))
    started = [view for view in wanted.views if view.versioned in submitted]
    lineage.jobs_started(stores, kafka, started, jobs)
    names = tuple(view.name for view in started)
    return tuple(made), names, found.views if found else ()


def _base_of(plan: Plan, versioned: str) -> str:
    held = plan.handovers.get(versioned)
    return held.base_topic if held else ""


def _feast_store() -> ModuleType:
    feast_store = import_module("features.feast_store")
    # Feast says of every stream feature view that it is experimental; that is why headrace runs them. Only now, for
    # Feast sets filters of its own when it is imported.
    warnings.filterwarnings("ignore", message="Stream feature views are experimental")
    return feast_store


def _costs(wanted: Plan, flink: FlinkSettings) -> tuple[Cost, ...]:
    return tuple(
        refuse_costly(wanted.views, flink.lateness_s, flink.entity_bytes_max, wanted.row_views)
    )


def _missing_topics(kafka: KafkaSettings, wanted: Plan) -> tuple[str, ...] | None:
    try:
        names = [view.topic_out for view in wanted.views]
        return tuple(topics.missing(kafka, names, KAFKA_ANSWER_S))
    except topics.TopicError:
        return None


def _refuse_changed_services(before: Plan, wanted: Plan, *, allowed: bool) -> None:
    changed = versions.changed_services(before, wanted)
    if changed and not allowed:
        raise ServiceChanged(
            f"services {', '.join(changed)}",
            wanted="the features that their models were trained on, and the same meaning of each",
            came="other ones under the old name: every model of them would be refused",
            mend="Give the changed service a new name (…_v2), or pass --allow-service-changes.",
        )


def _refuse_unrunnable(
    before: Plan, wanted: Plan, kafka: KafkaSettings, stores: StoreSettings, flink: FlinkSettings
) -> None:
    if flink.require_certificate:
        certificate.require(wanted, stores.plan_path)
    jobs_of(wanted, kafka, flink)
    _refuse_crowded(flink, [view for view, _ in versions.fresh(before, wanted)])
    if found := state_lost(staying(before, wanted), kafka, stores, flink):
        raise found


def _refuse_crowded(flink: FlinkSettings, fresh: list[View]) -> None:
    """A job without a slot would wait for ever, and whoever waits for it too."""
    with FlinkJobs(flink) as cluster:
        free, names = cluster.slots_free(), [one.name for one in cluster.alive()]
    prefixes = [job_prefix(view.versioned) for view in fresh]
    more = sum(not any(name.startswith(prefix) for name in names) for prefix in prefixes)
    if more * flink.parallelism > free:
        raise TooFewSlots(
            f"Flink at {flink.rest_address}:{flink.rest_port}",
            wanted=f"{more * flink.parallelism} free task slots, old and new versions side by side",
            came=f"{free} are free",
            mend="Raise local.flink_slots (taskmanager.numberOfTaskSlots), or stop a job.",
        )


def _outdated(
    alive: list[RunningJob], before: Plan, wanted: Plan, jobs: list[Job]
) -> list[RunningJob]:
    """Jobs of these views that are not among those that shall run."""
    right = {one.name for one in jobs}
    names = {view.name for view in (*before.views, *wanted.views)}
    prefixes = tuple(view_prefix(name) for name in sorted(names))
    mine = [one for one in alive if one.name.startswith(prefixes)] if prefixes else []
    return [one for one in mine if one.name not in right]
