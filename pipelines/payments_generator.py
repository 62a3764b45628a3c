"""A seeded stream of card payments whose fraud and whose drift are known: for load, faults, and tests of the loop.

Most payments are honest: a card pays at its own few merchants, by its own device, around its own usual amount. Rings of
fraudsters hold stolen cards, devices and merchants. Until the drift date a ring tries a card with small amounts within
minutes and then takes large ones; from that date on all prices are higher by `PRICE_SHIFT`, and rings go over to farming:
one device, many cards, one inconspicuous amount each. The same seed gives the same stream, on any machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.payments import CATEGORIES, COUNTRIES, RISK_TIERS, Chargeback, PaymentRequest

PRICE_SHIFT = 1.3
NO_RING = -1
DAY_MS = 86_400_000

_HONEST_MERCHANTS = 4  # that a card returns to
_DEVICE_SHARE = 0.5  # of honest payments that come from a known device
_TRIES = 8
_TAKES = 2
_BURST_ROWS = _TRIES + _TAKES
_RING_CARDS = 40
# What makes honest payments look like fraud: several within minutes, subscriptions of a few cents, a new television.
_AGAIN_SHARE, _SMALL_SHARE, _LARGE_SHARE = 0.15, 0.10, 0.03
_LARGE_TIMES = 12.0
_TAKE_CATEGORIES = [CATEGORIES.index("electronics"), CATEGORIES.index("gift")]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Rng = np.random.Generator


class Ring(NamedTuple):
    """Who works together: numbers of cards, devices and merchants, none of them in another ring."""

    cards: Ints
    devices: Ints
    merchants: Ints


@dataclass(frozen=True)
class World:
    """What is asked for.

    Attributes:
        seed: Decides everything.
        since_ms: The first instant.
        rows: The number of payments.
        rate_per_s: How many happen in a second of event time.
        drift_at_ms: From when on the world is another; None for never.
        fraud_share: The share of payments that are fraud.
        cards: The number of honest cards; merchants and devices go with it.
        rings: The number of rings.
    """

    seed: int
    since_ms: int
    rows: int
    rate_per_s: float = 10.0
    drift_at_ms: int | None = None
    fraud_share: float = 0.02
    cards: int = 2_000
    rings: int = 6

    @property
    def until_ms(self) -> int:
        """The instant after the last payment."""
        return self.since_ms + round(self.rows / self.rate_per_s * 1_000)

    def ring(self, number: int) -> Ring:
        """The members of a ring. Its cards are stolen and its merchants ordinary: both have honest payments too."""
        cards = np.arange(_RING_CARDS * number, _RING_CARDS * (number + 1)) % self.cards
        merchants = np.arange(3 * number, 3 * number + 3) % (self.cards // 10)
        return Ring(cards, self.cards + np.arange(4 * number, 4 * number + 4), merchants)


@dataclass(frozen=True)
class Payments:
    """Payments in the order of their times, one array a column, and the truth about each.

    Attributes:
        columns: Numbers of cards, merchants, devices (−1: none), categories, countries and tiers.
        event_time_ms: When.
        amount: How much, in cents' precision.
        ring: The ring behind it, `NO_RING` where it is honest.
    """

    world: World
    columns: dict[str, Ints]
    event_time_ms: Ints
    amount: Floats
    ring: Ints

    def __len__(self) -> int:
        return len(self.ring)

    @property
    def fraud(self) -> NDArray[np.bool_]:
        """The truth."""
        known: NDArray[np.bool_] = self.ring != NO_RING
        return known

    def rows(self, first: int = 0, last: int | None = None) -> Iterator[dict[str, Any]]:
        """Requests as the contract's fields."""
        names = list(self.columns)
        chosen = slice(first, last)
        numbers = zip(*(self.columns[name][chosen].tolist() for name in names), strict=True)
        times, amounts = self.event_time_ms[chosen].tolist(), self.amount[chosen].tolist()
        for index, (values, at_ms, amount) in enumerate(
            zip(numbers, times, amounts, strict=True), first
        ):
            row = dict(zip(names, values, strict=True))
            yield {
                "event_time_ms": at_ms,
                "request_id": f"p{self.world.seed}-{index}",
                "card_id": f"c{row['card']}",
                "merchant_id": f"m{row['merchant']}",
                "device_id": None if row["device"] < 0 else f"d{row['device']}",
                "tenant": f"bank{row['card'] % 3}",
                "category": CATEGORIES[row["category"]],
                "country": COUNTRIES[row["country"]],
                "currency": "EUR",
                "risk_tier": RISK_TIERS[row["tier"]],
                "amount": amount,
            }

    def requests(self, first: int = 0, last: int | None = None) -> Iterator[PaymentRequest]:
        """Requests as events."""
        for row in self.rows(first, last):
            yield PaymentRequest.model_validate(row)

    def outcomes(self) -> Iterator[Chargeback]:
        """What became of each: known after one to three days."""
        delays = np.random.default_rng(self.world.seed + 1).integers(DAY_MS, 3 * DAY_MS, len(self))
        times = (self.event_time_ms + delays).tolist()
        for index, (at_ms, fraud) in enumerate(zip(times, self.fraud.tolist(), strict=True)):
            name = f"p{self.world.seed}-{index}"
            yield Chargeback(event_time_ms=at_ms, request_id=name, late=fraud)


def generate(world: World) -> Payments:
    """All payments of a world: a million rows take some two seconds and 100 MB."""
    chance = np.random.default_rng(world.seed)
    bursts = round(world.rows * world.fraud_share / _BURST_ROWS)
    honest = _honest(world, chance, world.rows - bursts * _BURST_ROWS)
    dishonest = _bursts(world, chance, bursts)
    merged = {name: np.concatenate([honest[name], dishonest[name]]) for name in honest}
    order = np.argsort(merged["at_ms"], kind="stable")
    merged = {name: column[order] for name, column in merged.items()}
    at_ms, ring = merged.pop("at_ms").astype(np.int64), merged.pop("ring").astype(np.int64)
    amount = merged.pop("amount")
    if world.drift_at_ms is not None:
        amount = np.where(at_ms >= world.drift_at_ms, amount * PRICE_SHIFT, amount)
    amount = np.maximum(np.round(amount, 2), 0.01)
    columns = {name: column.astype(np.int64) for name, column in merged.items()}
    return Payments(world, columns, at_ms, amount, ring)


def _honest(world: World, chance: Rng, rows: int) -> dict[str, Floats | Ints]:
    card = chance.integers(0, world.cards, rows)
    at_ms = chance.integers(world.since_ms, world.until_ms, rows)
    again = round(rows * _AGAIN_SHARE)
    card[:again] = card[again : 2 * again]
    at_ms[:again] = at_ms[again : 2 * again] + chance.integers(5_000, 300_000, again)
    # A card's habits are functions of its number, so that they need no table.
    merchant = (card * 7 + chance.integers(0, _HONEST_MERCHANTS, rows) * 13) % (world.cards // 10)
    amount = (12.0 + (card * 37 % 60)) * chance.lognormal(0.0, 0.6, rows)
    kind = chance.random(rows)
    amount = np.where(kind < _SMALL_SHARE, chance.uniform(0.5, 6.0, rows), amount)
    amount = np.where(kind > 1 - _LARGE_SHARE, amount * _LARGE_TIMES, amount)
    return {
        "at_ms": np.minimum(at_ms, world.until_ms - 1),
        "amount": amount,
        "ring": np.full(rows, NO_RING),
        "card": card,
        "merchant": merchant,
        "device": np.where(chance.random(rows) < _DEVICE_SHARE, card, -1),
        "category": (merchant + chance.integers(0, 3, rows)) % len(CATEGORIES),
        "country": card % len(COUNTRIES),
        "tier": card % 10 // 5 + 2 * (card % 50 == 0),
    }


def _bursts(world: World, chance: Rng, bursts: int) -> dict[str, Floats | Ints]:
    """Every burst is `_BURST_ROWS` long, whatever its kind; `[bursts, rows]`, flattened."""
    shape = (bursts, _BURST_ROWS)
    # A burst lasts some minutes and must end within the world.
    start = chance.integers(
        world.since_ms, max(world.until_ms - 600_000, world.since_ms + 1), bursts
    )
    gaps = chance.integers(2_000, 20_000, shape)
    at_ms = np.minimum(start[:, None] + gaps.cumsum(axis=1), world.until_ms - 1)
    farming = start >= (world.drift_at_ms if world.drift_at_ms is not None else world.until_ms)
    ring = chance.integers(0, world.rings, bursts)
    members = [world.ring(number) for number in range(world.rings)]
    step = np.arange(_BURST_ROWS)
    taking = step >= _TRIES
    first = chance.integers(0, _RING_CARDS, bursts)
    # Tried cards are one a burst, farmed ones another at every payment.
    index = np.where(farming[:, None], first[:, None] + step, first[:, None]) % _RING_CARDS
    # A tried card's device is hidden as often as an honest one's; a farm has one.
    device = np.repeat(chance.integers(0, 4, bursts)[:, None], _BURST_ROWS, axis=1)
    hidden = ~farming[:, None] & (chance.random(shape) < _DEVICE_SHARE)
    merchant = chance.integers(0, 3, shape)
    card = _members([m.cards for m in members], ring, index)
    tried = np.where(taking, chance.uniform(150, 900, shape), chance.uniform(0.5, 5.0, shape))
    farmed = chance.uniform(40, 90, shape)
    category = np.where(
        taking, chance.choice(_TAKE_CATEGORIES, shape), chance.integers(0, 8, shape)
    )
    return {
        "at_ms": at_ms.ravel(),
        "amount": np.where(farming[:, None], farmed, tried).ravel(),
        "ring": np.repeat(ring, _BURST_ROWS),
        "card": card,
        "merchant": _members([m.merchants for m in members], ring, merchant),
        "device": np.where(
            hidden.ravel(), -1, _members([m.devices for m in members], ring, device)
        ),
        "category": category.ravel(),
        "country": card % len(COUNTRIES),
        "tier": card % 10 // 5 + 2 * (card % 50 == 0),
    }


def _members(of_ring: Sequence[Ints], ring: Ints, index: Ints) -> Ints:
    members: Ints = np.stack(of_ring)[ring[:, None], index].ravel()
    return members
