from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipelines.payments_generator import PRICE_SHIFT, World, generate
from schemas.decoding import decode
from schemas.payments import PaymentRequest

SINCE_MS = 1_760_000_000_000
WORLD = World(seed=3, since_ms=SINCE_MS, rows=40_000, drift_at_ms=SINCE_MS + 2_000_000)


def test_the_seed_decides_everything() -> None:
    first, again, other = (
        list(generate(World(seed, SINCE_MS, 2_000)).rows()) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_every_payment_keeps_the_contract_and_has_its_own_id() -> None:
    payments = generate(World(5, SINCE_MS, 1_000))
    requests = list(payments.requests())
    assert len({r.request_id for r in requests}) == 1_000
    assert all(a.event_time_ms <= b.event_time_ms for a, b in itertools.pairwise(requests))
    judged = [decode(PaymentRequest, r.encode(), r.event_time_ms) for r in requests]
    assert judged == requests
    assert len(payments) == 1_000


def test_rings_work_alone_and_change_their_ways_at_the_drift() -> None:
    payments = generate(WORLD)
    assert payments.fraud.mean() == pytest.approx(WORLD.fraud_share, rel=0.01)
    card = payments.columns["card"]
    assert set(card[payments.fraud]) < set(card[~payments.fraud])
    for number in range(WORLD.rings):
        assert set(card[payments.ring == number]) <= set(WORLD.ring(number).cards)

    drift_ms = WORLD.drift_at_ms or 0
    after = payments.event_time_ms >= drift_ms + 200_000
    before = payments.event_time_ms < drift_ms
    honest = ~payments.fraud
    shift = np.median(payments.amount[honest & after]) / np.median(payments.amount[honest & before])
    assert shift == pytest.approx(PRICE_SHIFT, rel=0.05)
    small = payments.amount < 5
    assert small[payments.fraud & before].mean() > 0.7
    assert small[payments.fraud & after].mean() == 0


def test_the_truth_comes_days_later() -> None:
    payments = generate(World(5, SINCE_MS, 1_000))
    outcomes = list(payments.outcomes())
    assert [o.late for o in outcomes] == payments.fraud.tolist()
    delays = [
        o.event_time_ms - r.event_time_ms
        for o, r in zip(outcomes, payments.requests(), strict=True)
    ]
    assert 86_400_000 <= min(delays) <= max(delays) < 3 * 86_400_000
