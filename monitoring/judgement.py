"""A closed window against its champion's reference: which kinds of drift, by how much. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from math import isfinite, nan, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from monitoring.accuracy import Accuracy, accuracy, auc_variance_by_entity, log_losses
from monitoring.column_drift import ColumnDrift
from monitoring.drift import compare
from monitoring.policy import Policy
from monitoring.reference import Reference
from monitoring.windows import ResultRow, Window
from schemas.control import AlertKind
from schemas.results import Route, Status

Floats = NDArray[np.float64]
SCORE = "score"
# While a canary is tried, rules keep some requests with the champion: its answers all the same.
_CHAMPIONS = (Route.CHAMPION, Route.ASSIGNED)


class Outcomes(NamedTuple):
    """The champion's own joined rows: its scores, what came of them (0 or 1), and whose they were."""

    scores: Floats
    labels: Floats
    entities: Sequence[str]


@dataclass(frozen=True)
class Judgement:
    """What a window showed.

    Attributes:
        rows: Results in the window.
        columns: Each input's verdict, then the score's.
        live: Metrics of the champion's joined rows.
        kinds: What drifted; empty for a quiet window.
        note: Why something was not judged.
    """

    rows: int
    version: str
    columns: tuple[ColumnDrift, ...] = ()
    live: Accuracy = field(default_factory=lambda: Accuracy(0, None, None, None))
    kinds: tuple[AlertKind, ...] = ()
    note: str = ""

    @property
    def drifted(self) -> tuple[str, ...]:
        """Names of the drifted columns."""
        return tuple(c.column for c in self.columns if c.drifted)

    @property
    def held_back_by(self) -> str | None:
        """Why no retraining may follow, whatever else drifted: it would learn from inputs that look broken."""
        broken = [f"{c.column} ({c.note})" for c in self.columns if c.broken and c.column != SCORE]
        return f"broken inputs: {', '.join(broken)}" if broken else None

    @property
    def said(self) -> str:
        """What a reader should know of a window that nothing was done about."""
        return "; ".join(filter(None, (self.held_back_by, self.note)))


def judge(
    window: Window, reference: Reference, categorical: AbstractSet[str], policy: Policy
) -> Judgement:
    """Judge one window; too few rows give a note instead of a verdict."""
    rows_min = policy.window.rows_min
    rows = [r for r in window.results if r.features]
    scores = champion_scores(window, reference.version)
    columns: tuple[ColumnDrift, ...] = ()
    notes = []
    kinds = []
    if len(rows) < rows_min:
        notes.append(f"{len(rows)} of {rows_min} rows")
    else:
        columns = compare(
            reference.samples,
            input_columns(rows, reference.inputs),
            categorical=categorical,
            thresholds=policy.drift.inputs,
        )
        # One broken input is a person's business. It has drifted as well, so quiet windows are alarmed no more often.
        drifted = sum(c.drifted for c in columns)
        if drifted >= policy.drift.columns_min or any(c.broken for c in columns):
            kinds.append(AlertKind.DATA_DRIFT)
    if len(scores) >= rows_min:
        score = compare(
            {SCORE: reference.score_sample},
            {SCORE: scores},
            categorical=frozenset(),
            thresholds=policy.drift.score,
        )
        columns += score
        if score[0].drifted:
            kinds.append(AlertKind.PREDICTION_DRIFT)
    outcomes = _champion_outcomes(window, reference.version)
    if len(outcomes.labels) < rows_min:
        notes.append(f"{len(outcomes.labels)} of {rows_min} outcomes of {reference.version}")
    elif concept_drifted(outcomes, reference, policy):
        kinds.append(AlertKind.CONCEPT_DRIFT)
    return Judgement(
        rows=window.results_seen,
        version=reference.version,
        columns=columns,
        live=accuracy(outcomes.scores, outcomes.labels),
        kinds=tuple(kinds),
        note="; ".join(notes),
    )


def input_columns(rows: list[ResultRow], names: Iterable[str]) -> dict[str, Floats]:
    """Logged vectors by column; null and missing are NaN."""
    return {
        name: np.array([_number(r.features.get(name)) for r in rows], dtype=np.float64)
        for name in names
    }


def champion_scores(window: Window, version: str) -> Floats:
    """What the champion itself scored; rules and canaries score differently by design."""
    return np.array(
        [
            r.score
            for r in window.results
            if r.score is not None
            and r.status == Status.SCORED
            and r.route in _CHAMPIONS
            and r.version == version
        ],
        dtype=np.float64,
    )


def concept_drifted(outcomes: Outcomes, reference: Reference, policy: Policy) -> bool:
    """Whether the metrics fell below the held-out ones by more than tolerated and more than chance.

    Rows of one entity hang together, so what chance does is never taken for less than rows told apart by entity do.
    """
    scores, labels, _ = outcomes
    live = accuracy(scores, labels)
    if live.rows < 2:  # noqa: PLR2004 - a variance needs two
        return False
    z_min = float(stats.norm.isf(policy.drift.alpha))
    if live.auc is not None and reference.auc is not None:
        drop = reference.auc - live.auc
        held_out = auc_variance(reference.auc, reference.rows, reference.label_rate or 0.5)
        by_row = auc_variance(live.auc, live.rows, live.label_rate or 0.5)
        by_entity = auc_variance_by_entity(*outcomes)
        error = sqrt((max(by_row, by_entity) if isfinite(by_entity) else by_row) + held_out)
        if drop >= policy.drift.auc_drop_min and drop >= z_min * error:
            return True
    if live.log_loss is not None and reference.log_loss is not None:
        rise = live.log_loss - reference.log_loss
        losses = log_losses(scores, labels)
        held_out = float(losses.var(ddof=1)) / max(reference.rows, 1)
        error = sqrt(mean_variance(losses, outcomes.entities) + held_out)
        return rise >= policy.drift.log_loss_rise_min and rise >= z_min * error
    return False


def mean_variance(values: Floats, entities: Sequence[str]) -> float:
    """Variance of a mean whose rows hang together by entity; at least that of rows that do not."""
    by_row = float(values.var(ddof=1)) / len(values)
    _, of = np.unique(np.array(entities, dtype=str), return_inverse=True)
    sums = np.bincount(of, weights=values - values.mean())
    if len(sums) < 2:  # noqa: PLR2004 - a variance needs two
        return by_row
    by_entity = float((sums**2).sum()) * len(sums) / (len(sums) - 1) / len(values) ** 2
    return max(by_row, by_entity)


def auc_variance(auc: float, rows: int, label_rate: float) -> float:
    """Variance of an AUC estimate (Hanley & McNeil 1982)."""
    positives = max(rows * label_rate, 1.0)
    negatives = max(rows * (1 - label_rate), 1.0)
    q1 = auc / (2 - auc)
    q2 = 2 * auc**2 / (1 + auc)
    spread = auc * (1 - auc) + (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)
    return max(spread, 0.0) / (positives * negatives)


def _champion_outcomes(window: Window, version: str) -> Outcomes:
    rows = [
        (row.score, float(row.late), row.entity or row.request_id)
        for row in window.joined.values()
        if row.score is not None
        and row.status == Status.SCORED
        and row.route in _CHAMPIONS
        and row.version == version
    ]
    scores, labels = (np.array([row[i] for row in rows], dtype=np.float64) for i in (0, 1))
    return Outcomes(scores, labels, [row[2] for row in rows])


def _number(value: float | None) -> float:
    return nan if value is None else value
