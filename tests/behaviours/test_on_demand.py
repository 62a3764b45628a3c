"""On-demand views: the same values online, in the scorer's vectors, in training sets; and no code out of the registry."""

from __future__ import annotations

import math
import pickle
import sqlite3
import sys
from datetime import UTC, datetime
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureStore
from feast.protos.feast.core.OnDemandFeatureView_pb2 import (
    OnDemandFeatureView as OnDemandFeatureViewProto,
)

from features.batch import features_as_of
from features.causes import CAUSES
from features.feast_store import apply, feature_store, plan
from features.lake import Lake
from features.lake_schema import Coordinate, event_table, lake_schema
from features.on_demand_function import FunctionChanged
from features.parity import compare
from features.refusal import PlanRefused
from features.ring import RingFormat
from features.rings import Rings, entity_key
from features.tile_stream import TileStream
from features.vectors import VectorReader
from features.views import Plan
from schemas.events import Event, Id
from schemas.topics import standard_topics
from tests.conftest import stores_at

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from features.settings import StoreSettings

CASE, SERVICE = "demanded", "demanded_v1"
NOW_MS = datetime.now(tz=UTC).replace(microsecond=0).timestamp() * 1000 // 1
AT_MS = int(NOW_MS)
TEXT = Path(__file__).with_name("on_demand_lab.py").read_text()
FEATURES = [
    f"{view}__{name}"
    for view, name in (
        ("customer_orders", "n"),
        ("customer_orders", "usual"),
        ("ratings", "stars"),
        ("compared", "times_usual"),
        ("compared", "is_gold"),
        ("weighed", "root"),
    )
]


class Order(Event):
    id_field: ClassVar[str] = "order_id"
    key_field: ClassVar[str] = "customer"

    order_id: Id
    customer: str
    amount: float | None


class Question(Event):
    id_field: ClassVar[str] = "request_id"
    key_field: ClassVar[str] = "customer"

    request_id: Id
    customer: str
    amount: float | None
    tier: str | None


class Verdict(Event):
    id_field: ClassVar[str] = "request_id"
    key_field: ClassVar[str] = "request_id"

    request_id: Id
    late: bool


class Rating(Event):
    id_field: ClassVar[str] = "rating_id"
    key_field: ClassVar[str] = "customer"

    rating_id: Id
    customer: str
    stars: int


ORDERS = [
    Order(event_time_ms=AT_MS - 60_000 * i, order_id=f"o{i}", customer="ab"[i % 2], amount=10.0 + i)
    for i in range(12)
]
RATINGS = [Rating(event_time_ms=AT_MS - 5_000, rating_id="r1", customer="a", stars=4)]
# A customer whom nobody knows, and requests that lack what the functions read.
ASKED: dict[str, list[Any]] = {
    "customer": ["a", "b", "nobody", "a", "b"],
    "amount": [30.0, 0.0, 7.0, None, 1e9],
    "tier": ["gold", None, "silver", "gold", "gold"],
}


def define(folder: Path, text: str = TEXT) -> ModuleType:
    """Make `features.demanded` of a text, in a file of its own, as a use case's definitions are."""
    path = folder / f"{CASE}.py"
    path.write_text(text)
    spec = spec_from_file_location(f"features.{CASE}", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def lab(redis_url: str, tmp_path: Path) -> Iterator[StoreSettings]:
    contracts = ModuleType(f"schemas.{CASE}")
    contracts.__spec__ = ModuleSpec(contracts.__name__, loader=None)
    topics = standard_topics(
        CASE,
        request=Question,
        outcome=Verdict,
        streams={"orders": (Order, 1), "ratings": (Rating, 1)},
    )
    contracts.TOPICS = topics  # type: ignore[attr-defined]
    sys.modules[contracts.__name__] = contracts
    define(tmp_path)
    stores = stores_at(tmp_path, redis_url).model_copy(update={"project": "test_on_demand"})
    yield stores
    del sys.modules[f"features.{CASE}"], sys.modules[f"schemas.{CASE}"]
    rings = Rings(stores)
    for view in ("ratings",):
        rings.delete(view)


def coordinates(events: Sequence[Event]) -> list[Coordinate]:
    return [Coordinate(e.event_time_ms, "t", 0, i) for i, e in enumerate(events)]


@pytest.fixture
def store(lab: StoreSettings) -> FeatureStore:
    apply(CASE, lab)
    lake = Lake(lab)
    for table, contract, events in (
        ("demanded_orders", Order, ORDERS),
        ("demanded_ratings", Rating, RATINGS),
    ):
        rows = [e.model_dump() for e in events]
        lake.append(table, event_table(contract, rows, coordinates(events)))
    view = Plan.load(lab.plan_path).view("customer_orders")
    fmt, rings = RingFormat(view), Rings(lab)
    log = [o.model_dump() | {"ingest_ms": o.event_time_ms} for o in reversed(ORDERS)]
    for name in ("a", "b"):
        ring = fmt.empty()
        fmt.apply(ring, 0, [r for keys, r in TileStream(view).push_all(log) if keys == (name,)])
        rings.write([(view.versioned, entity_key([name]), ring.tobytes())])
    found = feature_store(lab)
    found.materialize(datetime.fromtimestamp(0, tz=UTC), datetime.now(tz=UTC), ["ratings"])
    return found


def vectors(lab: StoreSettings) -> np.ndarray:
    reader = VectorReader(lab, Plan.load(lab.plan_path), SERVICE)
    assert reader.request_columns == ("amount", "tier")
    found = reader.read(
        {"customer": ASKED["customer"]},
        np.full(5, AT_MS),
        request={n: ASKED[n] for n in reader.request_columns},
    )
    reader.close()
    assert found.views == ("customer_orders", "ratings")
    return found.values  # noqa: PD011


def expected() -> np.ndarray:
    rows = []
    for name, amount, tier in zip(*ASKED.values(), strict=True):
        mine = [o.amount for o in ORDERS if o.customer == name and o.amount is not None]
        usual = sum(mine) / len(mine) if mine else math.nan
        given = math.nan if amount is None else amount
        stars = 4.0 if name == "a" else math.nan
        rows.append(
            [
                float(len(mine)),
                usual,
                stars,
                np.minimum(given / usual, 1_000.0) * len(mine),
                float(tier == "gold"),
                math.sqrt(abs(given)) * stars,
            ]
        )
    return np.array(rows)


def test_values_are_the_same_in_every_executor(lab: StoreSettings, store: FeatureStore) -> None:
    wanted = expected()
    np.testing.assert_allclose(vectors(lab), wanted, rtol=1e-12)

    plan_now = Plan.load(lab.plan_path)
    entities = pa.table({**ASKED, "event_time_ms": pa.array([AT_MS] * 5, pa.int64())})
    batch = features_as_of(plan_now, SERVICE, Lake(lab), entities)
    np.testing.assert_allclose(matrix(batch.to_pandas(), FEATURES), wanted, rtol=1e-12)

    frame = pd.DataFrame(ASKED)
    frame["event_timestamp"] = datetime.fromtimestamp(AT_MS / 1000, tz=UTC)
    service = store.get_feature_service(SERVICE)
    history = store.get_historical_features(frame, service, full_feature_names=True).to_df()
    np.testing.assert_allclose(matrix(history, FEATURES), wanted, rtol=1e-12)

    rows = [dict(zip(ASKED, row, strict=True)) for row in zip(*ASKED.values(), strict=True)]
    online = store.get_online_features(service, rows, full_feature_names=True).to_dict()
    np.testing.assert_allclose(matrix(pd.DataFrame(online), FEATURES), wanted, rtol=1e-12)
    # One row alone, all of it null, as an interactive read may be.
    alone = store.get_online_features(service, [rows[2]], full_feature_names=True).to_dict()
    np.testing.assert_allclose(matrix(pd.DataFrame(alone), FEATURES), wanted[2:3], rtol=1e-12)


def matrix(frame: pd.DataFrame, names: list[str]) -> np.ndarray:
    return np.column_stack([pd.to_numeric(frame[name]).to_numpy(dtype=float) for name in names])


def test_features_named_one_by_one(lab: StoreSettings, store: FeatureStore) -> None:
    row = {"customer": "a", "amount": 30.0, "tier": "gold"}
    found = store.get_online_features(["compared:times_usual"], [row]).to_dict()
    np.testing.assert_allclose(found["times_usual"], expected()[0, 3])
    assert "is_gold" not in found


BOMB = "import sys\nsys.modules['exploded'] = sys\n"


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return exec, (BOMB,)


def test_nothing_out_of_the_registry_is_run(lab: StoreSettings, store: FeatureStore) -> None:
    """A registry that somebody else may write must not become code here."""
    path = lab.registry_uri.removeprefix("sqlite:///")
    with sqlite3.connect(path) as held:
        rows = held.execute(
            "SELECT feature_view_name, feature_view_proto FROM on_demand_feature_views"
        ).fetchall()
        assert len(rows) == 2
        for name, packed in rows:
            proto = OnDemandFeatureViewProto.FromString(packed)
            function = proto.spec.feature_transformation.user_defined_function
            assert not function.body
            assert f"def {name}" in function.body_text
            function.body = pickle.dumps(Bomb())
            function.body_text = BOMB + "def f(x): return x\n"
            held.execute(
                "UPDATE on_demand_feature_views SET feature_view_proto = ? WHERE feature_view_name = ?",
                (proto.SerializeToString(), name),
            )
    opened = feature_store(lab)
    row = {"customer": "a", "amount": 30.0, "tier": "gold"}
    service = opened.get_feature_service(SERVICE)
    found = opened.get_online_features(service, [row]).to_dict()
    np.testing.assert_allclose(found["times_usual"], expected()[0, 3])
    opened.list_all_feature_views()
    opened.list_on_demand_feature_views()
    opened.get_on_demand_feature_view("compared")
    assert "exploded" not in sys.modules
    # Feast's own registry does run it.
    FeatureStore(config=opened.config).list_on_demand_feature_views()
    assert sys.modules.pop("exploded", None)
    apply(CASE, lab)
    assert "exploded" not in sys.modules


def test_a_changed_function_is_another_definition(
    lab: StoreSettings, store: FeatureStore, tmp_path: Path
) -> None:
    before = Plan.load(lab.plan_path)
    define(tmp_path, TEXT.replace('"""The amount asked for, in what is usual."""', "# as it is"))
    assert plan(CASE, lab)[1].changed == ()
    define(tmp_path, TEXT.replace("LIMIT = 1_000.0", "LIMIT = 500.0"))
    changes = plan(CASE, lab)[1]
    assert changes.changed == ("service demanded_v1", "view compared")
    with pytest.raises(FunctionChanged, match="compared"):
        VectorReader(lab, before, SERVICE)
    apply(CASE, lab)
    after = Plan.load(lab.plan_path)
    assert before.service_fingerprint(SERVICE) != after.service_fingerprint(SERVICE)
    assert (
        before.definitions(SERVICE)["customer_orders"]
        == after.definitions(SERVICE)["customer_orders"]
    )
    VectorReader(lab, after, SERVICE).close()
    capped = store.get_online_features(
        ["compared:times_usual"], [{"customer": "a", "amount": 1e9, "tier": None}]
    ).to_dict()
    assert capped["times_usual"] == [500.0 * 6]


def test_a_row_that_a_function_fails_on_does_not_take_the_others(
    lab: StoreSettings, tmp_path: Path
) -> None:
    define(
        tmp_path,
        TEXT.replace("math.sqrt(abs(amount))", "math.sqrt(amount if amount > -5 else amount)"),
    )
    apply(CASE, lab)
    reader = VectorReader(lab, Plan.load(lab.plan_path), SERVICE)
    Rings(lab).delete("ratings")
    feature_store(lab).write_to_online_store(
        "ratings",
        pd.DataFrame({"customer": ["a"], "stars": [2], "event_time": [datetime.now(tz=UTC)]}),
    )
    found = reader.read(
        {"customer": ["a", "a"]},
        np.full(2, AT_MS + 10_000),
        request={"amount": [-9.0, 9.0], "tier": [None, None]},
    )
    root = found.values[:, FEATURES.index("weighed__root")]  # noqa: PD011
    assert math.isnan(root[0])
    assert root[1] == 6.0
    reader.close()


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (
            "sources=[ratings, asked]",
            'sources=[ratings, RequestSource(name="x", schema=[Field(name="colour", dtype=String)])]',
            "'colour'",
        ),
        (
            'Field(name="amount", dtype=Float64)',
            'Field(name="amount", dtype=String)',
            "types of the requests' contract",
        ),
        (
            'Field(name="root", dtype=Float64)',
            'Field(name="root", dtype=String)',
            "features of Float64",
        ),
        ('mode="python"\n', 'mode="python", singleton=True\n', "it has singleton"),
        (
            'mode="python"\n',
            'mode="python", write_to_online_store=True, entities=[customer]\n',
            "it has write_to_online_store",
        ),
        ("LIMIT = 1_000.0", "LIMIT = object()", "'LIMIT'"),
        ("None if stars is None or amount is None else", "", "sample rows"),
        ("values.clip(upper=LIMIT)", "values - values.mean()", "when the row stands alone"),
        (
            "values.clip(upper=LIMIT)",
            "values.sample(frac=1.0).to_numpy() + values * 0",
            "at the second call",
        ),
        (
            "features=[customer_orders, ratings, compared, weighed]",
            "features=[customer_orders, compared, weighed]",
            "ratings:stars is not",
        ),
        (
            "features=[customer_orders, ratings, compared, weighed]",
            'features=[customer_orders, ratings, weighed[["root"]], compared.with_name("x")]',
            "renamed",
        ),
        ('"root": [', '"roots": [', "sample rows"),
    ],
)
def test_what_cannot_run_is_refused_at_its_line(
    lab: StoreSettings, tmp_path: Path, old: str, new: str, reason: str
) -> None:
    assert old in TEXT
    define(tmp_path, TEXT.replace(old, new))
    with pytest.raises(PlanRefused) as refused:
        plan(CASE, lab)
    mine = [r for r in refused.value.refusals if reason in str(r)]
    assert mine, refused.value.refusals
    assert all(r.at.startswith(str(Path(tmp_path.name) / f"{CASE}.py:")) for r in mine)


def test_the_lab_has_the_contract(lab: StoreSettings) -> None:
    assert "amount" in lake_schema(Question).names


def served(lab: StoreSettings) -> pa.Table:
    """What was served a second ago: vectors, the requests they answer, and when they were read."""
    values = vectors(lab)
    columns = {name: pa.array(values[:, i]) for i, name in enumerate(FEATURES)}
    times = {"event_time_ms": [AT_MS] * 5, "read_at_ms": [AT_MS + 1_000] * 5}
    return pa.table({"request_id": [f"q{i}" for i in range(5)], **ASKED, **times, **columns})


def test_parity_recomputes_rows_and_what_is_made(lab: StoreSettings, store: FeatureStore) -> None:
    plan_now, lake = Plan.load(lab.plan_path), Lake(lab)
    report = compare(plan_now, SERVICE, served(lab), lake)
    assert report.counts() == {"compared": 30, "equal": 30} | dict.fromkeys(CAUSES[1:], 0)


def test_parity_tells_a_row_that_came_late_from_a_wrong_function(
    lab: StoreSettings, store: FeatureStore
) -> None:
    plan_now, lake = Plan.load(lab.plan_path), Lake(lab)
    before = served(lab)
    late = Rating(event_time_ms=AT_MS - 1, rating_id="r2", customer="a", stars=1)
    where = [Coordinate(AT_MS + 60_000, "t", 0, 9)]
    lake.append("demanded_ratings", event_table(Rating, [late.model_dump()], where))
    report = compare(plan_now, SERVICE, before, lake)
    assert report.by_feature["ratings__stars"]["late"] == 2
    assert report.by_feature["weighed__root"]["late"] == 1
    assert report.unexplained == 0
    wrong = pa.array([0.25] * 5)
    forged = before.set_column(before.column_names.index("weighed__root"), "weighed__root", wrong)
    assert compare(plan_now, SERVICE, forged, lake).by_feature["weighed__root"]["unexplained"] == 5
