from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines import training
from pipelines.training_set import Rows, TrainingSet
from schemas.manifest import Manifest, contract_digest, file_digest, next_version, versions

INPUTS = ("scheduled_hour", "view__mean")


def rows(count: int, since_ms: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(count, len(INPUTS))).astype(np.float32)
    labels = matrix[:, 0] + rng.normal(size=count) > 0
    ids = np.array([f"r-{since_ms}-{i}" for i in range(count)], dtype=object)
    return Rows(matrix, labels, since_ms + np.arange(count, dtype=np.int64), ids)


@pytest.fixture(scope="module")
def made() -> TrainingSet:
    return TrainingSet(
        case="flights",
        service="flights_v1",
        inputs=INPUTS,
        train=rows(6_000, 1_000, seed=1),
        holdout=rows(1_000, 100_000, seed=2),
        since_ms=1_000,
        until_ms=200_000,
        definitions={"view": "0123456789abcdef"},
        snapshots={"flights_requests": 42},
    )


@pytest.fixture(scope="module")
def models(made: TrainingSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    training.build(made, folder, order_id="order-1")
    return folder


def test_the_folder_is_what_its_manifest_says(models: Path, made: TrainingSet) -> None:
    folder = models / "flights" / "v0001"
    said = Manifest.read(folder)
    assert {p.name for p in folder.iterdir()} == {"manifest.json", *said.files}
    assert said.files == {name: file_digest(folder / name) for name in said.files}
    assert (said.model, said.version, said.order_id) == ("flights", "v0001", "order-1")
    assert said.inputs == made.inputs
    assert said.definitions == made.definitions
    assert said.snapshots == made.snapshots
    assert said.contract == contract_digest("flights")
    assert (said.trained.rows, said.metrics["rows"]) == (6_000, 1_000)
    assert 0.8 < said.metrics["auc"] < 0.85
    assert said.seed == said.parameters["random_state"]
    assert len(said.lock) == 64


def test_reference_and_hold_out_are_as_promised(models: Path, made: TrainingSet) -> None:
    folder = models / "flights" / "v0001"
    reference = pq.read_table(folder / "reference.parquet")
    assert reference.column_names == [*INPUTS, "score", "label"]
    assert reference.num_rows == 5_000
    assert str(reference.schema.field("view__mean").type) == "float"
    holdout = pq.read_table(folder / "holdout.parquet")
    assert holdout.column_names == [*INPUTS, "label", "request_id", "event_time_ms"]
    assert holdout["event_time_ms"].to_pylist() == made.holdout.event_time_ms.tolist()


def test_the_same_rows_make_the_same_model(made: TrainingSet, models: Path, tmp_path: Path) -> None:
    again = training.build(made, tmp_path)
    assert again.files == Manifest.read(models / "flights" / "v0001").files


def test_versions_count_up_and_two_builders_take_two(made: TrainingSet, tmp_path: Path) -> None:
    small = replace(made, train=made.train.where(np.arange(6_000) < 2_000))
    training.build(small, tmp_path)
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: training.build(small, tmp_path).version, range(2)))
    assert sorted(both) == ["v0002", "v0003"]
    assert next_version(tmp_path, "flights") == "v0004"
    for version in versions(tmp_path, "flights"):
        assert Manifest.read(tmp_path / "flights" / version).version == version


def test_a_failed_build_leaves_nothing(made: TrainingSet, tmp_path: Path) -> None:
    broken = replace(made, case="flights", inputs=(*INPUTS, "one_too_many"))
    with pytest.raises(Exception, match=r"."):
        training.build(broken, tmp_path)
    assert not list(tmp_path.glob("flights/*"))
