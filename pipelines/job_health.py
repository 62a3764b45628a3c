"""How a feature job is doing, as Flink's REST interface tells: its lag, its state's size, its checkpoint's age, restarts.

A job that retries for ever looks like a running one in the cluster's overview; its restarts and the age of its checkpoint
tell it apart.
"""

from __future__ import annotations

import math
import re
import time
from typing import Any

import httpx
import msgspec

from pipelines.settings import FlinkSettings

TIMEOUT_S = 2.0
# Flink fetches metrics when asked, and answers with what it had fetched before: so it is asked twice, and given this long.
FETCH_S = 0.2
ENDED = frozenset({"CANCELED", "FINISHED"})
# Of a source: what lies in its topic beyond what its consumer has fetched, markers of transactions not counted.
PENDING = ".pendingRecords"
# With the version of the view, where the name has one.
JOB_VIEW = re.compile(r"features\.(\w+)(?:\.[0-9a-f]{8})? \[")


class JobHealth(msgspec.Struct, frozen=True):
    """One job of the cluster; what Flink does not tell (yet) is None.

    Attributes:
        id: Flink's id.
        name: `features.<view> [<fingerprint>]`.
        state: Flink's word for it.
        started_ms: Processing time.
        restarts: Since it was submitted.
        restored: Whether it started from, or has fallen back to, a checkpoint.
        state_bytes: Of the newest checkpoint.
        checkpoint_age_s: Since the newest checkpoint was taken; None before the first.
        checkpoint_duration_ms: How long that took.
        checkpoints_failed: Since it was submitted.
        lag_events: In its streams, beyond what it has fetched; None until its sources have, and while it does not run
            (then `pipelines.job_lag` tells). At most some hundreds of fetched events wait inside the job besides.
    """

    id: str
    name: str
    state: str
    started_ms: int
    restarts: int | None = None
    restored: bool | None = None
    state_bytes: int | None = None
    checkpoint_age_s: float | None = None
    checkpoint_duration_ms: int | None = None
    checkpoints_failed: int | None = None
    lag_events: int | None = None

    @property
    def group(self) -> str:
        """Its consumer group, which has the name of the topic it writes to."""
        return self.name.partition(" [")[0]

    @property
    def view(self) -> str | None:
        """The view whose job it is; None for a job of somebody else's."""
        named = JOB_VIEW.match(self.name)
        return named.group(1) if named else None


def job_health(flink: FlinkSettings) -> list[JobHealth]:
    """Every job that runs, retries or has failed; empty where the cluster does not answer."""
    base = f"http://{flink.rest_address}:{flink.rest_port}"
    try:
        with httpx.Client(base_url=base, timeout=TIMEOUT_S, trust_env=False) as http:
            jobs = _told(http, "/jobs/overview")["jobs"]
            left = [job for job in jobs if job["state"] not in ENDED]
            if left:
                http.get("/jobs/metrics")
                time.sleep(FETCH_S)
            return [_one(http, job) for job in left]
    except httpx.HTTPError:
        return []


def _one(http: httpx.Client, job: dict[str, Any]) -> JobHealth:
    jid = job["jid"]
    basic = JobHealth(jid, job["name"], job["state"], job["start-time"])
    try:
        checkpoints = _told(http, f"/jobs/{jid}/checkpoints")
        metrics = _told(http, f"/jobs/{jid}/metrics?get=numRestarts")
        lag_events = _lag_events(http, jid)
    except httpx.HTTPStatusError:
        # It ended between the two questions, or is not initialised yet.
        return basic
    latest = checkpoints.get("latest") or {}
    done = latest.get("completed") or {}
    taken_ms = done.get("trigger_timestamp")
    return msgspec.structs.replace(
        basic,
        restarts=next((int(m["value"]) for m in metrics if m["id"] == "numRestarts"), None),
        restored=bool(latest.get("restored")),
        state_bytes=done.get("state_size"),
        checkpoint_age_s=round(max(0.0, time.time() - taken_ms / 1000), 1) if taken_ms else None,
        checkpoint_duration_ms=done.get("end_to_end_duration"),
        checkpoints_failed=(checkpoints.get("counts") or {}).get("failed"),
        lag_events=lag_events,
    )


def _lag_events(http: httpx.Client, jid: str) -> int | None:
    """The sum over the job's sources and their subtasks; a metric is named after its operator, so it must be looked up."""
    found: list[float] = []
    for vertex in _told(http, f"/jobs/{jid}")["vertices"]:
        path = f"/jobs/{jid}/vertices/{vertex['id']}/subtasks/metrics"
        names = [one["id"] for one in _told(http, path) if one["id"].endswith(PENDING)]
        if names and vertex["status"] == "RUNNING":
            sums = _told(http, f"{path}?get={','.join(names)}&agg=sum")
            # Flink says NaN, as a text, where it does not know.
            found += [value for one in sums if math.isfinite(value := float(one["sum"]))]
    return round(sum(found)) if found else None


def _told(http: httpx.Client, path: str) -> Any:  # noqa: ANN401 - JSON of any shape
    return http.get(path).raise_for_status().json()
