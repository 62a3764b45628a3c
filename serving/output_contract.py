"""What a model's output must be before anything is produced from it (pure).

Shape and type are of a batch, and raise. Finite, range and the use case's own rules are of rows: a row that breaks them
has no score, and the others keep theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite, nan
from typing import Any, NamedTuple

import numpy as np

from schemas.errors import HeadraceError

Matrix = np.ndarray[tuple[int, int], np.dtype[np.float32]]
Scores = np.ndarray[tuple[int], np.dtype[np.float64]]
Output = np.ndarray[tuple[int, ...], np.dtype[Any]]
Bools = np.ndarray[tuple[int], np.dtype[np.bool_]]

# Sums of float32 leaves overshoot by an ulp or two; more than that is a wrong model.
OVERSHOOT = 1e-6
# Errors of converters and runtimes may carry whole graphs. They begin with the place and end with what is the matter.
_HEAD_CHARS, _TAIL_CHARS = 80, 117


class ModelFailed(Exception):
    """The model gave no usable answer for these rows; `reason` goes into the result.

    Attributes:
        reason: model_error, model_timeout, model_hangs, circuit_open, or output_ and what is wrong with it: shape, type,
            not_finite, out_of_range, rule, not_monotone.
        detail: What came, shortened.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = _shortened(detail)
        super().__init__(f"{reason}: {self.detail}")


class BadContract(HeadraceError):
    """An output contract that cannot be meant; it stops the start."""


@dataclass(frozen=True)
class ScoreRule:
    """A rule of the business: which scores may go with which inputs.

    Attributes:
        name: What a result says when it is broken.
        columns: The input columns it reads.
        holds: `(scores, *columns) -> mask`, all `[rows]`; columns are float32 with NaN for "no value".
    """

    name: str
    columns: tuple[str, ...]
    holds: Callable[..., Bools]


@dataclass(frozen=True)
class Monotone:
    """The score must not move against an input.

    Trap: it is checked by asking the model once more a batch, with the column moved; a model is then twice as dear.

    Attributes:
        column: The input.
        step: By how much it is moved.
        falls: The score must not rise with it, instead of not fall.
    """

    column: str
    step: float
    falls: bool = False


class Judged(NamedTuple):
    """Scores, NaN where there is none, and for those rows why."""

    scores: Scores
    failed: dict[int, ModelFailed]


@dataclass(frozen=True)
class OutputContract:
    """What a use case declares of every model's score.

    Attributes:
        columns: The columns of the input matrix, in order.
        low: The least score.
        high: The greatest.
        rules: Of the business.
        monotone: In which inputs.
    """

    columns: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 1.0
    rules: tuple[ScoreRule, ...] = ()
    monotone: tuple[Monotone, ...] = ()
    _places: dict[str, int] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._places.update({name: place for place, name in enumerate(self.columns)})
        if not 0.0 <= self.low < self.high <= 1.0:
            raise _bad("range", "0 <= low < high <= 1", f"[{self.low}, {self.high}]")
        asked = [c for rule in self.rules for c in rule.columns] + [m.column for m in self.monotone]
        if unknown := sorted(set(asked) - self._places.keys()):
            raise _bad("rules", f"columns of {list(self.columns)}", f"there is no {unknown}")
        for one in self.monotone:
            if not (isfinite(one.step) and one.step > 0):
                raise _bad(f"monotone {one.column}", "a step above 0", f"{one.step}")
        # Tried on what there will be at worst: rows without any value.
        for rule in self.rules:
            try:
                self._holds(rule, np.full((2, len(self.columns)), nan, np.float32), np.zeros(2))
            except ModelFailed as failed:
                raise _bad(f"rule {rule.name}", "a mask, one a row", failed.detail) from failed

    def judge(self, output: Output, rows: Matrix) -> Judged:
        """Scores out of what a model said to `rows`: `[rows, 2]` probabilities of two classes, or `[rows]` scores.

        Raises:
            ModelFailed: It is none of these, or not of floats; no row has a score.
        """
        count = len(rows)
        if output.dtype.kind != "f":
            raise ModelFailed("output_type", f"{output.dtype} for float32")
        if output.shape not in {(count, 2), (count,), (count, 1)}:
            raise ModelFailed("output_shape", f"{output.shape} for {count} rows")
        last = output if output.ndim == 1 else output[:, -1]
        scores: Scores = last.astype(np.float64).reshape(count)
        failed: dict[int, ModelFailed] = {}
        _mark(failed, ~np.isfinite(scores), "output_not_finite", scores, "")
        outside = (scores < self.low - OVERSHOOT) | (scores > self.high + OVERSHOOT)
        _mark(
            failed, outside, "output_out_of_range", scores, f" is not in [{self.low}, {self.high}]"
        )
        for rule in self.rules:
            _mark(failed, ~self._holds(rule, rows, scores), "output_rule", scores, f": {rule.name}")
        if failed:
            scores[list(failed)] = nan
        return Judged(np.clip(scores, self.low, self.high), failed)

    def moved(self, rows: Matrix, one: Monotone) -> Matrix:
        """The rows with one input moved, to be asked about beside them."""
        out = rows.copy()
        out[:, self._places[one.column]] += np.float32(one.step)
        return out

    def against(self, one: Monotone, rows: Matrix, before: Judged, after: Judged) -> None:
        """Fail those rows of `before` whose score moved against the input in `after`; a missing input moves nothing."""
        rose = after.scores - before.scores
        wrong = (rose > OVERSHOOT) if one.falls else (rose < -OVERSHOOT)
        wrong &= ~np.isnan(rows[:, self._places[one.column]])
        said = f" {'rises' if one.falls else 'falls'} where {one.column} grows by {one.step}"
        _mark(before.failed, wrong, "output_not_monotone", before.scores, said)
        before.scores[wrong] = nan

    def _holds(self, rule: ScoreRule, rows: Matrix, scores: Scores) -> Bools:
        given = [rows[:, self._places[name]] for name in rule.columns]
        try:
            held = np.asarray(rule.holds(scores, *given))
        except (
            Exception
        ) as error:  # a rule is the user's code; without it nothing may be said to hold
            raise ModelFailed(
                "output_rule", f"{rule.name}: {type(error).__name__}: {error}"
            ) from error
        if held.shape != scores.shape or held.dtype.kind != "b":
            raise ModelFailed("output_rule", f"{rule.name}: {held.dtype}{held.shape} as mask")
        return held


def _mark(
    failed: dict[int, ModelFailed], wrong: Bools, reason: str, scores: Scores, said: str
) -> None:
    """The first thing that is wrong with a row is what is said of it."""
    if wrong.any():
        for row in np.flatnonzero(wrong).tolist():
            failed.setdefault(row, ModelFailed(reason, f"{scores[row]:.6g}{said}"))


def _shortened(text: str) -> str:
    if len(text) <= _HEAD_CHARS + _TAIL_CHARS:
        return text
    return f"{text[:_HEAD_CHARS]} … {text[-_TAIL_CHARS:]}"


def _bad(what: str, wanted: str, came: str) -> BadContract:
    return BadContract(f"output contract, {what}", wanted=wanted, came=came)
