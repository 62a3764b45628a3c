from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from monitoring.flights import POLICY
from monitoring.guard import Ruling, Trial
from monitoring.policy import DAY_MS
from monitoring.windows import JoinedRow, ResultRow
from schemas.control import VerdictKind
from tests.monitoring import rig

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
    rulings = [trial_of(seed) for seed in range(200)]
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
            ResultRow(rig.T0_MS, f"c{index}", "fallback", 0.5, "v1", "champion", 2, {}, ("v2",))
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
