from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.vectors import Vectors
from schemas import flights
from schemas.decoding import Refusal
from schemas.flights import FlightRequest
from schemas.requirements import Stale
from schemas.results import Result, Route, Status
from serving import scoring
from serving.asking import Asking
from serving.declared import Fallback
from serving.output_contract import Matrix, ModelFailed, Output
from serving.releases import ReleaseState
from serving.scoring import Answer, Batch, Rules, Serving
from tests.serving.test_releases import release

FEATURES = ("origin__mean", "aircraft__last")
VIEWS = ("origin", "aircraft")
NOW_MS = 1_790_000_000_000
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Constant:
    """A version that answers one score, and fails for every row whose last feature is above 1,000."""

    def __init__(self, version: str, score: float) -> None:
        self.version, self.threshold, self._score = version, 0.5, score
        self.calls = 0

    def outputs(self, matrix: Matrix) -> Output:
        self.calls += 1
        if (matrix[:, -1] > 1_000).any():
            raise ModelFailed("model_error", "poison")
        return np.full(matrix.shape[0], self._score)


class Broken(Constant):
    """A version that never answers."""

    def outputs(self, matrix: Matrix) -> Output:
        self.calls += len(matrix) > 0
        raise ModelFailed("model_error", "no")


def rule(_: FlightRequest, features: Mapping[str, float | None]) -> float:
    return 0.25 if features["aircraft__last"] is None else 0.75


RULES = Rules(flights.INPUTS, FEATURES, rule, threshold=0.5)


def request(n: int = 0, **changes: Any) -> FlightRequest:
    fields: dict[str, Any] = {
        "event_time_ms": 1_370_000_000_000 + n,
        "request_id": f"r{n}",
        "carrier": "UA",
        "flight": 12,
        "tailnum": f"N{n:04}",
        "origin": "EWR",
        "dest": "SFO",
        "distance_miles": 2_565.1,
        "scheduled_hour": 7,
        "scheduled_weekday": 3,
    }
    return FlightRequest(**fields | changes)


def batch(values: Any, **changes: Any) -> Batch:
    values = np.asarray(values, dtype=np.float64).reshape(-1, len(FEATURES))
    rows = len(values)
    vectors = Vectors(
        names=FEATURES,
        views=VIEWS,
        values=values,
        age_ms=np.tile(np.array([5_000, -1], dtype=np.int64), (rows, 1)),
        ahead=np.tile(np.array([True, False]), (rows, 1)),
        read_at_ms=NOW_MS - 1,
        discarded=0,
    )
    made = Batch(
        requests=[request(n) for n in range(rows)],
        traceparents=[PARENT] * rows,
        vectors=vectors,
        read_at_ms=vectors.read_at_ms,
    )
    return replace(made, **changes)


def serving(*models: Constant, refused: Mapping[str, str] | None = None, **changes: Any) -> Serving:
    state = ReleaseState("flights", release(7, champion=models[0].version, **changes))
    return Serving(state, {m.version: m for m in models}, refused or {})


def answer(
    asked: Batch,
    by: Serving,
    rules: Rules,
    clock_ms: Callable[[], int],
    asking: Asking | None = None,
) -> list[Answer | Refusal]:
    return scoring.answer(asked, by, rules, clock_ms, asking or Asking())


def results(answers: list[Answer | Refusal]) -> list[Result]:
    """Every value must pass the contract; that it does is half of each test."""
    assert all(isinstance(a, Answer) for a in answers)
    return [Result.model_validate_json(a.value) for a in answers if isinstance(a, Answer)]


def test_features_older_than_the_use_cases_limit_are_named_among_the_reasons() -> None:
    fresh, stale = (
        answer(
            batch([[1.5, 2.0]]),
            serving(Constant("v1", 0.8)),
            replace(RULES, fresh_ms=dict.fromkeys(VIEWS, limit_ms)),
            now,
        )
        for limit_ms in (5_000, 4_999)
    )
    assert results(fresh)[0].reasons == ()
    assert results(stale)[0].reasons == (f"stale: {VIEWS[0]} is 5 s old, 5 s are the limit",)
    assert results(stale)[0].status is Status.SCORED
    assert [a.marks for a in (*fresh, *stale) if isinstance(a, Answer)] == [
        ("ahead",),
        ("ahead", "stale"),
    ]


@pytest.mark.parametrize(
    ("stale", "status", "route", "score", "fell"),
    [
        (Stale.MARK, Status.SCORED, Route.CHAMPION, 0.8, ""),
        (Stale.FALLBACK, Status.FALLBACK, Route.RULE, 0.25, "stale"),
    ],
)
def test_a_request_of_a_view_that_is_behind_is_marked_and_answered_as_declared(
    stale: Stale, status: Status, route: Route, score: float, fell: str
) -> None:
    why = f"stale: {VIEWS[0]} has seen no event for 61 s, 60 s are the limit"
    given = answer(
        batch([[1.5, np.nan], [1.5, np.nan]], stale={1: (why,)}),
        serving(Constant("v1", 0.8)),
        replace(RULES, stale=stale),
        now,
    )
    fresh, marked = results(given)
    assert (fresh.status, fresh.score, fresh.reasons) == (Status.SCORED, 0.8, ())
    assert (marked.status, marked.route, marked.score) == (status, route, score)
    assert (marked.version, marked.reasons, marked.failed) == ("v1", (why,), ())
    assert [(a.marks, a.fell) for a in given if isinstance(a, Answer)] == [
        (("ahead",), ""),
        (("ahead", "stale"), fell),
    ]


def test_a_scored_result_explains_itself() -> None:
    [result] = results(answer(batch([[1.5, np.nan]]), serving(Constant("v1", 0.8)), RULES, now))

    assert result.status is Status.SCORED
    assert (result.score, result.label) == (0.8, True)
    assert (result.model, result.version, result.route, result.epoch) == (
        *("m", "v1", Route.CHAMPION),
        7,
    )
    assert result.features == {
        "scheduled_hour": 7.0,
        "scheduled_weekday": 3.0,
        "distance_miles": 2_565.1,
        "origin": 0.0,
        "carrier": float(flights.CARRIERS.index("UA")),
        "origin__mean": 1.5,
        "aircraft__last": None,
    }
    assert result.ages_ms == {"origin": 5_000, "aircraft": None}
    assert result.ahead == ("origin",)
    assert (result.read_at_ms, result.scored_at_ms) == (NOW_MS - 1, NOW_MS)
    assert result.traceparent[:36] == PARENT[:36]
    assert result.traceparent != PARENT
    assert (result.entity, result.id) == ("N0000", "r0")


def test_each_arm_is_asked_once_and_answers_its_keys() -> None:
    one, two = Constant("v1", 0.1), Constant("v2", 0.9)
    both = serving(one, two, canary="v2", canary_share=0.5)

    answered = results(answer(batch(np.zeros((200, 2))), both, RULES, now))

    arms = both.state.arms([r.entity for r in answered])
    assert [(r.version, r.route) for r in answered] == [(a.version, a.route) for a in arms]
    assert {(r.version, r.score) for r in answered} == {("v1", 0.1), ("v2", 0.9)}
    assert (one.calls, two.calls) == (1, 1)


def test_a_refused_canary_leaves_its_keys_to_the_champion_and_says_so() -> None:
    alone = serving(Constant("v1", 0.1), refused={"v2": "changed"}, canary="v2", canary_share=1.0)
    [result] = results(answer(batch([[0, 0]]), alone, RULES, now))
    assert (result.version, result.route, result.status) == ("v1", Route.CHAMPION, Status.SCORED)
    assert result.reasons == ("canary_refused: v2",)


def test_a_poisonous_row_falls_back_alone() -> None:
    answered = results(
        answer(batch([[0, 0], [0, 5_000], [0, 0]]), serving(Constant("v1", 0.1)), RULES, now)
    )
    assert [r.status for r in answered] == [Status.SCORED, Status.FALLBACK, Status.SCORED]
    fallen = answered[1]
    assert (fallen.route, fallen.version) == (Route.RULE, "v1")
    assert (fallen.score, fallen.label) == (0.75, True)
    assert fallen.reasons == ("model_error: poison",)


def test_a_batch_too_large_for_the_memory_gets_through_in_parts() -> None:
    class Narrow(Constant):
        def outputs(self, matrix: Matrix) -> Output:
            if matrix.shape[0] > 10:
                raise ModelFailed("model_error", "out of memory")
            return super().outputs(matrix)

    answered = results(answer(batch(np.zeros((256, 2))), serving(Narrow("v1", 0.1)), RULES, now))
    assert {r.status for r in answered} == {Status.SCORED}
    assert len(answered) == 256


def test_one_poisonous_row_costs_twice_the_halvings() -> None:
    model = Constant("v1", 0.1)
    values = np.zeros((256, 2))
    values[77, 1] = 5_000
    answered = results(answer(batch(values), serving(model), RULES, now))
    assert [n for n, r in enumerate(answered) if r.status is Status.FALLBACK] == [77]
    assert model.calls == 1 + 2 * 8


def test_without_features_the_rule_answers_everything() -> None:
    blind = batch(np.zeros((3, 2)), vectors=None, why="no route to Redis")
    model = Constant("v1", 0.1)

    answered = results(answer(blind, serving(model), RULES, now))

    assert {r.status for r in answered} == {Status.FALLBACK}
    assert {r.reasons for r in answered} == {("features_unavailable: no route to Redis",)}
    assert {r.score for r in answered} == {0.25}
    assert answered[0].features["origin__mean"] is None
    assert answered[0].ages_ms == {}
    assert model.calls == 0


@pytest.mark.parametrize("wrong", [2.0, float("nan"), None])
def test_where_the_rule_fails_too_the_row_alone_is_refused(wrong: float | None) -> None:
    def broken(_: FlightRequest, __: Mapping[str, float | None]) -> float:
        return wrong  # type: ignore[return-value]

    one, two = answer(
        batch([[0, 5_000], [0, 0]]),
        serving(Constant("v1", 0.1)),
        replace(RULES, fallback=broken),
        now,
    )
    assert isinstance(one, Refusal)
    assert one.reason == "unanswerable"
    assert "model_error: poison" in one.detail
    assert isinstance(two, Answer)


def test_a_shadow_is_scored_beside_and_may_fail_alone() -> None:
    shadowed = serving(Constant("v1", 0.1), Constant("v9", 0.6), shadow="v9")

    fine, poisoned = answer(batch([[0, 0], [0, 5_000]]), shadowed, RULES, now)

    assert isinstance(fine, Answer)
    assert fine.shadow is not None
    beside = Result.model_validate_json(fine.shadow)
    assert (beside.version, beside.route, beside.score) == ("v9", Route.SHADOW, 0.6)
    assert Result.model_validate_json(fine.value).version == "v1"
    assert isinstance(poisoned, Answer)
    assert poisoned.shadow is not None
    assert Result.model_validate_json(poisoned.shadow).status is Status.FALLBACK


def test_a_request_without_a_trace_starts_one() -> None:
    [result] = results(
        answer(batch([[0, 0]], traceparents=[None]), serving(Constant("v1", 0.1)), RULES, now)
    )
    assert len(result.traceparent) == 55


def test_the_champion_answers_for_a_canary_that_fails_and_the_result_says_so() -> None:
    champion = Constant("v1", 0.1)
    both = serving(champion, Broken("v2", 0.9), canary="v2", canary_share=1.0)
    [result] = results(answer(batch([[0, 0]]), both, RULES, now))
    assert (result.status, result.version, result.route) == (
        *(Status.FALLBACK, "v1"),
        Route.CHAMPION,
    )
    assert (result.score, result.failed) == (0.1, ("v2",))
    assert result.reasons == ("model_error: no", "other_model: v1")


def test_the_champion_before_answers_for_one_that_fails_and_never_the_canary() -> None:
    models = Broken("v2", 0.5), Constant("v1", 0.1), Constant("v3", 0.9)
    told = serving(*models, canary="v3", canary_share=0.0)
    [alone] = results(answer(batch([[0, 0]]), told, RULES, now))
    assert (alone.route, alone.version, alone.failed) == (Route.RULE, "v2", ("v2",))

    [helped] = results(answer(batch([[0, 0]]), replace(told, previous="v1"), RULES, now))
    assert (helped.status, helped.version, helped.score) == (Status.FALLBACK, "v1", 0.1)


def test_where_nobody_but_the_rule_is_declared_no_other_model_is_asked() -> None:
    champion = Constant("v1", 0.1)
    both = serving(champion, Broken("v2", 0.9), canary="v2", canary_share=1.0)
    rules = replace(RULES, fallbacks=(Fallback.RULE,))
    [result] = results(answer(batch([[0, 0]]), both, rules, now))
    assert (result.route, result.version, champion.calls) == (Route.RULE, "v2", 0)


def test_where_no_rule_is_declared_what_no_model_answers_is_refused() -> None:
    told = serving(Broken("v1", 0.1))
    [refused] = answer(batch([[0, 0]]), told, replace(RULES, fallbacks=()), now)
    assert isinstance(refused, Refusal)
    assert refused.detail == "no rule is declared (after model_error: no)"


def test_what_both_models_cannot_answer_names_both_and_the_rule_answers() -> None:
    both = serving(Constant("v1", 0.1), Broken("v2", 0.9), canary="v2", canary_share=1.0)
    [result] = results(answer(batch([[0, 5_000]]), both, RULES, now))
    assert (result.route, result.version, result.failed) == (Route.RULE, "v2", ("v2", "v1"))
    assert result.reasons == ("model_error: no", "v1: model_error: poison")


def test_a_row_with_an_impossible_score_falls_back_without_another_call() -> None:
    class Odd(Constant):
        def outputs(self, matrix: Matrix) -> Output:
            out = super().outputs(matrix)
            out[1], out[2] = np.nan, 1.5
            return out

    model = Odd("v1", 0.1)
    answered = results(answer(batch(np.zeros((4, 2))), serving(model), RULES, now))
    assert [r.status is Status.SCORED for r in answered] == [True, False, False, True]
    assert answered[1].reasons == ("output_not_finite: nan",)
    assert answered[2].reasons == ("output_out_of_range: 1.5 is not in [0.0, 1.0]",)
    assert model.calls == 1


@given(
    st.lists(
        st.tuples(*[st.floats(allow_nan=True, allow_infinity=False, width=32)] * 2), min_size=1
    ),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_every_request_has_one_valid_answer_whatever_was_read(
    values: list[tuple[float, float]], score: float, share: float
) -> None:
    both = serving(Constant("v1", score), Constant("v2", score), canary="v2", canary_share=share)

    answered = results(answer(batch(values), both, RULES, now))

    assert [r.request_id for r in answered] == [f"r{n}" for n in range(len(values))]
    for result, row in zip(answered, values, strict=True):
        logged = [result.features[name] for name in FEATURES]
        assert logged == [None if value != value else value for value in row]  # noqa: PLR0124


def now() -> int:
    return NOW_MS
