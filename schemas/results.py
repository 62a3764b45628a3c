"""What a request is answered with, and what is known once its outcome came."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from schemas.events import Event, Id


class Status(StrEnum):
    """How a request was answered. A request that breaks its contract gets a dead letter instead of a result."""

    SCORED = "scored"
    FALLBACK = "fallback"
    EXPIRED = "expired"
    REJECTED = "rejected"


class Route(StrEnum):
    """Which arm of the release answered. `assigned`: a pin or a routing rule chose the version, not the split."""

    CHAMPION = "champion"
    CANARY = "canary"
    ASSIGNED = "assigned"
    SHADOW = "shadow"
    RULE = "rule"


# How the reasons of an assigned answer begin; whoever compares the arms of a split passes by what these chose.
PINNED = "pinned"
ROUTED = "routed"


class Result(Event):
    """Exactly one per acknowledged request; carries everything needed to explain and to replay it.

    `event_time_ms` is the request's, `entity` its key; every feature is as of that instant. `features` holds the model's input
    vector, request inputs included and coded (`schemas.inputs`), null where there was no value; a feature of a view is
    named `view__feature`. `ages_ms` is, per view, the request's time minus the newest event behind
    its features (null: the entity was never seen). `ahead` names views whose tiles already held later events.
    `unsettled` names views whose features may lack events that came before the request: the online store had lost the view's
    rings, and they were being rebuilt; or the request is a feature event itself, its partition was taken over, and the
    rings had not caught up within the budget. `version` and `route` say who answered; `failed` names the versions that were
    asked before and gave no usable answer, in order. Where the rule answered, `version` is the one it answered for.
    `timings_us` is what the stages took, in microseconds: `queue` from the broker's stamp until it was taken up, `read`
    of the features and `predict` of the version named, both of the whole batch. A stage that did not happen is not there.
    """

    id_field: ClassVar[str] = "request_id"
    key_field: ClassVar[str] = "entity"

    request_id: Id
    entity: str
    status: Status
    score: Annotated[float, Field(ge=0, le=1)] | None
    label: bool | None
    model: str
    version: str
    route: Route
    epoch: Annotated[int, Field(ge=0)]
    reasons: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    features: dict[str, float | None]
    ages_ms: dict[str, int | None]
    ahead: tuple[str, ...] = ()
    unsettled: tuple[str, ...] = ()
    read_at_ms: int
    scored_at_ms: int
    traceparent: str
    timings_us: dict[str, int] = Field(default={})


class Replayed(Event):
    """What another look at a logged vector gave: the same decision scored again, beside what was answered then.

    `logged_score` is null where no model had answered. A replay that is run again repeats its records; they carry the
    same numbers.
    """

    id_field: ClassVar[str] = "request_id"
    key_field: ClassVar[str] = "entity"

    request_id: Id
    entity: str
    version: str
    score: float | None
    label: bool | None
    logged_version: str
    logged_score: float | None
    logged_label: bool | None


class Joined(Event):
    """A result beside its outcome; an upsert by request id, so repeats are harmless. `entity` is empty in old ones."""

    id_field: ClassVar[str] = "request_id"
    key_field: ClassVar[str] = "request_id"

    request_id: Id
    status: Status
    score: float | None
    model: str
    version: str
    route: Route
    epoch: int
    late: bool
    outcome_time_ms: int
    entity: str = ""
