"""One batch: decoded requests and their vectors in, encoded results out (pure)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, nan
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from features.inputs import exact
from features.ring import NO_RING_AGE_MS
from schemas.decoding import Refusal
from schemas.envelope import child_traceparent, new_traceparent
from schemas.requirements import Stale
from schemas.results import Route, Status
from serving import chain
from serving.asking import Asked, Asking, Predictor
from serving.chain import Reply
from serving.declared import Fallback
from serving.output_contract import Matrix
from serving.staleness import STALE
from serving.stopwatch import Took

if TYPE_CHECKING:
    from features.tiles import Bools
    from features.vectors import Vectors
    from schemas.events import Event
    from schemas.inputs import RequestInput
    from serving.releases import Arm, ReleaseState

# What a result may say against its own features; that they are stale it says in its reasons.
MARKS = ("ahead", "unsettled")
_DETAIL_CHARS_MAX = 200
# NaN is written as null, which is what a missing value is in a result.
_ENCODER = msgspec.json.Encoder()


@dataclass(frozen=True)
class Serving:
    """What answers from now on: a release, and those of its versions that are in memory.

    The champion is always in memory; `refused` says of the others why they are not. A canary that was refused leaves its
    keys to the champion, and their results say so. `previous` is the champion before, where it is still in memory.
    """

    state: ReleaseState
    models: Mapping[str, Predictor]
    refused: Mapping[str, str] = field(default_factory=dict)
    previous: str | None = None

    @property
    def suspended(self) -> bool:
        """Whether the champion is not to be asked."""
        return self.state.release is not None and self.state.release.suspended

    def other(self, version: str) -> str | None:
        """Who is asked where `version` has no answer: the champion, or for the champion the one before it.

        Never the canary, which would then answer more than its share; and nobody while the champion is suspended.
        """
        if self.suspended:
            return None
        champion = self.state.versions[0]
        other = champion if version != champion else self.previous
        return other if other in self.models and other != version else None


@dataclass(frozen=True)
class Rules:
    """What scoring needs of a use case.

    Attributes:
        inputs: The fields of a request that a model sees.
        features: Full names of the service's features, in order.
        fallback: `(request, features) -> score`, for requests that no model can answer; None where nobody is to.
        threshold: The score from which the fallback's label is true.
        fallbacks: Who answers where a model does not, in order.
        fresh_ms: View → the age above which an entity's features are stale; views without one never are.
        stale: Who answers where features are stale.
    """

    inputs: tuple[RequestInput, ...]
    features: tuple[str, ...]
    fallback: Callable[[Any, Mapping[str, float | None]], float] | None
    threshold: float
    fallbacks: tuple[Fallback, ...] = tuple(Fallback)
    fresh_ms: Mapping[str, int] = field(default_factory=dict)
    stale: Stale = Stale.MARK


@dataclass(frozen=True)
class Batch:
    """Requests of one poll, all lists alike long; `vectors` is None when the store did not answer, and `why` says so.

    `stale` holds the reasons of rows whose views are behind as a whole (`serving.staleness`).
    """

    requests: Sequence[Event]
    traceparents: Sequence[str | None]
    vectors: Vectors | None
    read_at_ms: int
    why: str = ""
    took: Took = field(default_factory=Took)
    stale: Mapping[int, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """The encoded result of one request, and the shadow's where there is one.

    `marks` says what it holds against itself, `fell` why the arm's own version did not answer, if so.
    """

    value: bytes
    traceparent: str
    status: Status
    shadow: bytes | None = None
    marks: tuple[str, ...] = ()
    fell: str = ""
    version: str = ""
    route: str = ""


def answer(
    batch: Batch, serving: Serving, rules: Rules, clock_ms: Callable[[], int], asking: Asking
) -> list[Answer | Refusal]:
    """Answer every request of a batch, in order.

    A model that fails for a batch is asked for its halves, and so on, so that a poisonous row falls back alone
    (`serving.asking`); then the use case's chain is gone down. A row for which the rule fails too has no answer: it becomes
    a `Refusal`, for the dead letters.

    Args:
        batch: What to answer.
        serving: With whom.
        rules: The use case's declarations.
        clock_ms: The wall clock, read once after the models have answered.
        asking: Asks models, and remembers how they did.
    """
    rows = _Rows(batch, rules)
    arms = _arms(batch.requests, serving)
    if batch.vectors is None:
        shadow, replies = None, chain.unasked(arms, serving, "features_unavailable", batch.why)
    else:
        replies = chain.replies(rows.matrix, arms, serving, asking, rules.fallbacks)
        shadow = _by_shadow(rows, serving, asking)
    scored_at_ms = clock_ms()
    out: list[Answer | Refusal] = []
    for row, reply in enumerate(replies):
        base = rows.base(row, serving, scored_at_ms)
        stale = rows.stale(row)
        if stale and reply.answered and rules.stale is Stale.FALLBACK:
            reply = chain.withheld(arms[row], serving, STALE)  # noqa: PLW2901 - in its place
        result = base | _replied(reply, serving)
        result["reasons"] = (*result["reasons"], *stale)
        if not reply.answered:
            refusal = _fall_back(result, batch.requests[row], rows.features(row), rules)
            if refusal is not None:
                out.append(refusal)
                continue
        result["timings_us"] = batch.took.of(row, result["version"])
        beside = _shadow_result(base, shadow, row, serving) if shadow else None
        if beside is not None:
            beside["timings_us"] = batch.took.of(row, beside["version"])
        out.append(
            Answer(
                _ENCODER.encode(result),
                base["traceparent"],
                result["status"],
                _ENCODER.encode(beside) if beside else None,
                (*(mark for mark in MARKS if result[mark]), *([STALE] if stale else [])),
                reply.fell,
                result["version"],
                result["route"],
            )
        )
    return out


def expired(
    request: Event,
    traceparent: str | None,
    serving: Serving,
    due_ms: int,
    now_ms: int,
    queue_us: int | None = None,
) -> Answer:
    """Answer a request that came too late for a score; nothing was read for it and no model was asked."""
    arm = _arms([request], serving)[0]
    reply = chain.answering(arm, serving)
    base = _base(request, traceparent, serving)
    result = base | {
        "status": Status.EXPIRED,
        "version": reply.version,
        "route": reply.route,
        "reasons": (
            *reply.reasons,
            f"deadline: passed {now_ms - due_ms} ms before it was taken up",
        ),
        "score": None,
        "label": None,
        "features": {},
        "ages_ms": {},
        "read_at_ms": now_ms,
        "scored_at_ms": now_ms,
        "timings_us": {} if queue_us is None else {"queue": queue_us},
    }
    value = _ENCODER.encode(result)
    return Answer(
        value, base["traceparent"], Status.EXPIRED, version=result["version"], route=result["route"]
    )


def _arms(requests: Sequence[Event], serving: Serving) -> list[Arm]:
    """Who is to answer each request."""
    state = serving.state
    attributes = {name: [getattr(r, name, None) for r in requests] for name in state.fields}
    return state.arms([request.key for request in requests], attributes)


def _base(request: Event, parent: str | None, serving: Serving) -> dict[str, Any]:
    """What a result says of its request and of the release, whoever answers."""
    release = serving.state.release
    return {
        "event_time_ms": request.event_time_ms,
        "request_id": request.id,
        "entity": request.key,
        "model": release.model if release else "",
        "epoch": serving.state.epoch,
        "traceparent": child_traceparent(parent) if parent else new_traceparent(),
    }


class _Rows:
    """The batch as a matrix, and as the columns that go into results."""

    def __init__(self, batch: Batch, rules: Rules) -> None:
        self.batch = batch
        rows, vectors = len(batch.requests), batch.vectors
        self.names = (*(i.name for i in rules.inputs), *rules.features)
        values = vectors.values if vectors else np.full((rows, len(rules.features)), nan)
        columns = {
            i.name: [getattr(request, i.name) for request in batch.requests] for i in rules.inputs
        }
        whole = exact(rules.inputs, columns, values)
        self.matrix: Matrix = whole.astype(np.float32)
        # Logged in float64, as read: what is compared with the offline computation is not rounded first.
        self.logged = whole.tolist()
        self.ages = vectors.age_ms.tolist() if vectors else [()] * rows
        self.views = vectors.views if vectors else ()
        self.ahead = self._marked(vectors.ahead if vectors else None)
        self.unsettled = self._marked(vectors.unsettled if vectors else None)
        self._skip = len(rules.inputs)
        self._fresh_ms = [rules.fresh_ms.get(view, inf) for view in self.views]

    def stale(self, row: int) -> tuple[str, ...]:
        """A reason for each view that is behind, or whose newest event of the entity is older than the use case's limit."""
        own = tuple(
            f"{STALE}: {view} is {age / 1000:.0f} s old, {limit_ms / 1000:.0f} s are the limit"
            for view, age, limit_ms in zip(self.views, self.ages[row], self._fresh_ms, strict=True)
            if age > limit_ms
        )
        return (*self.batch.stale.get(row, ()), *own)

    def base(self, row: int, serving: Serving, scored_at_ms: int) -> dict[str, Any]:
        """What a result says whoever answers."""
        request, parent = self.batch.requests[row], self.batch.traceparents[row]
        return _base(request, parent, serving) | {
            "features": dict(zip(self.names, self.logged[row], strict=True)),
            "ages_ms": {
                view: None if age == NO_RING_AGE_MS else age
                for view, age in zip(self.views, self.ages[row], strict=True)
            },
            "ahead": self.ahead.get(row, []),
            "unsettled": self.unsettled.get(row, []),
            "read_at_ms": self.batch.read_at_ms,
            "scored_at_ms": scored_at_ms,
        }

    def _marked(self, marks: Bools | None) -> dict[int, list[str]]:
        """Row → the views that its marks name; most rows have none."""
        named: dict[int, list[str]] = {}
        if marks is not None:
            for row, view in np.argwhere(marks).tolist():
                named.setdefault(row, []).append(self.views[view])
        return named

    def features(self, row: int) -> dict[str, float | None]:
        """The service's features of a row as a rule reads them: None where there is no value."""
        pairs = zip(self.names[self._skip :], self.logged[row][self._skip :], strict=True)
        # NaN is the one value that differs from itself.
        return {name: None if value != value else value for name, value in pairs}  # noqa: PLR0124


def _by_shadow(rows: _Rows, serving: Serving, asking: Asking) -> Asked | None:
    version = serving.state.release.shadow if serving.state.release else None
    if version is None or version not in serving.models:
        return None
    return asking.ask(serving.models[version], rows.matrix)


def _replied(reply: Reply, serving: Serving) -> dict[str, Any]:
    """What a result says of who answered; without a score while the rule has not."""
    result = {
        "version": reply.version,
        "reasons": tuple(reply.reasons),
        "failed": tuple(reply.failed),
        "status": Status.FALLBACK if reply.fell else Status.SCORED,
    }
    if not reply.answered:
        return result | {"route": Route.RULE}
    return result | {
        "route": reply.route,
        "score": reply.score,
        "label": reply.score >= serving.models[reply.version].threshold,
    }


def _fall_back(
    result: dict[str, Any], request: Event, features: Mapping[str, float | None], rules: Rules
) -> Refusal | None:
    """Complete a result by the use case's rule; what the rule cannot answer is refused."""
    score, wrong = nan, "no rule is declared"
    if rules.fallback is not None and Fallback.RULE in rules.fallbacks:
        try:
            score = float(rules.fallback(request, features))
            wrong = "" if 0.0 <= score <= 1.0 else f"{score}"
        except Exception as error:  # noqa: BLE001 - a rule is the user's code; its row alone may suffer
            wrong = f"{type(error).__name__}: {error}"
    if wrong:
        detail = f"{wrong} (after {'; '.join(result['reasons'])})"
        return Refusal("unanswerable", "fallback: a score in [0, 1]", detail[:_DETAIL_CHARS_MAX])
    result["score"] = score
    result["label"] = score >= rules.threshold
    return None


def _shadow_result(
    base: dict[str, Any], asked: Asked, row: int, serving: Serving
) -> dict[str, Any]:
    version = serving.state.release.shadow if serving.state.release else None
    result = base | {"version": version, "route": Route.SHADOW, "reasons": ()}
    why = asked.failed.get(row)
    if why is not None:
        reasons = (chain.said(why),)
        return result | {
            "status": Status.FALLBACK,
            "score": None,
            "label": None,
            "reasons": reasons,
        }
    score = float(asked.scores[row])
    label = score >= serving.models[str(version)].threshold
    return result | {"status": Status.SCORED, "score": score, "label": label}
