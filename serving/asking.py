"""Asking a version: through its circuit, within its time, and row by row where a batch as a whole gives no answer."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import nan
from typing import Protocol

import numpy as np
import structlog

from serving.breaker import Breaker, BreakerPolicy, Circuit
from serving.output_contract import (
    Judged,
    Matrix,
    ModelFailed,
    Output,
    OutputContract,
    Scores,
)

log = structlog.get_logger()

TIMEOUT, HANGS, CIRCUIT_OPEN = "model_timeout", "model_hangs", "circuit_open"
# Asking for half of the rows would take as long again, or say the same again.
_OF_ALL_ROWS = frozenset({TIMEOUT, HANGS, "output_type"})
PREDICT_MS_MAX = 1_000.0


class Predictor(Protocol):
    """What is asked of a loaded version (`serving.runtime.Model`)."""

    version: str
    threshold: float

    def outputs(self, matrix: Matrix) -> Output:
        """What the model says, unjudged; raises `ModelFailed`."""


@dataclass(frozen=True)
class Asked:
    """What a version said.

    Attributes:
        scores: One a row, NaN where there is none.
        failed: Row → why it has none.
        retried: Row → why the first try gave none, where the second did.
    """

    scores: Scores
    failed: dict[int, ModelFailed]
    retried: dict[int, ModelFailed] = field(default_factory=dict)


class Asking:
    """Asks versions, and remembers of each how it has done lately. For one thread.

    Args:
        contract: What every output must be.
        policy: When a version's circuit opens and closes.
        predict_ms_max: After so long a batch is no longer asked for in parts. (One call is bounded by `TimedCalls`.)
        retry: Whether rows that failed by the model's error are asked about once more.
        clock_s: A clock that never goes back.
    """

    def __init__(
        self,
        contract: OutputContract | None = None,
        policy: BreakerPolicy | None = None,
        *,
        predict_ms_max: float = PREDICT_MS_MAX,
        retry: bool = False,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._contract, self._policy = contract or OutputContract(), policy or BreakerPolicy()
        self._patience_s, self._retry, self._clock_s = predict_ms_max / 1000, retry, clock_s
        self._breakers: dict[str, Breaker] = {}
        self.counts: Counter[str] = Counter()

    def ask(self, model: Predictor, rows: Matrix) -> Asked:
        """A score for each row, or why there is none. Never raises for what the model does."""
        breaker = self._breakers.setdefault(model.version, Breaker(self._policy))
        began_s = self._clock_s()
        admitted = breaker.admit(len(rows), began_s)
        judged = self._halved(model, rows[:admitted], began_s + self._patience_s)
        retried = self._again(model, rows, judged) if self._retry else {}
        self._record(model.version, breaker, admitted, judged)
        if admitted == len(rows):
            return Asked(*judged, retried)
        open_s = breaker.open_for_s(self._clock_s())
        shut = ModelFailed(CIRCUIT_OPEN, f"{model.version}, since {open_s:.0f} s")
        self.counts[CIRCUIT_OPEN] += len(rows) - admitted
        scores = np.concatenate([judged.scores, np.full(len(rows) - admitted, nan)])
        return Asked(
            scores, judged.failed | dict.fromkeys(range(admitted, len(rows)), shut), retried
        )

    def circuits(self) -> dict[str, Circuit]:
        """Version → its circuit, of all that were asked."""
        return {version: breaker.state for version, breaker in self._breakers.items()}

    def _halved(self, model: Predictor, rows: Matrix, until_s: float) -> Judged:
        """A batch that fails is halved until it does not.

        What is too large for the memory gets through in parts, and a poisonous row stands alone after as many calls as
        the batch has halvings, twice. That ends with the time: what is then left fails with its part.
        """
        scores, failed = np.full(len(rows), nan), dict[int, ModelFailed]()
        parts = [(0, len(rows))] if len(rows) else []
        last: ModelFailed | None = None
        while parts:
            first, end = parts.pop()
            try:
                if last is not None and self._clock_s() >= until_s:
                    raise last
                part = self._judged(model, rows[first:end])
            except ModelFailed as error:
                last = error
                if end - first == 1 or error.reason in _OF_ALL_ROWS or self._clock_s() >= until_s:
                    failed |= dict.fromkeys(range(first, end), error)
                    continue
                self.counts["batch_halved"] += 1
                middle = (first + end) // 2
                parts += [(middle, end), (first, middle)]
            else:
                scores[first:end] = part.scores
                failed |= {first + row: why for row, why in part.failed.items()}
        return Judged(scores, failed)

    def _again(self, model: Predictor, rows: Matrix, judged: Judged) -> dict[int, ModelFailed]:
        """Ask once more, in one call, about the rows that failed by an error; those of a contract would fail again."""
        mine = {row: why for row, why in judged.failed.items() if why.reason == "model_error"}
        if not mine:
            return {}
        self.counts["retried"] += 1
        try:
            again = self._judged(model, rows[list(mine)])
        except ModelFailed:
            return {}
        answered = {row: place for place, row in enumerate(mine) if place not in again.failed}
        for row, place in answered.items():
            judged.scores[row] = again.scores[place]
            del judged.failed[row]
        return {row: mine[row] for row in answered}

    def _judged(self, model: Predictor, rows: Matrix) -> Judged:
        judged = self._contract.judge(model.outputs(rows), rows)
        for one in self._contract.monotone:
            moved = self._contract.moved(rows, one)
            after = self._contract.judge(model.outputs(moved), moved)
            self._contract.against(one, rows, judged, after)
        return judged

    def _record(self, version: str, breaker: Breaker, rows: int, judged: Judged) -> None:
        before, now_s = breaker.state, self._clock_s()
        late = any(why.reason in {TIMEOUT, HANGS} for why in judged.failed.values())
        breaker.record(rows, len(judged.failed), now_s, timed_out=late)
        if breaker.state is before:
            return
        opened = breaker.state is Circuit.OPEN
        self.counts["circuit_opened" if opened else "circuit_closed"] += 1
        why = next((str(one) for one in judged.failed.values()), "")
        log.warning("asking.circuit", version=version, was=before, now=breaker.state, why=why)
