"""What the lake, the release in force and the online store say of a use case's requirements."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from features.answers import RECEIVED, first
from features.lake import Lake, NoSuchLakeTable
from monitoring.requirement_check import Evidence
from schemas import topics
from schemas.errors import HeadraceError
from schemas.results import Route, Status
from serving import release_log

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from infra.settings import Settings

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

# A request may still be answered, or its result archived.
SETTLED_MS = 30_000
ANSWERED = (Status.SCORED.value, Status.FALLBACK.value)
CHAMPION = (Route.CHAMPION.value, Route.ASSIGNED.value)

log = structlog.get_logger()


def evidence(settings: Settings, since_ms: int) -> Evidence:
    """What the broker received since then, as far as the lake holds it by now.

    Raises:
        ReleaseRefused: The broker does not tell which release is in force.
    """
    lake, case = Lake(settings.stores), settings.case
    requests = _rows(lake, case, "requests", ("request_id", "ingest_ms", "kafka_topic"), since_ms)
    results = _rows(
        lake, case, "results", ("request_id", "ingest_ms", "status", "event_time_ms"), since_ms
    )
    settled = requests.filter(pc.less(requests["ingest_ms"], _now_ms() - SETTLED_MS))
    answered = results.filter(pc.is_in(results["status"], pa.array(ANSWERED)))
    release = release_log.current(settings.kafka, case)
    champion = release.champion if release else ""
    scores, labels = _outcomes(lake, case, champion, since_ms)
    asked_at_ms, latencies_ms = _latencies(requests, results, case)
    seconds, counts = _by_second(requests)
    return Evidence(
        latencies_ms=latencies_ms,
        rows_per_s=counts[np.searchsorted(seconds, asked_at_ms // 1_000)],
        busiest_rows_per_s=int(counts.max()) if len(counts) else None,
        requests=len(settled),
        answered=pc.sum(pc.is_in(settled["request_id"], _ids(answered))).as_py() or 0,
        champion=champion,
        suspended_by=release.incident if release and release.suspended else None,
        scores=scores,
        labels=labels,
        **_freshness(settings, results),
    )


def _rows(lake: Lake, case: str, name: str, columns: tuple[str, ...], since_ms: int) -> pa.Table:
    """Rows of a topic's table that were ingested since then; what never went through Kafka is history, not evidence."""
    table = topics.table_of(case)[f"{case}.{name}"].table
    wanted = tuple(dict.fromkeys((*columns, "kafka_topic")))
    try:
        rows = lake.scan(table, ingested_since_ms=since_ms, columns=wanted)
    except NoSuchLakeTable:
        return pa.table({name: pa.array([], _type_of(name)) for name in wanted})
    return rows.filter(pc.is_valid(rows["kafka_topic"]))


def _type_of(column: str) -> pa.DataType:
    if column.endswith("_ms"):
        return pa.int64()
    return {"score": pa.float64(), "late": pa.bool_()}.get(column, pa.string())


def _ids(rows: pa.Table) -> pa.Array:
    """Of every row; an answer and its request may be ingested on either side of `since`, which costs an edge."""
    ids = rows["request_id"].combine_chunks()
    return ids if len(ids) else pa.array([], pa.string())


def _latencies(requests: pa.Table, results: pa.Table, case: str) -> tuple[Ints, Floats]:
    """When each interactive request came that was answered, and how long its answer took."""
    lane = topics.lanes(case)[0].name
    asked = requests.filter(pc.equal(requests["kafka_topic"], lane))
    asked = (
        asked.select(["request_id", "ingest_ms"])
        .group_by("request_id")
        .aggregate([("ingest_ms", "min")])
    )
    given = results.select(["request_id", "ingest_ms"])
    both = given.join(asked, "request_id", join_type="inner")
    at_ms = both["ingest_ms_min"].to_numpy()
    return at_ms, np.subtract(both["ingest_ms"].to_numpy(), at_ms, dtype=np.float64)


def _by_second(requests: pa.Table) -> tuple[Ints, Ints]:
    """The seconds in which requests were received, in order, and how many in each."""
    return np.unique(requests["ingest_ms"].to_numpy() // 1_000, return_counts=True)


def _outcomes(lake: Lake, case: str, champion: str, since_ms: int) -> tuple[Floats, Floats]:
    """Scores and labels that the champion has earned; a request that was joined twice counts once, as it was first."""
    columns = ("request_id", "status", "score", "version", "route", "late", *RECEIVED)
    rows = _rows(lake, case, "joined", columns, since_ms)
    rows = rows.filter(
        pc.and_(
            pc.and_(pc.equal(rows["status"], Status.SCORED.value), pc.is_valid(rows["score"])),
            pc.and_(
                pc.equal(rows["version"], champion), pc.is_in(rows["route"], pa.array(CHAMPION))
            ),
        )
    )
    once = first(rows)
    scores, labels = (once[name].to_numpy().astype(np.float64) for name in ("score", "late"))
    return scores, labels


class _Freshness(TypedDict):
    ages_s: dict[str, float | None]
    windowed: frozenset[str]


def _freshness(settings: Settings, results: pa.Table) -> _Freshness:
    """How much older each view's newest event is than the newest request: of the past as of today, replayed or not."""
    from features.freshness import freshness  # noqa: PLC0415 - Redis, where anything is to be looked at
    from features.views import Plan  # noqa: PLC0415

    clock_ms = pc.max(results["event_time_ms"]).as_py()
    try:
        found = freshness(Plan.load(settings.stores.plan_path), settings.stores)
    except HeadraceError as error:
        log.warning("no_freshness", reason=str(error))
        return {"ages_s": {}, "windowed": frozenset()}
    ages: dict[str, float | None] = {}
    for view in found.views:
        latest_ms = view.latest_event_ms
        known = clock_ms is not None and latest_ms is not None
        ages[view.view] = max(clock_ms - latest_ms, 0) / 1000 if known else None
    windowed = frozenset(view.view for view in found.views if view.kind == "windows")
    return {"ages_s": ages, "windowed": windowed}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
