"""Events by which the layers steer each other: releases, alerts, orders, brakes, candidates, verdicts, incidents, keys.

Their `event_time_ms` is the stream's clock at the decision (so that a replay of the past decides alike); `decided_at_ms`
is the wall clock.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from schemas.events import Event, Id


class ControlEvent(Event):
    """Base: keyed by use case, identified by `event_id`, stamped by both clocks."""

    id_field: ClassVar[str] = "event_id"
    key_field: ClassVar[str] = "case"

    event_id: Id
    case: str
    decided_at_ms: int


class CanaryRule(StrEnum):
    """What a routing rule says of the requests it fits."""

    NEVER = "never"
    ONLY = "only"
    SPLIT = "split"


class RoutingRule(BaseModel):
    """Whom a canary may answer, by a field of the request. Rules narrow a canary; none makes it answer more.

    Requests that a `never` rule fits stay with the champion. Where there are `only` rules, so do those that none of them
    fits: the canary is tried on the others first. `split` lifts the use case's rule of the same field and value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    field: str
    value: str
    canary: CanaryRule


class Release(ControlEvent):
    """Which versions answer from now on. Compacted by use case; `epoch` only grows, and a lower one is ignored.

    `canary_share` is the part of keys, in [0, 1], that the canary answers. `pins` names the version of single keys, whatever
    the split and the rules say. `rules` go before those that the use case declares (`serving.<case>.ROUTING`). A `suspended`
    champion is not asked: the use case's rule answers in its place. `incident` is the last one that was looked at.
    """

    epoch: Annotated[int, Field(ge=1)]
    model: str
    champion: str
    canary: str | None = None
    canary_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    shadow: str | None = None
    salt: str
    reason: str
    decided_by: str
    pins: Annotated[dict[str, str], Field(max_length=1_000)] = Field(default_factory=dict)
    rules: tuple[RoutingRule, ...] = ()
    suspended: bool = False
    incident: Id | None = None


class AlertKind(StrEnum):
    """What moved: the inputs, the scores, or what the scores are worth."""

    DATA_DRIFT = "data_drift"
    PREDICTION_DRIFT = "prediction_drift"
    CONCEPT_DRIFT = "concept_drift"


class Alert(ControlEvent):
    """A window that differs from the reference by more than the use case tolerates."""

    kinds: tuple[AlertKind, ...]
    window_start_ms: int
    window_end_ms: int
    rows: int
    version: str
    drifted: tuple[str, ...]
    statistics: dict[str, float]
    metrics: dict[str, float | None]
    report: str
    acted_on: bool
    held_back_by: str | None = None


class RetrainingOrder(ControlEvent):
    """Train on what is known up to `until_ms`; at most one order is open at a time.

    `version` is the champion that drifted: it is fitted anew, by the same estimator. With `approve_by_ms` it is only proposed: nothing trains before a person approved it, and it lapses after that instant
    of the stream's clock.
    """

    alert_id: Id
    since_ms: int
    until_ms: int
    reason: str
    approve_by_ms: int | None = None
    version: str | None = None


class BrakeKind(StrEnum):
    """What was said to the loop. LAPSE is the drift worker's: nobody approved in time."""

    APPROVE = "approve"
    REFUSE = "refuse"
    LAPSE = "lapse"
    PAUSE = "pause"
    RESUME = "resume"


class Brake(ControlEvent):
    """A word on one order (`order_id`), or on all that would be ordered (pause, resume).

    `sequence` counts the brakes of a use case from 1 without a gap; the newest pause or resume is in force. `until_ms` ends
    a pause by itself, by the stream's clock.
    """

    sequence: Annotated[int, Field(ge=1)]
    kind: BrakeKind
    order_id: Id | None = None
    until_ms: int | None = None
    by: str
    reason: str


class Candidate(ControlEvent):
    """A trained model in its folder, waiting for admission; or, with `error`, a training that failed."""

    order_id: Id
    model: str
    version: str | None
    folder: str | None
    digest: str | None
    metrics: dict[str, float] = Field(default_factory=dict)
    error: str | None = None


class VerdictKind(StrEnum):
    """Gate decisions (before traffic) and guard decisions (on traffic)."""

    ADMIT = "admit"
    REFUSE = "refuse"
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"


class Verdict(ControlEvent):
    """A decision over a version, with its evidence.

    ADMIT and REFUSE are published by admission; PROMOTE and ROLL_BACK by the guard, and obeyed by admission, the only
    writer of releases. Where a person's release ended the trial, admission says so, with no rows. `order_id` closes the
    retraining order it belongs to. `epoch` is the release that the guard judged, or the person's: the same version may be
    tried again later. `intervals` are of candidate minus champion, 95 %, from resamples of the held-out rows.
    """

    verdict: VerdictKind
    order_id: Id | None
    model: str
    champion: str
    candidate: str
    champion_metrics: dict[str, float]
    candidate_metrics: dict[str, float]
    rows: int
    reason: str
    epoch: int | None = None
    intervals: dict[str, tuple[float, float]] = Field(default_factory=dict)


class DataAccess(ControlEvent):
    """Somebody read the lake to train on it: who, what for, and which snapshot of each table."""

    by: str
    purpose: str
    order_id: Id | None = None
    since_ms: int
    until_ms: int
    snapshots: dict[str, int]


class Incident(ControlEvent):
    """A requirement that is not met in traffic, found in one window of results.

    `requirement` names it as `requirements.toml` does; `value` is what was measured on `rows` answers of `version`, and
    `bound` what was signed off.
    """

    requirement: str
    version: str
    value: float
    bound: float
    rows: int
    window_start_ms: int
    window_end_ms: int
    reason: str


class KeyActKind(StrEnum):
    """What a person does with the keys that vouch for versions."""

    SIGN = "sign"
    ROTATE = "rotate"
    REVOKE = "revoke"


class KeyAct(ControlEvent):
    """A person signed a version, or changed whose signatures count. By the wall clock: keys know no other.

    Attributes:
        key_id: The key that signed, that is revoked, or that signed until now.
        signs: Which key signs from now on, where that is another than before.
        version, digest: What was signed of `model`, and what it hashes to.
    """

    kind: KeyActKind
    key_id: str | None
    signs: str | None = None
    model: str | None = None
    version: str | None = None
    digest: str | None = None
    by: str
    reason: str


class AuditRecord(ControlEvent):
    """One link of the record: a control event as it lay on its topic, chained to the link before.

    Attributes:
        sequence: Counts the links of a use case from 1.
        topic, offset, received_ms, source: Where the event lies, when the broker took it, and who wrote it (`ce_source`).
        content: Its value, byte for byte.
        content_sha256: Of that.
        previous_sha256: Of the value of the link before; 64 zeros in the first.
    """

    sequence: Annotated[int, Field(ge=1)]
    topic: str
    offset: int
    received_ms: int
    source: str
    content: str
    content_sha256: str
    previous_sha256: str

    def encode(self) -> bytes:
        """Canonical JSON: sorted, without blanks, so that there is one spelling to hash."""
        # Unset fields are left out: a link spells itself as it was written, whatever the contract has gained since.
        told = self.model_dump(mode="json", exclude_unset=True)
        return json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
