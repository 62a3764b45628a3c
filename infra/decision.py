"""One decision as a whole: what was asked, on what features, who answered and why, and what came of it (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from schemas.results import Result, Route, Status

if TYPE_CHECKING:
    from schemas.control import Release
    from schemas.events import Event
    from schemas.manifest import Manifest

VIEW_SEPARATOR = "__"


class State(StrEnum):
    """What has become of a request so far."""

    ANSWERED = "answered"
    DEAD_LETTERED = "dead_lettered"
    WAITING = "waiting"


@dataclass(frozen=True)
class Record:
    """An event, and where and when Kafka received it; `in_lake` says where it was found."""

    event: Event
    place: str
    ingest_ms: int
    in_lake: bool
    traceparent: str | None = None


@dataclass(frozen=True)
class Letter:
    """A dead letter: `place` is its own, `origin` that of the record that was refused."""

    place: str
    origin: str
    reason: str
    rule: str
    detail: str
    ingest_ms: int
    traceparent: str | None
    value: str


@dataclass(frozen=True)
class Behind:
    """The newest event behind a view's features: how old it was as of the request, and where it lies.

    `age_ms` is None where the entity was never seen; `place` is None where the lake does not hold the event (yet).
    """

    view: str
    age_ms: int | None
    place: str | None = None


@dataclass(frozen=True)
class Decision:
    """Everything known of one request id. At least one of `request`, `result` and `letters` is there."""

    request_id: str
    case: str
    request: Record | None = None
    result: Record | None = None
    letters: Sequence[Letter] = ()
    outcome: Record | None = None
    release: Release | None = None
    model: Manifest | None = None
    behind: Sequence[Behind] = field(default=())

    @property
    def answer(self) -> Result | None:
        """The result's event."""
        event = self.result.event if self.result else None
        return event if isinstance(event, Result) else None

    @property
    def state(self) -> State:
        """A request that was published twice has a result and a dead letter: it is answered."""
        if self.answer is not None:
            return State.ANSWERED
        return State.DEAD_LETTERED if self.letters else State.WAITING

    @property
    def trace_id(self) -> str | None:
        """The trace that request, batch and result share."""
        told = [one.traceparent for one in (*self.letters, self.request) if one]
        parents = [self.answer.traceparent if self.answer else None, *told]
        return next((parent.split("-")[1] for parent in parents if parent), None)

    @property
    def total_ms(self) -> int | None:
        """From the broker's stamp on the request to its stamp on the answer."""
        if self.request is None or self.result is None:
            return None
        return self.result.ingest_ms - self.request.ingest_ms

    def features(self) -> list[tuple[str, float | None, Behind | None]]:
        """Name, value and what is behind it, in the model's order; request inputs have nothing behind them."""
        answer = self.answer
        if answer is None:
            return []
        of_view = {one.view: one for one in self.behind}
        return [
            (name, value, of_view.get(name.partition(VIEW_SEPARATOR)[0]))
            for name, value in answer.features.items()
        ]

    def sentences(self) -> list[str]:
        """Who answered and why, one thought a line."""
        answer = self.answer
        if answer is None:
            return [_refused(one) for one in self.letters] or [self._waiting()]
        said = [_answered(answer), *(f"Because: {reason}." for reason in answer.reasons)]
        said += [self._release()] if self.release and answer.route is not Route.RULE else []
        said += [f"Features of {view} held later events already." for view in answer.ahead]
        said += [f"Features of {view} may lack events before it." for view in answer.unsettled]
        return [*said, *(f"Published again: {_refused(one)}" for one in self.letters)]

    def _release(self) -> str:
        release = self.release
        if release is None:
            return ""
        canary = f", canary {release.canary} at {release.canary_share:.0%}"
        told = (
            f"Epoch {release.epoch}: champion {release.champion}{canary if release.canary else ''}"
        )
        return f"{told} ({release.decided_by}: {release.reason})."

    def _waiting(self) -> str:
        where = self.request.place if self.request else "the log"
        return f"Nobody has answered yet: it waits at {where}."


def told(decision: Decision) -> dict[str, Any]:
    """The decision as plain values, for `--json`."""
    answer = decision.answer
    return {
        "request_id": decision.request_id,
        "case": decision.case,
        "state": decision.state.value,
        "said": decision.sentences(),
        "request": _record(decision.request),
        "result": _record(decision.result),
        "dead_letters": [vars(one) for one in decision.letters],
        "outcome": _record(decision.outcome),
        "features": [
            {"name": name, "value": value}
            | ({"view": of.view, "age_ms": of.age_ms, "newest_event": of.place} if of else {})
            for name, value, of in decision.features()
        ],
        "release": decision.release.model_dump(mode="json") if decision.release else None,
        "model": decision.model.model_dump(mode="json") if decision.model else None,
        "timings_us": dict(answer.timings_us) if answer else {},
        "total_ms": decision.total_ms,
        "trace_id": decision.trace_id,
    }


def _record(record: Record | None) -> Mapping[str, Any] | None:
    if record is None:
        return None
    return {
        "place": record.place,
        "ingest_ms": record.ingest_ms,
        "in_lake": record.in_lake,
        **record.event.model_dump(mode="json"),
    }


def _answered(answer: Result) -> str:
    score = "no score" if answer.score is None else f"{answer.score:.6g}, label {answer.label}"
    by = f"{answer.model} {answer.version}"
    if answer.status is Status.EXPIRED:
        return f"Expired: {by} ({answer.route}) would have answered, but its deadline had passed."
    if answer.status is Status.FALLBACK:
        instead = f"in place of {by}"
        whom = (
            "The rule" if answer.route is Route.RULE else f"{by} ({answer.route}), as a fallback,"
        )
        return f"{whom} answered {score}{f' {instead}' if answer.route is Route.RULE else ''}."
    if answer.status is Status.REJECTED:
        return f"Rejected before {by} was asked."
    return f"{by} ({answer.route}) answered {score}."


def _refused(letter: Letter) -> str:
    detail = f" ({letter.detail})" if letter.detail else ""
    return f"Refused: {letter.reason}, rule {letter.rule}{detail}; whole at {letter.place}."
