from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines import training
from pipelines.training_set import TrainingRefused, TrainingSet
from schemas.manifest import Manifest, contract_digest, file_digest, next_version, versions
from tests.pipelines import training_rows
from tests.pipelines.training_rows import INPUTS


@pytest.fixture(scope="module")
def made() -> TrainingSet:
    return training_rows.training_set()


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


def test_its_card_says_what_it_was_trained_on_and_what_it_leans_on(models: Path) -> None:
    text = (models / "flights" / "v0001" / "card.md").read_text(encoding="utf-8")
    assert text.startswith("# flights, fitted as `default`")
    assert "6,000 rows" in text
    assert "table `flights_requests`, snapshot 42" in text
    leans = [line for line in text.splitlines() if line.startswith("- `")]
    assert [line.split("`")[1] for line in leans] == list(INPUTS)
    assert float(leans[0].split()[-1]) > 0.2
    assert abs(float(leans[1].split()[-1])) < 0.02


def test_reference_and_hold_out_are_as_promised(models: Path, made: TrainingSet) -> None:
    folder = models / "flights" / "v0001"
    reference = pq.read_table(folder / "reference.parquet")
    assert reference.column_names == [*INPUTS, "score", "label"]
    assert reference.num_rows == 5_000
    assert str(reference.schema.field("view__mean").type) == "float"
    holdout = pq.read_table(folder / "holdout.parquet")
    assert holdout.column_names == [*INPUTS, "label", "request_id", "event_time_ms", "score"]
    assert holdout["event_time_ms"].to_pylist() == made.holdout.event_time_ms.tolist()
    scores = holdout["score"].to_numpy()
    measured = training.measure(made.holdout.labels, scores)
    assert measured == Manifest.read(folder).metrics


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


def test_an_input_without_a_value_is_named(made: TrainingSet, tmp_path: Path) -> None:
    values = made.train.matrix.copy()
    values[:, 1] = np.nan
    lacking = replace(made, train=replace(made.train, matrix=values))
    with pytest.raises(TrainingRefused, match=f"there is none of {INPUTS[1]}"):
        training.build(lacking, tmp_path)
    assert not list(tmp_path.iterdir())
