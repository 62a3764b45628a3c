from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from monitoring.flights import POLICY
from monitoring.guard import Ruling, Trial, ks_distance
from monitoring.payments import POLICY as PAYMENTS
from monitoring.policy import DAY_MS
from monitoring.windows import JoinedRow, ResultRow
from schemas.control import Release, VerdictKind
from tests.monitoring import a_against_a, rig

GUARD = POLICY.guard
ROWS_A_DAY = 950
Spoil = Callable[[float, np.random.Generator], float]
RELEASE = rig.release("c", epoch=2, canary="v2")


def trial_of(
    seed: int, spoil: Spoil | None = None, canary_share: float = 0.1
) -> tuple[Ruling, float]:
    """Sixteen days of flights-like traffic; the score is the true chance of the label."""
    generator = np.random.default_rng(seed)
    trial = Trial(RELEASE, GUARD)
    for index in range(18 * ROWS_A_DAY):
        p = float(generator.beta(1.0, 3.5))
        late = bool(generator.random() < p)
        on_canary = bool(generator.random() < canary_share)
        score = spoil(p, generator) if spoil and on_canary else p
        version, route = ("v2", "canary") if on_canary else ("v1", "champion")
        time_ms = rig.T0_MS + index * DAY_MS // ROWS_A_DAY
        trial.add_result(ResultRow(time_ms, str(index), "scored", score, version, route, 2, {}))
        trial.add_joined(JoinedRow(time_ms, str(index), "scored", score, version, route, 2, late))
        if index % 100 == 0 and (ruling := trial.look()) is not None:
            return ruling, index / ROWS_A_DAY
    raise AssertionError("no decision within 18 days")


def test_a_canary_as_good_as_its_champion_is_rolled_back_at_most_at_the_nominal_rate() -> None:
    rulings = [trial_of(seed) for seed in range(60)]
    false = sum(ruling.verdict == VerdictKind.ROLL_BACK for ruling, _ in rulings)
    assert false / len(rulings) <= GUARD.alpha
    assert GUARD.alpha == pytest.approx(0.05)
    assert np.mean([days for _, days in rulings]) < 8


def test_a_champion_that_helps_out_has_no_fault_and_the_canary_it_helps_has() -> None:
    trial = Trial(RELEASE, GUARD)
    for index in range(10):
        helped = ResultRow(
            rig.T0_MS, str(index), "fallback", 0.5, "v1", "champion", 2, {}, failed=("v2",)
        )
        trial.add_result(helped)
    assert trial.canary_progress()["canary_answers"] == 10
    for index in range(10, GUARD.rows_min * 4):
        sound = ResultRow(rig.T0_MS, str(index), "scored", 0.5, "v1", "champion", 2, {})
        trial.add_result(sound)
        trial.add_result(
            ResultRow(
                rig.T0_MS, f"c{index}", "fallback", 0.5, "v1", "champion", 2, {}, failed=("v2",)
            )
        )
    ruling = trial.look()
    assert ruling is not None
    assert ruling.verdict is VerdictKind.ROLL_BACK
    assert ruling.champion_metrics["fault_rate"] == 0.0
    assert ruling.canary_metrics["fault_rate"] == 1.0


@pytest.mark.parametrize(
    ("spoil", "days_max"),
    [
        (lambda p, _: 1 - p, 2.0),
        (lambda _, g: float(g.random()), 3.0),
        (lambda _p, _g: 0.5, 2.0),
        (lambda p, g: float(np.clip(p + g.normal(0, 0.25), 0.01, 0.99)), 7.0),
    ],
    ids=["inverted", "random", "constant", "noisy"],
)
def test_a_bad_canary_is_rolled_back(spoil: Spoil, days_max: float) -> None:
    rulings = [trial_of(seed, spoil) for seed in range(10)]
    assert {ruling.verdict for ruling, _ in rulings} == {VerdictKind.ROLL_BACK}
    assert np.mean([days for _, days in rulings]) < days_max


def test_a_better_canary_is_promoted_with_its_evidence() -> None:
    ruling, days = trial_of(3, lambda p, _: p)
    assert ruling.verdict == VerdictKind.PROMOTE
    assert 5 < days < 8
    assert ruling.rows >= GUARD.rows_decide
    assert {"auc", "log_loss", "fault_rate"} <= ruling.canary_metrics.keys()


def test_too_little_traffic_ends_in_a_roll_back_at_the_longest_duration() -> None:
    ruling, days = trial_of(4, canary_share=0.002)
    assert ruling.verdict == VerdictKind.ROLL_BACK
    assert "only" in ruling.reason
    assert days == pytest.approx(14, abs=0.2)


def test_a_canary_that_cannot_score_is_rolled_back_without_any_outcome() -> None:
    trial = Trial(RELEASE, GUARD)
    for index in range(4_000):
        on_canary = index % 10 == 0
        version, route = ("v2", "canary") if on_canary else ("v1", "champion")
        failed = on_canary and index % 30 == 0
        status, score = ("fallback", None) if failed else ("scored", 0.2)
        route = "rule" if failed else route
        row = ResultRow(rig.T0_MS + index, str(index), status, score, version, route, 2, {})
        trial.add_result(row)
    ruling = trial.look()
    assert ruling is not None
    assert "unscored answers rose" in ruling.reason
    assert trial.look() is None, "nothing new, nothing to look at"


def test_repeated_joined_rows_change_nothing() -> None:
    trials = [Trial(RELEASE, GUARD), Trial(RELEASE, GUARD)]
    pairs = rig.traffic(
        seed=5, start_ms=rig.T0_MS, rows=6_000, rows_a_day=950, canary_share=0.15, epoch=2
    )
    for pair in pairs:
        result, joined = rig.rows_of(pair)
        for repeats, trial in zip((1, 3), trials, strict=True):
            trial.add_result(result)
            for _ in range(repeats):
                trial.add_joined(joined)
    assert trials[0].look() == trials[1].look() is not None


def test_of_twenty_payments_canaries_that_are_their_champion_one_at_most_is_rolled_back() -> None:
    """In a quarter of the traffic that payments wait for; 200 whole ones are a command's (`a_against_a`)."""
    policy = replace(PAYMENTS.guard, rows_decide=1_250)
    rulings = [
        a_against_a.ruling_of(s, policy=policy, look_rows=500, rows=60_000) for s in range(20)
    ]
    assert sum(r.verdict == VerdictKind.ROLL_BACK for r in rulings) <= 1


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ({"status": "fallback", "route": "rule", "score": 0.1, "failed": ("v2",)}, "unscored"),
        ({"timings_us": {"predict": 200_500}}, "over 20 ms"),
        ({"score": 0.9}, "KS distance"),
    ],
    ids=["errs", "is slow", "shifts its scores"],
)
def test_harm_to_payments_shows_in_its_first_answers(harm: dict[str, object], said: str) -> None:
    """At 500 payments a second and 5 % of the cards, 250 answers are 10 s."""

    def done(row: ResultRow) -> ResultRow:
        return msgspec.structs.replace(row, **harm)

    ruling = a_against_a.ruling_of(1, harm=done, rows=20_000)
    assert ruling.verdict == VerdictKind.ROLL_BACK
    assert said in ruling.reason
    assert ruling.canary_metrics["answers"] <= 250


scores = st.lists(st.floats(0, 1, width=16), min_size=2, max_size=30)


@given(scores, scores)
def test_the_distance_is_that_of_scipy(one: list[float], other: list[float]) -> None:
    found = stats.ks_2samp(one, other, method="asymp").statistic
    assert ks_distance(np.array(one), np.array(other)) == pytest.approx(found)


def feed(trial: Trial, rows: int, **of_canary: object) -> Ruling | None:
    """Answers of both arms, one canary's in ten; `of_canary` replaces fields of the canary's rows."""
    generator = np.random.default_rng(1)
    for index in range(rows):
        on_canary = index % 10 == 0
        fields: dict[str, object] = {
            "event_time_ms": rig.T0_MS + index,
            "request_id": str(index),
            "status": "scored",
            "score": float(generator.random()),
            "version": "v2" if on_canary else "v1",
            "route": "canary" if on_canary else "champion",
            "epoch": 2,
            "features": {},
            "timings_us": {"predict": 300},
        }
        trial.add_result(ResultRow(**fields | (of_canary if on_canary else {})))  # type: ignore[arg-type]
        if index % 50 == 0 and (ruling := trial.look()) is not None:
            return ruling
    return None


def test_a_slow_canary_is_rolled_back_and_a_quick_one_is_not() -> None:
    ruling = feed(Trial(RELEASE, GUARD), 2_000, timings_us={"predict": 200_000})
    assert ruling is not None
    assert "over 100 ms rose by 9" in ruling.reason
    assert ruling.canary_metrics["predict_ms"] == pytest.approx(200)
    assert ruling.champion_metrics["slow_rate"] == 0
    assert feed(Trial(RELEASE, GUARD), 2_000, timings_us={"predict": 90_000}) is None


@pytest.mark.parametrize(
    "answered",
    [
        {"version": "v1", "route": "champion", "reasons": ("canary_refused: v2",)},
        {"version": "v1", "route": "champion", "status": "fallback", "failed": ("v2",)},
        {"version": "v2", "route": "rule", "status": "fallback", "failed": ("v2", "v1")},
    ],
    ids=["not loaded", "another model answered", "the rule answered"],
)
def test_what_others_answered_for_a_canary_is_its_fault(answered: dict[str, object]) -> None:
    ruling = feed(Trial(RELEASE, GUARD), 2_000, **answered)
    assert ruling is not None
    assert "unscored answers rose" in ruling.reason


@pytest.mark.parametrize(
    "assigned",
    [
        {"route": "assigned", "reasons": ("pinned: v2",)},
        {"route": "rule", "status": "fallback", "reasons": ("pinned: v2", "model_error: x")},
        {"route": "assigned", "version": "v1", "reasons": ("routed: tier=high never goes …",)},
    ],
)
def test_what_was_assigned_is_nobodys_evidence(assigned: dict[str, object]) -> None:
    trial = Trial(RELEASE, GUARD)
    assert feed(trial, 2_000, **assigned | {"score": 1.0}) is None
    assert trial.canary_progress()["canary_answers"] == 0


def test_a_trial_goes_on_over_releases_that_leave_the_split_alone() -> None:
    trial = Trial(RELEASE, GUARD)

    def later(**changes: object) -> Release:
        return RELEASE.model_copy(update={"epoch": 3, **changes})

    assert trial.goes_on(later(pins={"a": "v1"}, shadow="v9"))
    for changed in ({"canary_share": 0.2}, {"canary": "v3"}, {"champion": "v3"}, {"salt": "x"}):
        assert not trial.goes_on(later(**changed))
