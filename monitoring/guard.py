"""Canary against champion on live traffic: promote, roll back, or look again later. Pure.

Harm is watched for continuously and benefit is not hunted for: admission has shown that the candidate is better on
held-out data, so the guard rolls back on evidence of harm and promotes at one planned last look without it.

At every look (always valid, `monitoring.sequential`): log-loss on joined outcomes, the rates of answers that were not scored
and of those whose model was slow, and a distance between score distributions that no sound retraining explains. At the last look, once, after
`rows_decide` joined canary rows or `duration_max_ms`: fixed tests of log-loss and AUC. The alphas of all tests add up
to `GuardPolicy.alpha`, the bound on rolling back a canary that is as good as its champion (union bound).

Only what the split decided is compared: answers that a pin or a routing rule assigned are passed by, for their requests are of
another kind.

Requests of one entity stay in one arm (sticky split) and hang together, so every variance is taken over entities, not rows.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import inf

import numpy as np
from numpy.typing import NDArray

from monitoring.accuracy import accuracy, auc_variance_by_entity, log_loss
from monitoring.policy import GuardPolicy
from monitoring.sequential import Difference, Moments, always_valid_p, fixed_p
from monitoring.windows import JoinedRow, ResultRow
from schemas.control import Release, VerdictKind
from schemas.requirements import Accuracy as Requirement
from schemas.results import PINNED, ROUTED, Route, Status

Floats = NDArray[np.float64]

# The newest scores that are compared per arm; more would only sharpen a distance that is far beyond sampling error already.
SCORES_MAX = 5_000
# Outcomes join behind the results; give them this part of the longest duration more before deciding without.
JOIN_PATIENCE = 0.25
# How a result says that the split chose the canary and a replica could not load it.
REFUSED = f"{Route.CANARY}_refused"


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

    faults: Moments = field(default_factory=Moments)
    slow: Moments = field(default_factory=Moments)
    predict_ms: float = 0.0
    scores: deque[float] = field(default_factory=lambda: deque(maxlen=SCORES_MAX))
    joined: dict[str, tuple[float, bool, str]] = field(default_factory=dict)
    losses: Moments = field(default_factory=Moments)

    @property
    def answers(self) -> int:
        """How many."""
        return self.faults.rows

    def answer(self, row: ResultRow, *, slow_ms: float, faulty: bool = False) -> None:
        """Count one result."""
        entity = row.entity or row.request_id
        # An expired request came too late for either arm; it says nothing about the model.
        faulty = faulty or row.status in (Status.FALLBACK, Status.REJECTED)
        self.faults.add(float(faulty), entity)
        predict_us = row.timings_us.get("predict")
        # Where this version failed, the time is that of another.
        if predict_us is not None and not faulty:
            self.predict_ms += predict_us / 1000
            self.slow.add(float(predict_us > slow_ms * 1000), entity)
        if row.score is not None and row.status == Status.SCORED:
            self.scores.append(row.score)

    def join(self, row: JoinedRow) -> None:
        """Count one outcome; of several of one request the first."""
        if row.request_id in self.joined:
            return
        score, entity = float(row.score or 0.0), row.entity or row.request_id
        self.joined[row.request_id] = score, row.late, entity
        self.losses.add(log_loss(score, label=row.late), entity)

    @property
    def predict_ms_mean(self) -> float:
        """Of the answers that say how long their model took."""
        return self.predict_ms / max(self.slow.rows, 1)

    def outcomes(self) -> tuple[Floats, Floats]:
        """Scores and labels of the joined rows."""
        rows = [(score, late) for score, late, _ in self.joined.values()]
        table = np.array(rows, dtype=np.float64).reshape(-1, 2)
        return table[:, 0], table[:, 1]

    def auc_variance(self) -> float:
        """Over entities."""
        return auc_variance_by_entity(*self.outcomes(), [of for *_, of in self.joined.values()])

    def metrics(self) -> dict[str, float]:
        """For the verdict; what is not defined is left out."""
        live = accuracy(*self.outcomes())
        known = {name: value for name, value in live.metrics().items() if value is not None}
        if self.answers:
            known["fault_rate"] = self.faults.mean
        if self.slow.rows:
            known["slow_rate"] = self.slow.mean
            known["predict_ms"] = self.predict_ms_mean
        if self.scores:
            known["score"] = float(np.mean(self.scores))
        return {**known, "answers": float(self.answers), "joined": float(live.rows)}


class Trial:
    """One canary beside one champion, from the release that began it on.

    Feed it every result and joined row of its epochs, in any order of the two topics; repeated joined rows are harmless,
    repeated results are not (readers of committed results see each once). An answer counts for the version that was asked
    first, whoever gave it then: another model, or the rule. `floor` is what a canary must reach beside a suspended champion.
    """

    def __init__(
        self, release: Release, policy: GuardPolicy, floor: Requirement | None = None
    ) -> None:
        if release.canary is None:
            raise ValueError(f"release epoch {release.epoch} has no canary to judge")
        self.release = release
        self._policy = policy
        self._floor = floor
        self._arms = {release.champion: Arm(), release.canary: Arm()}
        self._champion = self._arms[release.champion]
        self._canary = self._arms[release.canary]
        # What no answer exceeds, where time is not looked at.
        self._slow_ms = inf if policy.slow_ms is None else policy.slow_ms
        self._results_ms = 0
        self._joined_ms = 0
        self._changed = False

    def goes_on(self, release: Release) -> bool:
        """Whether a later release leaves the comparison as it is: it pins a key, or changes the shadow."""
        mine = self.release
        return (
            (mine.champion, mine.canary) == (release.champion, release.canary)
            and (mine.canary_share, mine.salt) == (release.canary_share, release.salt)
            and (mine.rules, mine.suspended) == (release.rules, release.suspended)
        )

    def add_result(self, row: ResultRow) -> None:
        """Count one result of these epochs."""
        self._results_ms = max(self._results_ms, row.event_time_ms)
        self._changed = True
        if row.route in (Route.SHADOW, Route.ASSIGNED) or _has(row, PINNED, ROUTED):
            return
        if row.route == Route.CHAMPION and _has(row, REFUSED):
            self._canary.answer(row, slow_ms=self._slow_ms, faulty=True)
        elif (arm := self._arms.get(row.failed[0] if row.failed else row.version)) is not None:
            arm.answer(row, slow_ms=self._slow_ms, faulty=bool(row.failed))

    def add_joined(self, row: JoinedRow) -> None:
        """Count one joined row of these epochs; of several of one request the first counts."""
        self._joined_ms = max(self._joined_ms, row.event_time_ms)
        self._changed = True
        arm = self._arms.get(row.version)
        scored = row.score is not None and row.status == Status.SCORED
        if arm is not None and scored and row.route in (Route.CHAMPION, Route.CANARY):
            arm.join(row)

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
        return self._faults() or self._slowness() or self._scores_apart() or self._worse()

    def _faults(self) -> str | None:
        policy, canary, champion = self._policy, self._canary, self._champion
        if canary.answers < policy.answers_min:
            return None
        rise = Difference.of_marks(canary.faults, champion.faults)
        p = always_valid_p(rise, policy.mixture_sd)
        if p <= policy.alpha_faults and rise.value >= policy.fault_rise_min:
            return f"unscored answers rose by {rise.value:.1%} (always-valid p {p:.2g})"
        return None

    def _slowness(self) -> str | None:
        policy, canary, champion = self._policy, self._canary, self._champion
        timed = min(canary.slow.rows, champion.slow.rows)
        if policy.slow_ms is None or timed < policy.answers_min:
            return None
        rise = Difference.of_marks(canary.slow, champion.slow)
        p = always_valid_p(rise, policy.mixture_sd)
        if p <= policy.alpha_slow and rise.value >= policy.slow_rise_min:
            return (
                f"answers that took the model over {policy.slow_ms:g} ms rose by {rise.value:.1%} "
                f"(mean {canary.predict_ms_mean:.1f} ms against {champion.predict_ms_mean:.1f}; "
                f"always-valid p {p:.2g})"
            )
        return None

    def _scores_apart(self) -> str | None:
        policy, canary, champion = self._policy, self._canary, self._champion
        if min(len(canary.scores), len(champion.scores)) < policy.answers_min:
            return None
        distance = ks_distance(np.array(canary.scores), np.array(champion.scores))
        if distance >= policy.score_distance_max:
            return f"scores are {distance:.2f} apart from the champion's (KS distance)"
        return None

    def _worse(self) -> str | None:
        policy = self._policy
        if len(self._canary.joined) < policy.rows_min:
            return None
        losses = self._loss_difference()
        p = always_valid_p(losses, policy.mixture_sd)
        if p <= policy.alpha_log_loss:
            return f"log-loss is {losses.value:.4f} worse (always-valid p {p:.2g})"
        return None

    def _last_look(self) -> Ruling:
        policy = self._policy
        rows = len(self._canary.joined)
        if self.release.suspended and rows >= policy.rows_min:
            return self._against_the_floor()
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

    def _against_the_floor(self) -> Ruling:
        """Beside a champion that is not asked there is nothing to compare with but what was signed off."""
        live = accuracy(*self._canary.outcomes())
        value = None if self._floor is None else live.metrics()[self._floor.metric]
        if self._floor is None or value is None:
            why = "the champion is suspended, and no floor tells what the canary is worth"
            return self._rule(VerdictKind.ROLL_BACK, why)
        met = self._floor.met_by(value)
        said = f"{self._floor.metric} {value:.4f} on {live.rows} outcomes"
        reason = f"the champion is suspended; {said} against the floor of {self._floor.value:g}"
        return self._rule(VerdictKind.PROMOTE if met else VerdictKind.ROLL_BACK, reason)

    def _is_over(self) -> bool:
        deadline_ms = self.release.event_time_ms + self._policy.duration_max_ms
        patience_ms = int(self._policy.duration_max_ms * JOIN_PATIENCE)
        return self._joined_ms >= deadline_ms or self._results_ms >= deadline_ms + patience_ms

    def _loss_difference(self) -> Difference:
        return Difference.of_means(self._canary.losses, self._champion.losses)

    def _auc_drop(self) -> Difference:
        champion, canary = (accuracy(*a.outcomes()) for a in (self._champion, self._canary))
        if champion.auc is None or canary.auc is None:
            return Difference(0.0, inf)
        variance = self._champion.auc_variance() + self._canary.auc_variance()
        return Difference(champion.auc - canary.auc, variance)

    def _rule(self, verdict: VerdictKind, reason: str) -> Ruling:
        return Ruling(
            verdict=verdict,
            reason=reason,
            champion_metrics=self._champion.metrics(),
            canary_metrics=self._canary.metrics(),
            rows=len(self._canary.joined),
        )


def ks_distance(one: Floats, other: Floats) -> float:
    """The greatest difference of two empirical distributions; `scipy.stats.ks_2samp` without its p-value, which costs most."""
    places = np.concatenate([one, other])
    below = [np.searchsorted(np.sort(s), places, side="right") / len(s) for s in (one, other)]
    return float(np.abs(below[0] - below[1]).max())


def _has(row: ResultRow, *marks: str) -> bool:
    return any(reason.startswith(marks) for reason in row.reasons)
