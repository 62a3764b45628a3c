"""What a use case declares of its answers, read from `serving/<case>.py` and checked before the first request.

| name | meaning | without it |
|---|---|---|
| `SCORE_RANGE` | least and greatest score | 0 to 1 |
| `SCORE_RULES` | `ScoreRule`s and `Monotone`s that every model's scores must keep | none |
| `FALLBACKS` | who answers for a model that cannot, in order | all of `Fallback` |
| `PREDICT_MS_MAX` | how long a model may take for a batch | 1,000 |
| `BREAKER` | when a version is no longer asked | `BreakerPolicy()` |
| `FRESH_S` | view → how many seconds an entity's newest event may lie back, beyond which results are marked | no view |
| `TIERS` | estimator → where its versions run (`serving.tiers`) | on the CPU |
| `fallback`, `FALLBACK_THRESHOLD` | the rule's score, and from where its label is true | needed where the rule is |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite

from schemas import usecase
from schemas.errors import HeadraceError
from schemas.requirements import Stale
from serving.asking import PREDICT_MS_MAX
from serving.breaker import BreakerPolicy
from serving.output_contract import Monotone, OutputContract, ScoreRule
from serving.tiers import Tier


class BadDeclaration(HeadraceError):
    """A use case declares what cannot be meant; it stops the start."""


class Fallback(StrEnum):
    """Who answers where a model does not, in this order."""

    RETRY = "retry"
    OTHER_MODEL = "other_model"
    RULE = "rule"


@dataclass(frozen=True)
class Declared:
    """The table above, checked."""

    contract: OutputContract
    fallbacks: tuple[Fallback, ...]
    predict_ms_max: float
    breaker: BreakerPolicy
    rule: Callable[..., float] | None
    threshold: float
    tiers: Mapping[str, Tier]
    fresh_s: Mapping[str, float]


def declared(case: str, columns: Sequence[str], stale: Stale = Stale.MARK) -> Declared:
    """What the use case declares.

    Args:
        case: The use case.
        columns: The columns of the models' input matrix, which rules may name.
        stale: What its requirements say of stale features; only a use case with a rule can have that answer.

    Raises:
        BadDeclaration, BadContract, BadPolicy: It cannot be meant.
        UnknownUseCase: There is no such module.
    """
    module = usecase.load("serving", case)
    where = f"serving/{case}.py"
    fallbacks = _fallbacks(where, getattr(module, "FALLBACKS", tuple(Fallback)))
    rule, threshold = getattr(module, "fallback", None), getattr(module, "FALLBACK_THRESHOLD", 0.5)
    if Fallback.RULE in fallbacks and not callable(rule):
        raise _bad(where, "fallback", "a function (request, features) -> score", rule)
    if not _is_number(threshold) or not 0 <= threshold <= 1:
        raise _bad(where, "FALLBACK_THRESHOLD", "a number in [0, 1]", threshold)
    longest_ms = getattr(module, "PREDICT_MS_MAX", PREDICT_MS_MAX)
    if not _is_number(longest_ms) or not 0 < longest_ms < float("inf"):
        raise _bad(where, "PREDICT_MS_MAX", "milliseconds above 0", longest_ms)
    breaker = getattr(module, "BREAKER", BreakerPolicy())
    if not isinstance(breaker, BreakerPolicy):
        raise _bad(where, "BREAKER", "a BreakerPolicy", breaker)
    if stale is Stale.FALLBACK and Fallback.RULE not in fallbacks:
        wanted = "the rule among them, which its requirements want to answer for stale features"
        raise _bad(where, "FALLBACKS", wanted, fallbacks)
    contract = _contract(where, module, tuple(columns))
    return Declared(
        contract,
        fallbacks,
        float(longest_ms),
        breaker,
        rule,
        float(threshold),
        tiers(case),
        _fresh_s(where, getattr(module, "FRESH_S", {})),
    )


def has_rule(case: str) -> bool:
    """Whether a use case declares a rule that answers where no model may.

    Raises:
        UnknownUseCase: There is no such module.
    """
    module = usecase.load("serving", case)
    declared_ones = tuple(getattr(module, "FALLBACKS", tuple(Fallback)))
    return Fallback.RULE in declared_ones and callable(getattr(module, "fallback", None))


def tiers(case: str) -> Mapping[str, Tier]:
    """Estimator → where its versions run, as the use case declares it.

    Raises:
        BadDeclaration: It cannot be meant.
        UnknownUseCase: There is no such module.
    """
    given = getattr(usecase.load("serving", case), "TIERS", {})
    if not isinstance(given, Mapping) or not all(
        isinstance(name, str) and isinstance(tier, Tier) for name, tier in given.items()
    ):
        raise _bad(f"serving/{case}.py", "TIERS", "a mapping of estimators to Tiers", given)
    return given


def _contract(where: str, module: object, columns: tuple[str, ...]) -> OutputContract:
    given = getattr(module, "SCORE_RANGE", (0.0, 1.0))
    if not (isinstance(given, tuple) and len(given) == 2 and all(map(_is_number, given))):  # noqa: PLR2004 - a pair
        raise _bad(where, "SCORE_RANGE", "a pair of numbers", given)
    rules = getattr(module, "SCORE_RULES", ())
    if not all(isinstance(rule, ScoreRule | Monotone) for rule in rules):
        raise _bad(where, "SCORE_RULES", "a tuple of ScoreRule and Monotone", rules)
    return OutputContract(
        columns=columns,
        low=given[0],
        high=given[1],
        rules=tuple(r for r in rules if isinstance(r, ScoreRule)),
        monotone=tuple(r for r in rules if isinstance(r, Monotone)),
    )


def _fallbacks(where: str, given: object) -> tuple[Fallback, ...]:
    wanted = f"some of {[f.value for f in Fallback]}, each once, in this order"
    if not isinstance(given, tuple):
        raise _bad(where, "FALLBACKS", wanted, given)
    try:
        chosen = tuple(Fallback(one) for one in given)
    except ValueError as error:
        raise _bad(where, "FALLBACKS", wanted, given) from error
    if list(chosen) != [f for f in Fallback if f in chosen]:
        raise _bad(where, "FALLBACKS", wanted, given)
    return chosen


def _fresh_s(where: str, given: object) -> Mapping[str, float]:
    if not isinstance(given, Mapping) or not all(
        isinstance(view, str) and _is_number(limit_s) and limit_s > 0
        for view, limit_s in given.items()
    ):
        raise _bad(where, "FRESH_S", "a mapping of views to seconds above 0", given)
    return given


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _bad(where: str, name: str, wanted: str, came: object) -> BadDeclaration:
    return BadDeclaration(f"{where}, {name}", wanted=wanted, came=f"it is {came!r}")
