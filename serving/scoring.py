"""One batch: decoded requests and their vectors in, encoded results out (pure)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, nan
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np

from features.inputs import matrix
from features.ring import NO_RING_AGE_MS
from schemas.decoding import Refusal
from schemas.envelope import child_traceparent, new_traceparent
from schemas.results import Route, Status
from serving.runtime import Matrix, ModelFailed, Scores
from serving.stopwatch import Took

if TYPE_CHECKING:
    from features.tiles import Bools
    from features.vectors import Vectors
    from schemas.events import Event
    from schemas.inputs import RequestInput
    from serving.releases import Arm, ReleaseState

# What a result may say against its own features; and in its reasons, that they are older than the use case's limit.
MARKS = ("ahead", "unsettled")
STALE = "stale"
_DETAIL_CHARS_MAX = 200
# NaN is written as null, which is what a missing value is in a result.
_ENCODER = msgspec.json.Encoder()


class Predictor(Protocol):
    """What scoring asks of a loaded version (`serving.runtime.Model`)."""

    version: str
    threshold: float

    def predict(self, matrix: Matrix) -> Scores:
        """Scores in [0, 1], one a row; raises `ModelFailed`."""


@dataclass(frozen=True)
class Serving:
    """What answers from now on: a release, and those of its versions that are in memory.

    The champion is always in memory; `refused` says of the others why they are not. A canary that was refused leaves its
    keys to the champion, and their results say so.
    """

    state: ReleaseState
    models: Mapping[str, Predictor]
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rules:
    """What scoring needs of a use case.

    Attributes:
        inputs: The fields of a request that a model sees.
        features: Full names of the service's features, in order.
        fallback: `(request, features) -> score`, for requests that no model can answer.
        threshold: The score from which the fallback's label is true.
        fresh_ms: View → the age above which its features are stale; views without one never are.
    """

    inputs: tuple[RequestInput, ...]
    features: tuple[str, ...]
    fallback: Callable[[Any, Mapping[str, float | None]], float]
    threshold: float
    fresh_ms: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """Requests of one poll, all lists alike long; `vectors` is None when the store did not answer, and `why` says so."""

    requests: Sequence[Event]
    traceparents: Sequence[str | None]
    vectors: Vectors | None
    read_at_ms: int
    why: str = ""
    took: Took = field(default_factory=Took)


@dataclass(frozen=True)
class Answer:
    """The encoded result of one request, and the shadow's where there is one; `marks` says what it holds against itself."""

    value: bytes
    traceparent: str
    status: Status
    shadow: bytes | None = None
    marks: tuple[str, ...] = ()
    version: str = ""
    route: str = ""


@dataclass(frozen=True)
class _Scored:
    score: float = nan
    failed: ModelFailed | None = None


def answer(
    batch: Batch, serving: Serving, rules: Rules, clock_ms: Callable[[], int]
) -> list[Answer | Refusal]:
    """Answer every request of a batch, in order.

    A model that fails for a batch is asked for its halves, and so on, so that a poisonous row falls back alone. A row for
    which the rule fails too has no answer: it becomes a `Refusal`, for the dead letters.

    Args:
        batch: What to answer.
        serving: With whom.
        rules: The use case's declarations.
        clock_ms: The wall clock, read once after the models have answered.
    """
    rows = _Rows(batch, rules)
    arms = serving.state.arms([request.key for request in batch.requests])
    scored = _by_arm(rows, arms, serving) if batch.vectors is not None else []
    shadow = _by_shadow(rows, serving) if batch.vectors is not None else None
    scored_at_ms = clock_ms()
    out: list[Answer | Refusal] = []
    for row, arm in enumerate(arms):
        base = rows.base(row, serving, scored_at_ms)
        mine = scored[row] if scored else _Scored(failed=ModelFailed(*_unavailable(batch)))
        result = _result(base, mine, arm, serving)
        stale = rows.stale(row)
        result["reasons"] = (*result["reasons"], *stale)
        if result["status"] is Status.FALLBACK:
            refusal = _fall_back(result, batch.requests[row], rows.features(row), rules)
            if refusal is not None:
                out.append(refusal)
                continue
        result["timings_us"] = batch.took.of(row, result["version"])
        beside = _shadow_result(base, shadow[row], serving) if shadow else None
        if beside is not None:
            beside["timings_us"] = batch.took.of(row, beside["version"])
        out.append(
            Answer(
                _ENCODER.encode(result),
                base["traceparent"],
                result["status"],
                _ENCODER.encode(beside) if beside else None,
                (*(mark for mark in MARKS if result[mark]), *([STALE] if stale else [])),
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
    arm = serving.state.arms([request.key])[0]
    version, route, reasons = _answering(arm, serving)
    base = _base(request, traceparent, serving)
    result = base | {
        "status": Status.EXPIRED,
        "version": version,
        "route": route,
        "reasons": (*reasons, f"deadline: passed {now_ms - due_ms} ms before it was taken up"),
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
        value, base["traceparent"], Status.EXPIRED, version=version, route=result["route"]
    )


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
        self.matrix: Matrix = matrix(rules.inputs, columns, values)
        # Logged in float64, as read: what is compared with the offline computation is not rounded first.
        encoded = [[i.encode(value) for value in columns[i.name]] for i in rules.inputs]
        self.logged = np.column_stack([*encoded, values]).tolist()
        self.ages = vectors.age_ms.tolist() if vectors else [()] * rows
        self.ahead = vectors.ahead if vectors else None
        self.unsettled = vectors.unsettled if vectors else None
        self.views = vectors.views if vectors else ()
        self._skip = len(rules.inputs)
        self._fresh_ms = [rules.fresh_ms.get(view, inf) for view in self.views]

    def stale(self, row: int) -> tuple[str, ...]:
        """A reason for each view whose newest event is older than the use case's limit, as of the request."""
        return tuple(
            f"{STALE}: {view} is {age / 1000:.0f} s old, {limit_ms / 1000:.0f} s are the limit"
            for view, age, limit_ms in zip(self.views, self.ages[row], self._fresh_ms, strict=True)
            if age > limit_ms
        )

    def base(self, row: int, serving: Serving, scored_at_ms: int) -> dict[str, Any]:
        """What a result says whoever answers."""
        request, parent = self.batch.requests[row], self.batch.traceparents[row]
        return _base(request, parent, serving) | {
            "features": dict(zip(self.names, self.logged[row], strict=True)),
            "ages_ms": {
                view: None if age == NO_RING_AGE_MS else age
                for view, age in zip(self.views, self.ages[row], strict=True)
            },
            "ahead": self._marked(self.ahead, row),
            "unsettled": self._marked(self.unsettled, row),
            "read_at_ms": self.batch.read_at_ms,
            "scored_at_ms": scored_at_ms,
        }

    def _marked(self, marks: Bools | None, row: int) -> list[str]:
        """The views that a row's marks name."""
        if marks is None or not marks[row].any():
            return []
        return [view for view, marked in zip(self.views, marks[row], strict=True) if marked]

    def features(self, row: int) -> dict[str, float | None]:
        """The service's features of a row as a rule reads them: None where there is no value."""
        pairs = zip(self.names[self._skip :], self.logged[row][self._skip :], strict=True)
        # NaN is the one value that differs from itself.
        return {name: None if value != value else value for name, value in pairs}  # noqa: PLR0124


def _by_arm(rows: _Rows, arms: Sequence[Arm], serving: Serving) -> list[_Scored]:
    of_version: dict[str, list[int]] = {}
    for row, arm in enumerate(arms):
        of_version.setdefault(_answering(arm, serving)[0], []).append(row)
    out: list[_Scored] = [_Scored()] * len(arms)
    for version, mine in of_version.items():
        matrix_of = rows.matrix if len(of_version) == 1 else rows.matrix[mine]
        for row, scored in zip(mine, _predict(serving.models[version], matrix_of), strict=True):
            out[row] = scored
    return out


def _by_shadow(rows: _Rows, serving: Serving) -> list[_Scored] | None:
    version = serving.state.release.shadow if serving.state.release else None
    if version is None or version not in serving.models:
        return None
    return _predict(serving.models[version], rows.matrix)


def _answering(arm: Arm, serving: Serving) -> tuple[str, Route, tuple[str, ...]]:
    """Who answers for an arm: itself, or the champion where the arm's version was refused."""
    if arm.version in serving.models:
        return arm.version, arm.route, ()
    champion = serving.state.versions[0]
    return champion, Route.CHAMPION, (f"{arm.route}_refused: {arm.version}",)


def _predict(model: Predictor, rows: Matrix) -> list[_Scored]:
    """Scores, or for each row why there is none.

    A batch that fails is halved until it does not: what is too large for the memory gets through in parts, and a
    poisonous row stands alone after as many calls as the batch has halvings.
    """
    try:
        return [_Scored(score) for score in model.predict(rows).tolist()]
    except ModelFailed as failed:
        if len(rows) == 1:
            return [_Scored(failed=failed)]
    half = len(rows) // 2
    return _predict(model, rows[:half]) + _predict(model, rows[half:])


def _result(base: dict[str, Any], mine: _Scored, arm: Arm, serving: Serving) -> dict[str, Any]:
    version, route, reasons = _answering(arm, serving)
    result = base | {"version": version, "reasons": reasons}
    if mine.failed is not None:
        return result | {
            "status": Status.FALLBACK,
            "route": Route.RULE,
            "reasons": (*reasons, _said(mine.failed)),
        }
    return result | {
        "status": Status.SCORED,
        "score": mine.score,
        "label": mine.score >= serving.models[version].threshold,
        "route": route,
    }


def _fall_back(
    result: dict[str, Any], request: Event, features: Mapping[str, float | None], rules: Rules
) -> Refusal | None:
    """Complete a result by the use case's rule; what the rule cannot answer is refused."""
    try:
        score = float(rules.fallback(request, features))
        wrong = None if 0.0 <= score <= 1.0 else f"{score}"
    except Exception as error:  # noqa: BLE001 - a rule is the user's code; its row alone may suffer
        wrong = f"{type(error).__name__}: {error}"
    if wrong is not None:
        detail = f"{wrong} (after {'; '.join(result['reasons'])})"
        return Refusal("unanswerable", "fallback: a score in [0, 1]", detail[:_DETAIL_CHARS_MAX])
    result["score"] = score
    result["label"] = score >= rules.threshold
    return None


def _shadow_result(base: dict[str, Any], mine: _Scored, serving: Serving) -> dict[str, Any]:
    version = serving.state.release.shadow if serving.state.release else None
    result = base | {"version": version, "route": Route.SHADOW, "reasons": ()}
    if mine.failed is not None:
        reasons = (_said(mine.failed),)
        return result | {
            "status": Status.FALLBACK,
            "score": None,
            "label": None,
            "reasons": reasons,
        }
    label = mine.score >= serving.models[str(version)].threshold
    return result | {"status": Status.SCORED, "score": mine.score, "label": label}


def _said(failed: ModelFailed) -> str:
    return f"{failed.reason}: {failed.detail}" if failed.detail else failed.reason


def _unavailable(batch: Batch) -> tuple[str, str]:
    return "features_unavailable", batch.why
