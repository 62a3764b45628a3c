from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from schemas.errors import HeadraceError
from schemas.requirements import Stale
from serving.breaker import BreakerPolicy
from serving.declared import BadDeclaration, Fallback, declared
from serving.output_contract import Monotone, ScoreRule
from serving.tiers import Tier

CASE = "declaring"
COLUMNS = ("amount", "burst")


@pytest.fixture
def module() -> Iterator[ModuleType]:
    """`serving.declaring`, which declares a rule and nothing else."""
    made = ModuleType(f"serving.{CASE}")
    made.__spec__ = ModuleSpec(made.__name__, loader=None)
    made.fallback = lambda _request, _features: 0.5  # type: ignore[attr-defined]
    sys.modules[made.__name__] = made
    yield made
    del sys.modules[made.__name__]


def test_without_a_word_everybody_falls_back_on_everybody(module: ModuleType) -> None:
    found = declared(CASE, COLUMNS)
    assert found.fallbacks == (Fallback.RETRY, Fallback.OTHER_MODEL, Fallback.RULE)
    assert (found.contract.low, found.contract.high) == (0.0, 1.0)
    assert (found.predict_ms_max, found.breaker) == (1_000.0, BreakerPolicy())
    assert found.rule is module.fallback


def test_what_is_declared_is_what_is_found(module: ModuleType) -> None:
    rule = ScoreRule("r", ("burst",), lambda s, b: (s > 0.1) | ~(b > 1))
    vars(module).update(
        SCORE_RANGE=(0.01, 0.99),
        SCORE_RULES=(rule, Monotone("amount", 1.0)),
        FALLBACKS=("other_model", "rule"),
        PREDICT_MS_MAX=40,
        BREAKER=BreakerPolicy(rows_min=5),
        FRESH_S={"cards": 60},
    )
    found = declared(CASE, COLUMNS)
    assert found.fallbacks == (Fallback.OTHER_MODEL, Fallback.RULE)
    assert (found.contract.low, found.contract.rules) == (0.01, (rule,))
    assert (found.predict_ms_max, found.breaker.rows_min) == (40.0, 5)
    assert found.fresh_s == {"cards": 60}
    assert found.contract.monotone == (Monotone("amount", 1.0),)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FALLBACKS", ("rule", "retry")),
        ("FALLBACKS", ("rule", "rule")),
        ("FALLBACKS", ("prayer",)),
        ("FALLBACKS", 3),
        ("fallback", None),
        ("FALLBACK_THRESHOLD", 2),
        ("FALLBACK_THRESHOLD", "0.5"),
        ("PREDICT_MS_MAX", 0),
        ("PREDICT_MS_MAX", float("inf")),
        ("PREDICT_MS_MAX", True),
        ("BREAKER", {"rows_min": 5}),
        ("SCORE_RANGE", (0.5,)),
        ("SCORE_RANGE", ("a", "b")),
        ("SCORE_RANGE", (0.6, 0.5)),
        ("SCORE_RULES", (lambda s: s,)),
        ("FRESH_S", 60),
        ("FRESH_S", {"view": 0}),
        ("FRESH_S", {3: 60}),
        ("TIERS", {"neural": "gpu"}),
        ("TIERS", (Tier("cpu"),)),
        ("SCORE_RULES", (ScoreRule("r", ("gone",), lambda s, _: s > 0),)),
        ("SCORE_RULES", (ScoreRule("r", (), lambda _: np.zeros(1, dtype=np.bool_)),)),
    ],
)
def test_what_cannot_be_meant_stops_the_start(module: ModuleType, name: str, value: Any) -> None:
    setattr(module, name, value)
    with pytest.raises(HeadraceError, match="wanted"):
        declared(CASE, COLUMNS)


def test_who_declares_no_rule_need_not_have_one(module: ModuleType) -> None:
    vars(module).update(FALLBACKS=("other_model",), fallback=None)
    assert declared(CASE, COLUMNS).rule is None
    with pytest.raises(BadDeclaration, match="answer for stale features"):
        declared(CASE, COLUMNS, Stale.FALLBACK)
