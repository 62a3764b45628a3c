"""Canaries that are their champion, through the real guard: how many are rolled back? `python -m tests.monitoring.a_against_a --runs 200`.

Payments-like traffic: cards pay unequally often and stay in one arm by the platform's own split; the model does not know all of
what makes a card fraudulent, so that its errors hang together by card; stalls and outages hit both arms at once; outcomes come
late. The score of both arms is the same function of the payment, so every roll-back is a false one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from monitoring.guard import Ruling, Trial
from monitoring.payments import POLICY
from monitoring.policy import GuardPolicy
from monitoring.windows import JoinedRow, ResultRow
from schemas.control import Release, VerdictKind
from schemas.results import Route
from serving.releases import ReleaseState
from tests.monitoring import rig

CANARY = "v2"
CARDS = 20_000
BATCH_ROWS = 10
RATE_PER_S = 500
STALL_CHANCE = 0.005
OUTAGE_CHANCE = 0.001
FALLBACK_CHANCE = 0.003
ROWS_MAX = 400_000
# A chargeback takes days and a run does not: the order is what matters.
LATE_BY_ROWS = 2_000


def same(row: ResultRow) -> ResultRow:
    """A canary that is its champion."""
    return row


def ruling_of(
    seed: int,
    *,
    policy: GuardPolicy = POLICY.guard,
    share: float = 0.05,
    look_rows: int = 100,
    harm: Callable[[ResultRow], ResultRow] = same,
    rows: int = ROWS_MAX,
) -> Ruling:
    """One trial, looked at after every `look_rows` answers; `harm` is what becomes of a canary's answer."""
    trial = Trial(_release(seed, share), policy)
    waiting: list[JoinedRow] = []
    for index, (result, joined) in enumerate(_traffic(seed, share, rows)):
        trial.add_result(harm(result) if result.version == CANARY else result)
        waiting.append(joined)
        if index >= LATE_BY_ROWS:
            trial.add_joined(waiting[index - LATE_BY_ROWS])
        if index % look_rows == 0 and (ruling := trial.look()) is not None:
            return ruling
    raise AssertionError(f"no decision within {rows} answers")


def _release(seed: int, share: float) -> Release:
    return rig.release("c", epoch=2, canary=CANARY).model_copy(
        update={"canary_share": share, "salt": f"run{seed}"}
    )


def _traffic(seed: int, share: float, rows: int) -> Iterator[tuple[ResultRow, JoinedRow]]:
    dice = np.random.default_rng(seed)
    state = ReleaseState("c", _release(seed, share))
    on_canary = [a.route is Route.CANARY for a in state.arms([f"card{n}" for n in range(CARDS)])]
    known, unknown = dice.normal(0, 1.0, CARDS), dice.normal(0, 0.7, CARDS)
    activity = dice.lognormal(0, 1.0, CARDS)
    cards = dice.choice(CARDS, rows, p=activity / activity.sum())
    of_payment = dice.normal(0, 1.0, rows)
    scores = _sigmoid(-3.5 + known[cards] + of_payment)
    frauds = dice.random(rows) < _sigmoid(-3.5 + known[cards] + unknown[cards] + of_payment)
    batches = rows // BATCH_ROWS
    took_us = dice.lognormal(np.log(300), 0.5, (batches, 2))
    took_us[dice.random(batches) < STALL_CHANCE] += 50_000
    out = dice.random(batches) < OUTAGE_CHANCE
    failed = dice.random(rows) < FALLBACK_CHANCE
    for index, (card, score, fraud) in enumerate(
        zip(cards.tolist(), scores.tolist(), frauds.tolist(), strict=True)
    ):
        arm = on_canary[card]
        batch = index // BATCH_ROWS
        fell = bool(out[batch] or failed[index])
        status, version = "fallback" if fell else "scored", CANARY if arm else "v1"
        route = "rule" if fell else "canary" if arm else "champion"
        at_ms = rig.T0_MS + index * 1_000 // RATE_PER_S
        name, timings = str(index), {"predict": int(took_us[batch, int(arm)])}
        yield (
            ResultRow(
                at_ms,
                name,
                status,
                score,
                version,
                route,
                2,
                {},
                timings_us=timings,
                entity=str(card),
            ),
            JoinedRow(at_ms, name, status, score, version, route, 2, fraud, entity=str(card)),
        )


def _sigmoid(
    logit: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return 1 / (1 + np.exp(-logit))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()
    rulings = [ruling_of(seed) for seed in range(arguments.first, arguments.first + arguments.runs)]
    false = [r for r in rulings if r.verdict == VerdictKind.ROLL_BACK]
    told = {
        "runs": len(rulings),
        "rolled_back": len(false),
        "rate": len(false) / len(rulings),
        "nominal": POLICY.guard.alpha,
        "answers_of_the_canary": float(np.mean([r.canary_metrics["answers"] for r in rulings])),
        "reasons": Counter(r.reason.split(" ", 1)[0] for r in false),
        "wall_s": round(time.monotonic() - began, 1),
    }
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
