"""The same version on the same vectors: the same bits; another one: what differs, by how much, and whose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.lake import Lake
from features.lake_schema import Coordinate, event_table, lake_schema
from features.settings import StoreSettings
from features.views import Plan, Service
from schemas.results import Replayed, Result, Route, Status
from schemas.settings import KafkaSettings
from serving import replay_run
from serving.registry import UnknownVersion
from serving.replay import Difference, Logged, Pair, rescored
from serving.replay_run import Asked, Replay
from serving.runtime import Matrix, Model, ModelFailed, Scores, load
from tests.faults import scored
from tests.faults.stage import SERVICE
from tests.pipelines import toy
from tests.pipelines.records import committed
from tests.serving import model_folders

INPUTS = ("a", "b")
SCORES = st.floats(0, 1)


class Sum:
    """Fails for a negative `a`, alone or in company."""

    threshold = 0.5

    def predict(self, matrix: Matrix) -> Scores:
        if (matrix[:, 0] < 0).any():
            raise ModelFailed("model_error", "negative")
        scores: Scores = np.nansum(matrix, axis=1).astype(np.float64)
        return scores


def logged(n: int, score: float | None, a: float = 0.25, b: float | None = 0.5) -> Logged:
    label = None if score is None else score >= 0.5
    return Logged(f"r{n}", "e", 1_000 + n, "m", "v0001", score, label, {"a": a, "b": b})


def pair(n: int, then: float | None, now: float | None) -> Pair:
    return Pair(logged(n, then), "v0002", now, None if now is None else now >= 0.5)


def test_vectors_are_rounded_as_the_scorer_does_and_a_poisonous_row_fails_alone() -> None:
    rows = [logged(0, 0.75), logged(1, 0.1, a=-1.0), logged(2, 0.1, a=0.1, b=None)]
    short = logged(3, 0.1)._replace(features={"a": 1.0})
    pairs = rescored(Sum(), INPUTS, "v0001", [*rows, short])
    assert [p.score for p in pairs] == [0.75, None, float(np.float32(0.1)), None]
    assert [p.label for p in pairs] == [True, None, False, None]
    told = Difference().plus(pairs)
    assert (told.replayed, told.equal, told.differing, told.failed) == (4, 1, 1, 2)
    assert told.worst == "r2"


@given(st.lists(st.tuples(SCORES | st.none(), SCORES | st.none()), max_size=12), st.integers(1, 7))
def test_the_division_into_batches_changes_nothing(
    scores: list[tuple[float | None, float | None]], size: int
) -> None:
    pairs = [pair(n, then, now) for n, (then, now) in enumerate(scores)]
    whole = Difference().plus(pairs)
    parts = Difference()
    for first in range(0, len(pairs), size):
        parts = parts.plus(pairs[first : first + size])
    assert parts == whole
    compared = [(t, n) for t, n in scores if t is not None and n is not None]
    assert whole.equal + whole.differing == len(compared)
    assert (whole.hash == whole.logged_hash) == (whole.differing == 0)
    assert whole.greatest == max((abs(t - n) for t, n in compared), default=0.0)
    assert sum(whole.bins) == len(compared)


def answers(model: Model, count: int) -> list[Result]:
    """What a scorer would have logged, in batches of one and more."""
    rng = np.random.default_rng(5)
    names = model.manifest.inputs
    values = rng.normal(size=(count, len(names))) * 100
    values[rng.random(values.shape) < 0.1] = np.nan
    scores = np.concatenate(
        [model.predict(part.astype(np.float32)) for part in np.array_split(values, 37)]
    )
    made = []
    for n, (row, score) in enumerate(zip(values.tolist(), scores.tolist(), strict=True)):
        fell = n % 50 == 0
        made.append(
            Result(
                event_time_ms=toy.START_MS + n,
                request_id=f"q{n}",
                entity=f"s{n % 7}",
                status=Status.FALLBACK if fell else Status.SCORED,
                score=0.5 if fell else score,
                label=bool(score >= model.threshold),
                model=model.manifest.model,
                version=model.version,
                route=Route.RULE if fell else Route.CHAMPION,
                epoch=1,
                features={k: None if np.isnan(v) else v for k, v in zip(names, row, strict=True)},
                ages_ms={},
                read_at_ms=toy.START_MS,
                scored_at_ms=toy.START_MS,
                traceparent="",
            )
        )
    return made


class Past:
    """A lake of results, and two versions."""

    def __init__(self, kafka: KafkaSettings, folder: Path, case: str, count: int) -> None:
        scored.register(case)
        view = toy.view(case)
        features = tuple((view.name, a.name) for a in view.aggregates)
        plan = Plan(views=(view,), services=(Service(SERVICE, features),))
        self.kafka, self.case, self.models = kafka, case, folder / "models"
        model_folders.write(self.models, "v0001", of=case, given=plan)
        model_folders.write(self.models, "v0002", of=case, given=plan, bias=0.5)
        stores = StoreSettings(
            catalog_uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}/warehouse"
        )
        self.lake, self.state = Lake(stores), folder / "state"
        table = f"{case}_results"
        self.lake.create(table, lake_schema(Result))
        rows = answers(load(self.models / case / "v0001"), count)
        places = [Coordinate(1, f"{case}.results", 0, n) for n in range(count)]
        values = [one.model_dump() for one in rows]
        self.lake.append(table, event_table(Result, values, places))

    def replay(self, **asked: Any) -> Replay:
        given = Asked(self.case, **asked)
        return Replay(given, self.kafka, self.lake, self.models, self.state)

    def published(self) -> list[Replayed]:
        found = committed(self.kafka, f"{self.case}.replay")
        return [Replayed.model_validate_json(m.value() or b"") for m in found]


def test_the_same_version_gives_the_same_bits_and_another_is_told(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    past = Past(kafka, tmp_path, "rescored", 3_000)
    same = past.replay().run(lambda _done, _rows: None)
    assert (same.replayed, same.equal, same.differing, same.uncompared) == (3_000, 2_940, 0, 60)
    assert same.hash == same.logged_hash
    assert len(past.published()) == 3_000
    part = past.replay(since_ms=toy.START_MS + 100, until_ms=toy.START_MS + 300, limit=150)
    assert part.run(lambda _done, _rows: None).replayed == 150
    other = past.replay(version="v0002").run(lambda _done, _rows: None)
    assert other.differing > 2_000
    assert other.flips > 0
    assert other.hash != other.logged_hash
    assert other.logged_hash == same.logged_hash
    newest = past.published()[-1]
    assert (newest.version, newest.logged_version) == ("v0002", "v0001")
    with pytest.raises(UnknownVersion, match="v0009"):
        past.replay(version="v0009").run(lambda _done, _rows: None)


def test_an_interrupted_one_goes_on_and_comes_to_the_same(
    kafka: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_run, "BATCH_ROWS", 100)
    past = Past(kafka, tmp_path, "interrupted", 1_000)
    whole = past.replay(limit=1_000).run(lambda _done, _rows: None)

    def stop(done: int, _: int) -> None:
        if done == 400:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        past.replay().run(stop)
    again = past.replay()
    assert again.resumed is not None
    assert again.resumed.rows == 400
    assert again.run(lambda _done, _rows: None) == whole
    assert past.replay().resumed is None
    assert len(past.published()) == 2_000
