"""Three weeks of real flights in a lake, and a plan small enough to train on them in a second."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from features.settings import StoreSettings
from features.views import Aggregate, JoinKey, Plan, Service, View
from infra.demo import history, lake_history
from tests.conftest import stores_at

SINCE_MS = history.midnight_ms(date(2013, 1, 1))
UNTIL_MS = history.midnight_ms(date(2013, 1, 22))


def plan() -> Plan:
    """Delays by origin and by aircraft."""
    origin = _view("origin_departures", "origin", ("mean", 10_800, 300), ("count", 10_800, 300))
    aircraft = _view("aircraft_departures", "tailnum", ("last", 86_400, 1_800))
    features = tuple((v.name, a.name) for v in (origin, aircraft) for a in v.aggregates)
    return Plan(views=(origin, aircraft), services=(Service("flights_v1", features),))


def lake(folder: Path) -> StoreSettings:
    """Stores under `folder` whose lake holds the three weeks; no Redis."""
    stores = stores_at(folder, "redis://127.0.0.1:1/0")
    lake_history.write_history(stores, date(2013, 1, 1), date(2013, 1, 22))
    plan().save(stores.plan_path)
    return stores


def _view(name: str, key: str, *aggregates: tuple[str, int, int]) -> View:
    return View(
        name=name,
        topic="flights.departures.valid",
        table="flights_departures",
        event_id_field="event_id",
        join_keys=(JoinKey(key),),
        columns={"event_id": "string", key: "string", "dep_delay": "double"},
        aggregates=tuple(
            Aggregate(f"{function}_dep_delay", "dep_delay", function, window_s, hop_s)  # type: ignore[arg-type]
            for function, window_s, hop_s in aggregates
        ),
    )
