"""Five weeks of generated payments in a lake, under the definitions that ship, so that a fraud model can be trained."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from features.compiled_plan import compiled_plan
from features.lake import Lake
from features.lake_schema import Coordinate, event_table, lake_schema
from features.settings import StoreSettings
from features.views import Plan
from pipelines.payments_generator import World, generate
from schemas.payments import Chargeback, PaymentRequest
from tests.conftest import stores_at

CASE = "payments"
SINCE_MS = int(datetime(2026, 1, 5, tzinfo=UTC).timestamp() * 1000)
DAYS, ROWS = 35, 12_000
WORLD = World(seed=45, since_ms=SINCE_MS, rows=ROWS, rate_per_s=ROWS / DAYS / 86_400, cards=500)
UNTIL_MS = WORLD.until_ms


@cache
def plan() -> Plan:
    """What `features/payments.py` says; compiling takes Feast's ten seconds, so once a process."""
    with TemporaryDirectory() as folder:
        return compiled_plan(CASE, Path(folder) / "plan.json")


def lake(folder: Path) -> StoreSettings:
    """Stores under `folder` whose lake holds the payments and what became of them; no Redis."""
    stores = stores_at(folder, "redis://127.0.0.1:1/0")
    plan().save(stores.plan_path)
    write(stores, WORLD)
    return stores


def write(stores: StoreSettings, world: World) -> None:
    """Append a world to the lake, as if each event had been received when it happened."""
    made = generate(world)
    requests = [request.model_dump() for request in made.requests()]
    outcomes = [outcome.model_dump() for outcome in made.outcomes()]
    store = Lake(stores)
    for table, contract, rows in (
        (f"{CASE}_requests", PaymentRequest, requests),
        (f"{CASE}_outcomes", Chargeback, outcomes),
    ):
        store.create(table, lake_schema(contract))
        received = [Coordinate(row["event_time_ms"]) for row in rows]
        store.append(table, event_table(contract, rows, received))
