from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.flights import GATE
from serving.gate import Requirement, gate

SHAKEN = {"auc_jittered": 0.79, "auc_without_one": 0.71}
CHAMPION = {"auc": 0.80, "log_loss": 0.50, "brier": 0.15, **SHAKEN}
BETTER = {
    "auc": 0.82,
    "log_loss": 0.48,
    "brier": 0.14,
    "auc_jittered": 0.80,
    "auc_without_one": 0.70,
}
values = st.floats(0.01, 0.99)
metrics = st.fixed_dictionaries(
    {"auc": values, "log_loss": values, "brier": values}
    | {name: st.just(value) for name, value in SHAKEN.items()}
)


def test_better_on_every_metric_is_admitted_with_the_numbers() -> None:
    assert gate(CHAMPION, BETTER, GATE) == (
        True,
        (
            "meets every requirement: auc 0.8200 against 0.8000, log_loss 0.4800 against 0.5000, "
            "brier 0.1400 against 0.1500, auc_jittered 0.8000 against 0.7900, "
            "auc_without_one 0.7000 against 0.7100"
        ),
    )


@pytest.mark.parametrize("metric", ["auc", "log_loss", "brier"])
def test_worse_on_one_metric_is_refused_and_the_metric_named(metric: str) -> None:
    admitted, reason = gate(CHAMPION, BETTER | {metric: CHAMPION[metric]}, GATE)
    assert not admitted
    assert metric in reason


def test_better_than_a_poor_champion_is_not_enough_below_the_bound() -> None:
    poor = {"auc": 0.60, "log_loss": 0.50, "brier": 0.15, **SHAKEN}
    assert gate(poor, BETTER | {"auc": 0.65}, GATE) == (
        False,
        "auc 0.6500 does not reach 0.7000",
    )


@pytest.mark.parametrize("broken", [nan, inf, -inf])
@pytest.mark.parametrize("side", ["champion", "candidate"])
def test_what_cannot_be_measured_is_refused(broken: float, side: str) -> None:
    champion = CHAMPION | ({"auc": broken} if side == "champion" else {})
    candidate = BETTER | ({"auc": broken} if side == "candidate" else {})
    assert not gate(champion, candidate, GATE)[0]
    assert not gate({}, BETTER, GATE)[0]
    assert not gate(CHAMPION, {}, GATE)[0]


def test_a_suspended_champion_is_no_bar_but_bounds_and_odd_rows_are() -> None:
    worse = CHAMPION | {"log_loss": 0.6, "auc": 0.71}
    admitted, reason = gate(CHAMPION, worse, GATE, suspended=True)
    assert admitted
    assert reason.startswith("the champion is suspended: auc 0.7100 against 0.8000")
    assert gate(CHAMPION, worse | {"auc": 0.65}, GATE, suspended=True) == (
        False,
        "auc 0.6500 does not reach 0.7000",
    )
    assert not gate(CHAMPION, worse | {"auc_jittered": nan}, GATE, suspended=True)[0]


def test_a_margin_asks_for_more_and_a_negative_one_forgives() -> None:
    assert not gate({"auc": 0.80}, {"auc": 0.81}, [Requirement("auc", "higher", margin=0.02)])[0]
    assert gate({"auc": 0.80}, {"auc": 0.79}, [Requirement("auc", "higher", margin=-0.02)])[0]


def test_better_by_chance_is_refused_and_better_for_sure_is_not() -> None:
    asked = [Requirement("auc", "higher", confidence=0.8)]
    chance, sure = np.linspace(-0.03, 0.05, 400), np.linspace(0.01, 0.03, 400)
    admitted, reason = gate(CHAMPION, BETTER, asked, {"auc": chance})
    assert not admitted
    assert "(-0.0280 to +0.0480) is better in 62% of the resamples: 80% were wanted" in reason
    admitted, reason = gate(CHAMPION, BETTER, asked, {"auc": sure})
    assert admitted
    assert "auc 0.8200 against 0.8000 (+0.0105 to +0.0295)" in reason


def test_a_model_that_breaks_where_the_champion_bends_is_refused() -> None:
    admitted, reason = gate(CHAMPION, BETTER | {"auc_jittered": 0.70}, GATE)
    assert not admitted
    assert reason.startswith("auc_jittered 0.7000 against the champion's 0.7900")


@given(metrics, metrics)
def test_of_two_models_at_most_one_beats_the_other(
    one: dict[str, float], other: dict[str, float]
) -> None:
    assert not (gate(one, other, GATE)[0] and gate(other, one, GATE)[0])
    assert not gate(one, one, GATE)[0]
