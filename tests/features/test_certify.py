"""Every executor agrees with every other on hostile streams, and one that is broken does not pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from features import batch, tiles
from features.certify import Verdict, certify, in_process
from features.hostile import stream
from features.views import Aggregate, JoinKey, RowSql, View
from tests.features.readings import VIEW

SEEDS = range(6)
WITH_SQL: View = msgspec.structs.replace(
    VIEW,
    name="warm_readings",
    columns={"sensor": "string", "warm": "double", "event_id": "string"},
    aggregates=(
        Aggregate("warm_sum_5m", "warm", "sum", 300, 60),
        Aggregate("warm_last_1h", "warm", "last", 3_600, 600),
    ),
    row_sql=RowSql(
        (("warm", '"value" * 2.0'),), '"value" > 0.0', {"value": "double"}, {"warm": "double"}
    ),
)
JOINT: View = msgspec.structs.replace(
    VIEW, join_keys=(JoinKey("sensor"), JoinKey("floor", "bigint"))
)


@pytest.mark.parametrize("view", [VIEW, WITH_SQL, JOINT], ids=lambda v: v.name)
def test_executors_agree(view: View) -> None:
    verdict = certify(view, SEEDS)
    assert verdict.differences == 0, verdict.smallest
    assert verdict.compared > 200 * len(view.aggregates)
    assert verdict.difference_max < 1e-9
    assert verdict.smallest is None


def test_every_seed_sees_values_and_not_only_nulls() -> None:
    verdict = certify(VIEW, SEEDS, lambda *_: [])
    assert verdict.differences > 1_000


def _caught(verdict: Verdict) -> None:
    assert verdict.differences > 0
    example = verdict.smallest
    assert example is not None
    assert example.view == VIEW.name
    assert example.seed in SEEDS
    assert example.events
    names = [key.name for key in VIEW.join_keys]
    assert all(tuple(e[n] for n in names) == example.key for e in example.events)


def test_a_ring_whose_window_is_one_tile_too_wide_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = tiles.in_window
    monkeypatch.setattr(tiles, "in_window", lambda i, head, width: right(i, head, width + 1))
    verdict = certify(VIEW, SEEDS)
    _caught(verdict)
    assert verdict.smallest is not None
    assert verdict.smallest.head == "whole"
    assert verdict.smallest.batch == verdict.smallest.reference != verdict.smallest.stream


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("p.tile > p.head -", "p.tile >= p.head -"), ("min({c})", "max({c})")],
    ids=["window", "function"],
)
def test_wrong_sql_of_the_batch_executor_is_caught(
    right: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    query: Callable[..., str] = batch._query
    monkeypatch.setattr(batch, "_query", lambda *a: query(*a).replace(right, wrong))
    monkeypatch.setattr(
        batch, "_TILE", {k: text.replace(right, wrong) for k, text in batch._TILE.items()}
    )
    _caught(certify(VIEW, SEEDS))


def test_a_stream_that_loses_some_events_is_caught() -> None:
    def lossy(view: View, events: Any) -> Any:
        return in_process(view, [e for n, e in enumerate(events) if n % 20])

    _caught(certify(VIEW, SEEDS, lossy))


def test_a_stream_that_counts_redeliveries_is_caught() -> None:
    _caught(certify(VIEW, SEEDS, lambda view, events: in_process(view, [*events, *events[::20]])))


def test_the_smallest_example_is_the_one_with_the_fewest_events() -> None:
    verdict = certify(VIEW, SEEDS, lambda *_: [])
    assert verdict.smallest is not None
    assert len(verdict.smallest.events) == 1
    assert verdict.smallest.events[0] in stream(VIEW, verdict.smallest.seed).events
