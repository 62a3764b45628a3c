from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.timed_calls import TimedCalls
from serving.manifest import ModelRefused
from serving.output_contract import Output
from serving.runtime import Expected, ModelFailed, checked, load
from tests.faults import hurt_model
from tests.faults.replicas import STATIONS
from tests.serving import model_folders


@pytest.fixture
def expected() -> Expected:
    return Expected.of("flights", model_folders.plan())


def test_scores_are_probabilities_of_class_one(tmp_path: Path, expected: Expected) -> None:
    model = load(model_folders.write(tmp_path, "v0001", bias=2.0), expected)

    scores = model.predict(np.zeros((3, 8), dtype=np.float32))

    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-2.0)), rtol=1e-6)


def test_missing_values_reach_the_model(tmp_path: Path, expected: Expected) -> None:
    fragile = load(model_folders.write(tmp_path, "v0001", fragile=True), expected)

    with pytest.raises(ModelFailed, match="output_not_finite: 1 of 2"):
        fragile.predict(np.array([[0.0] * 8, [np.nan] * 8], dtype=np.float32))


def test_a_wrong_matrix_is_a_value_not_a_crash(tmp_path: Path, expected: Expected) -> None:
    model = load(model_folders.write(tmp_path, "v0001"), expected)

    with pytest.raises(ModelFailed) as failed:
        model.predict(np.zeros((2, 5), dtype=np.float32))

    assert failed.value.reason == "model_error"
    assert len(failed.value.detail) <= 200


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (np.zeros((3, 3)), "output_shape"),
        (np.zeros(2), "output_shape"),
        (np.array([0.0, np.nan, 0.0]), "output_not_finite"),
        (np.array([0.0, 1.1, 0.0]), "output_out_of_range"),
        (np.array([0.0, -0.1, 0.0]), "output_out_of_range"),
    ],
)
def test_the_output_contract(output: np.ndarray, reason: str) -> None:
    with pytest.raises(ModelFailed) as failed:
        checked(output, 3)
    assert failed.value.reason == reason


def test_an_overshoot_of_float32_is_clipped() -> None:
    assert checked(np.array([1 + 1e-7, -1e-7]), 2).tolist() == [1.0, 0.0]


def test_a_model_that_hangs_is_ended_in_time_and_answers_again(
    tmp_path: Path, expected: Expected
) -> None:
    calls: TimedCalls[Output] = TimedCalls(0.2)
    folder = model_folders.write(tmp_path, "v0001", model=hurt_model.graph(8))
    model = load(folder, expected, calls)
    rows = np.zeros((2, 8), dtype=np.float32)
    rows[1, 0] = STATIONS.index(hurt_model.HANGS)

    began_s = time.monotonic()
    with pytest.raises(ModelFailed, match=r"model_timeout: more than 200 ms$"):
        model.outputs(rows)

    assert time.monotonic() - began_s < 5
    assert calls.hanging() == ()
    np.testing.assert_allclose(model.predict(rows[:1]), 0.25)
    calls.close()


def test_memory_that_is_refused_is_a_value_and_a_smaller_batch_gets_through(
    tmp_path: Path, expected: Expected
) -> None:
    model = load(model_folders.write(tmp_path, "v0001", model=hurt_model.graph(8)), expected)
    with pytest.raises(ModelFailed, match=r"model_error: .* … .*Failed to allocate memory"):
        model.outputs(np.zeros((17, 8), dtype=np.float32))
    assert len(model.predict(np.zeros((16, 8), dtype=np.float32))) == 16


def test_a_model_of_whole_numbers_is_refused(tmp_path: Path, expected: Expected) -> None:
    folder = model_folders.write(tmp_path, "v0001", model=hurt_model.graph(8, whole=True))
    with pytest.raises(ModelRefused, match="output_type: int64"):
        load(folder, expected)


def test_a_changed_file_is_refused(tmp_path: Path, expected: Expected) -> None:
    folder = model_folders.write(tmp_path, "v0001")
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\0")

    with pytest.raises(ModelRefused, match=r"model\.onnx has another sha256"):
        load(folder, expected)


@pytest.mark.parametrize(
    ("name", "complaint"), [("extra.pkl", "is not listed"), ("more", "is not listed")]
)
def test_an_extra_file_or_folder_is_refused(
    tmp_path: Path, expected: Expected, name: str, complaint: str
) -> None:
    folder = model_folders.write(tmp_path, "v0001")
    if "." in name:
        (folder / name).write_bytes(b"x")
    else:
        (folder / name).mkdir()

    with pytest.raises(ModelRefused, match=complaint):
        load(folder, expected)


def test_a_listed_pickle_is_refused_unopened(tmp_path: Path, expected: Expected) -> None:
    folder = model_folders.write(tmp_path, "v0001", files={"model.onnx": "0", "a.pkl": "0"})
    (folder / "a.pkl").write_bytes(b"x")

    with pytest.raises(ModelRefused, match=r"a\.pkl is of a format that is never loaded"):
        load(folder, expected)


def test_a_missing_file_is_refused(tmp_path: Path, expected: Expected) -> None:
    folder = model_folders.write(tmp_path, "v0001")
    (folder / "model.onnx").unlink()

    with pytest.raises(ModelRefused, match=r"model\.onnx is missing"):
        load(folder, expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"contract": "0" * 64},
        {"definitions": {"origin_departures": "0" * 16}},
        {"inputs": ("distance_miles", "scheduled_hour")},
        {"service": "flights_v2"},
        {"case": "payments"},
    ],
)
def test_a_model_made_for_something_else_is_refused(
    tmp_path: Path, expected: Expected, changes: dict[str, Any]
) -> None:
    folder = model_folders.write(tmp_path, "v0001", **changes)

    with pytest.raises(ModelRefused, match=next(iter(changes))):
        load(folder, expected)


def test_no_manifest_and_no_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="a model's manifest"):
        load(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ModelRefused, match="a model's manifest"):
        load(tmp_path)
