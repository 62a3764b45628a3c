"""Canary against champion on live traffic: promote, roll back, or look again later. Pure.

Harm is watched for continuously and benefit is not hunted for: admission has shown that the candidate is better on
held-out data, so the guard rolls back on evidence of harm and promotes at one planned last look without it.

At every look (always valid, `monitoring.sequential`): log-loss on joined outcomes, the rate of answers that were not
scored, and a distance between score distributions that no sound retraining explains. At the last look, once, after
`rows_decide` joined canary rows or `duration_max_ms`: fixed tests of log-loss and AUC. The alphas of all tests add up
to `GuardPolicy.alpha`, the bound on rolling back a canary that is as good as its champion (union bound).

Trap: requests of one entity stay in one arm (sticky split), so rows are not wholly independent, and the bound is nominal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from monitoring.accuracy import Accuracy, accuracy, log_losses
from monitoring.judgement import auc_variance
from monitoring.policy import GuardPolicy
from monitoring.sequential import Difference, always_valid_p, fixed_p
from monitoring.windows import JoinedRow, ResultRow
from schemas.control import Release, VerdictKind
from schemas.results import Route, Status

Floats = NDArray[np.float64]

# Scores that are compared per arm; more would only sharpen a distance that is far beyond sampling error already.
SCORES_MAX = 5_000
# Outcomes join behind the results; give them this part of the longest duration more before deciding without.
JOIN_PATIENCE = 0.25


@dataclass(frozen=True)
class Ruling:
    """A decision and its evidence."""

    verdict: VerdictKind
    reason: str
    champion_metrics: dict[str, float]
    canary_metrics: dict[str, float]
    rows: int


@dataclass
class Arm:
    """What one side of the split has answered, and what became of it."""

    answers: int = 0
    faults: int = 0
    scores: list[float] = field(default_factory=list)
    joined: dict[str, tuple[float, float]] = field(default_factory=dict)

    def answer(self, row: ResultRow) -> None:
        """Count one result."""
        self.answers += 1
        # An expired request came too late for either arm; it says nothing about the model.
        self.faults += row.status in (Status.FALLBACK, Status.REJECTED)
        if row.score is not None and row.status == Status.SCORED and len(self.scores) < SCORES_MAX:
            self.scores.append(row.score)

    def outcomes(self) -> tuple[Floats, Floats]:
        """Scores and labels of the joined rows."""
        table = np.array(list(self.joined.values()), dtype=np.float64).reshape(-1, 2)
        return table[:, 0], table[:, 1]

    def metrics(self) -> dict[str, float]:
        """For the verdict; what is not defined is left out."""
        live = accuracy(*self.outcomes())
        known = {name: value for name, value in live.metrics().items() if value is not None}
        rate = {"fault_rate": self.faults / self.answers} if self.answers else {}
        return {**known, **rate, "answers": float(self.answers), "joined": float(live.rows)}


class Trial:
    """One release epoch with a canary.

    Feed it every result and joined row of the epoch, in any order of the two topics; repeated joined rows are harmless,
    repeated results are not (readers of committed results see each once). An answer of the rule counts for the arm
    whose version it carries.
    """

    def __init__(self, release: Release, policy: GuardPolicy) -> None:
        if release.canary is None:
            raise ValueError(f"release epoch {release.epoch} has no canary to judge")
        self.release = release
        self._policy = policy
        self._arms = {release.champion: Arm(), release.canary: Arm()}
        self._champion = self._arms[release.champion]
        self._canary = self._arms[release.canary]
        self._results_ms = 0
        self._joined_ms = 0
        self._changed = False

    def add_result(self, row: ResultRow) -> None:
        """Count one result of this epoch."""
        self._results_ms = max(self._results_ms, row.event_time_ms)
        self._changed = True
        # Who helped out has no fault; those who were helped have.
        for version in row.failed or (row.version,):
            arm = self._arms.get(version)
            if arm is not None and row.route != Route.SHADOW:
                arm.answer(row)

    def add_joined(self, row: JoinedRow) -> None:
        """Count one joined row of this epoch; a repeat replaces the one before."""
        self._joined_ms = max(self._joined_ms, row.event_time_ms)
        self._changed = True
        arm = self._arms.get(row.version)
        scored = row.score is not None and row.status == Status.SCORED
        if arm is not None and scored and row.route in (Route.CHAMPION, Route.CANARY):
            arm.joined[row.request_id] = (float(row.score or 0.0), float(row.late))

    @property
    def clock_ms(self) -> int:
        """The stream's clock: the newest event of this epoch."""
        return max(self._results_ms, self.release.event_time_ms)

    def canary_progress(self) -> dict[str, int]:
        """How much the canary has to show so far."""
        return {"canary_answers": self._canary.answers, "canary_joined": len(self._canary.joined)}

    def look(self) -> Ruling | None:
        """Decide, or None to go on. Cheap when nothing was added since the last look."""
        if not self._changed:
            return None
        self._changed = False
        if harm := self._harm():
            return self._rule(VerdictKind.ROLL_BACK, harm)
        if len(self._canary.joined) >= self._policy.rows_decide or self._is_over():
            return self._last_look()
        return None

    def _harm(self) -> str | None:
        policy = self._policy
        canary, champion = self._canary, self._champion
        if canary.answers >= policy.rows_min:
            faults = Difference.of_rates(
                (canary.faults, canary.answers), (champion.faults, champion.answers)
            )
            p = always_valid_p(faults, policy.mixture_sd)
            if p <= policy.alpha_faults and faults.value >= policy.fault_rise_min:
                return f"unscored answers rose by {faults.value:.1%} (always-valid p {p:.2g})"
        if len(canary.scores) >= policy.rows_min and len(champion.scores) >= policy.rows_min:
            found = stats.ks_2samp(canary.scores, champion.scores, method="asymp")
            if found.statistic >= policy.score_distance_max:
                return f"scores are {found.statistic:.2f} apart from the champion's (KS distance)"
        if len(canary.joined) >= policy.rows_min:
            losses = self._loss_difference()
            p = always_valid_p(losses, policy.mixture_sd)
            if p <= policy.alpha_log_loss:
                return f"log-loss is {losses.value:.4f} worse (always-valid p {p:.2g})"
        return None

    def _last_look(self) -> Ruling:
        policy = self._policy
        rows = len(self._canary.joined)
        if rows < policy.rows_min or len(self._champion.joined) < policy.rows_min:
            return self._rule(
                VerdictKind.ROLL_BACK,
                f"only {rows} canary outcomes in the longest duration; {policy.rows_min} wanted",
            )
        losses = self._loss_difference()
        p = fixed_p(losses)
        if p <= policy.alpha_last_log_loss:
            reason = f"log-loss is {losses.value:.4f} worse at the last look (p {p:.2g})"
            return self._rule(VerdictKind.ROLL_BACK, reason)
        drop = self._auc_drop()
        p = fixed_p(drop)
        if p <= policy.alpha_last_auc:
            reason = f"AUC is {drop.value:.4f} worse at the last look (p {p:.2g})"
            return self._rule(VerdictKind.ROLL_BACK, reason)
        reason = f"no harm in {rows} outcomes: log-loss {losses.value:+.4f}, AUC {-drop.value:+.4f}"
        return self._rule(VerdictKind.PROMOTE, reason)

    def _is_over(self) -> bool:
        deadline_ms = self.release.event_time_ms + self._policy.duration_max_ms
        patience_ms = int(self._policy.duration_max_ms * JOIN_PATIENCE)
        return self._joined_ms >= deadline_ms or self._results_ms >= deadline_ms + patience_ms

    def _loss_difference(self) -> Difference:
        return Difference.of(
            log_losses(*self._canary.outcomes()), log_losses(*self._champion.outcomes())
        )

    def _auc_drop(self) -> Difference:
        champion, canary = (accuracy(*a.outcomes()) for a in (self._champion, self._canary))
        if champion.auc is None or canary.auc is None:
            return Difference(0.0, inf)
        return Difference(champion.auc - canary.auc, _variance(champion) + _variance(canary))

    def _rule(self, verdict: VerdictKind, reason: str) -> Ruling:
        return Ruling(
            verdict=verdict,
            reason=reason,
            champion_metrics=self._champion.metrics(),
            canary_metrics=self._canary.metrics(),
            rows=len(self._canary.joined),
        )


def _variance(found: Accuracy) -> float:
    return auc_variance(found.auc or 0.5, found.rows, found.label_rate or 0.5)
