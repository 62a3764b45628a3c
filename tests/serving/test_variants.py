"""Variants of small networks, made and compared for real; no engine but ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper

from schemas.manifest import HOLDOUT_FILE, MODEL_FILE, REFERENCE_FILE, Manifest, file_digest
from serving import trial
from serving.comparison import Measured, compare, scored
from serving.precision import NotQuantizable, write_variant
from serving.registry import Registry
from serving.runtime import Expected, load
from serving.trial import measure
from serving.variants import quantize
from tests.serving import model_folders

ROWS = 600
INPUTS = 8


def rows(count: int = ROWS) -> np.ndarray:
    return np.random.default_rng(3).normal(0, 30, (count, INPUTS)).astype(np.float32)


def version(models: Path, name: str = "v0001", **changes: Any) -> Path:
    """A version whose rows can be scored again, by `model_folders`' network if no other `model` is given."""
    folder = model_folders.write(models, name, **changes)
    described = json.loads((folder / "manifest.json").read_text())
    matrix = rows()
    columns = {column: matrix[:, at] for at, column in enumerate(described["inputs"])}
    labels = matrix.sum(axis=1) > 40
    scores = np.zeros(ROWS)
    pq.write_table(pa.table({**columns, "score": scores, "label": labels}), folder / REFERENCE_FILE)
    pq.write_table(pa.table({**columns, "label": labels}), folder / HOLDOUT_FILE)
    names = (MODEL_FILE, REFERENCE_FILE, HOLDOUT_FILE)
    described["files"] = {n: file_digest(folder / n) for n in names}
    (folder / "manifest.json").write_text(json.dumps(described))
    return folder


def scaled(*, cast: bool) -> Any:
    """A product of inputs that two operators have scaled, as skl2onnx makes of a union; `cast` as its networks begin."""
    scale: dict[str, Any] = {
        "domain": "ai.onnx.ml",
        "scale": [1e-5] * INPUTS,
        "offset": [0.0] * INPUTS,
    }
    nodes = [
        helper.make_node("Scaler", ["input"], ["one"], **scale),
        helper.make_node("Scaler", ["input"], ["other"], **scale),
        helper.make_node("Concat", ["one", "other"], ["both"], axis=1),
        helper.make_node("Cast", ["both"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["cast" if cast else "both", "w"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    weights = np.random.default_rng(1).normal(size=(2 * INPUTS, 2)).astype(np.float32)
    graph = helper.make_graph(
        [n for n in nodes if cast or n.op_type != "Cast"],
        "scaled",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, INPUTS])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2])],
        [numpy_helper.from_array(weights, "w")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


@pytest.fixture
def expected() -> Expected:
    return Expected.of("flights", model_folders.plan())


def test_variants_are_versions_that_serve(tmp_path: Path, expected: Expected) -> None:
    version(tmp_path, order_id="order-1", estimator="net")
    found = quantize(Registry(tmp_path), "flights", "v0001", ("int8", "fp16"))
    assert found.made == ["v0002", "v0003"]
    for one in found.variants:
        name = one.variant.version
        said = Registry(tmp_path).verify("flights", name)
        assert (said.variant_of, said.precision) == ("v0001", one.variant.precision)
        assert (said.order_id, said.estimator) == (None, "net")
        model = load(tmp_path / "flights" / name, expected)
        reference = pq.read_table(tmp_path / "flights" / name / REFERENCE_FILE)
        np.testing.assert_allclose(reference["score"].to_numpy(), model.predict(rows()))
        holdout = pq.read_table(tmp_path / "flights" / name / HOLDOUT_FILE)
        np.testing.assert_array_equal(holdout["score"].to_numpy(), scored(model, rows()))
        trial._refuse_unlike_its_estimator(model, tmp_path / "flights" / name)
        assert said.metrics == {**one.variant.metrics, "rows": ROWS}
        assert all(us > 0 for us in one.variant.us_per_row.values())
    assert sorted(p.name for p in (tmp_path / "flights").iterdir()) == ["v0001", "v0002", "v0003"]


def test_what_is_told_is_what_can_be_counted(tmp_path: Path) -> None:
    folder = version(tmp_path, bias=0.1)
    found = quantize(Registry(tmp_path), "flights", "v0001", ("int8",))
    (told,) = found.variants
    models = [load(tmp_path / "flights" / n) for n in ("v0001", "v0002")]
    before, after = (scored(model, rows()) for model in models)
    alone = np.concatenate([models[1].predict(rows()[at : at + 1]) for at in range(256)])
    # By whom else it was asked about: what INT8 costs beyond its error.
    assert told.variant.company == np.abs(alone - after[:256]).max() > found.origin.company
    assert found.origin.company < 1e-6
    assert told.rows == ROWS
    assert told.greatest == np.abs(before - after).max() > 0
    assert told.flipped == ((before >= 0.5) != (after >= 0.5)).sum()
    labels = pq.read_table(folder / HOLDOUT_FILE)["label"].to_numpy()
    assert found.origin.metrics == measure(labels, before)
    assert told.loss["auc"] == found.origin.metrics["auc"] - told.variant.metrics["auc"]
    assert told.loss["brier"] == told.variant.metrics["brier"] - found.origin.metrics["brier"]
    assert found.origin.bytes == (folder / MODEL_FILE).stat().st_size


def test_a_variant_that_is_there_is_compared_and_not_made_again(tmp_path: Path) -> None:
    version(tmp_path)
    registry = Registry(tmp_path)
    quantize(registry, "flights", "v0001", ("fp16",))
    found = quantize(registry, "flights", "v0001", ("int8", "fp16"))
    assert found.made == ["v0003"]
    assert [one.variant.version for one in found.variants] == ["v0003", "v0002"]


def test_a_large_amount_is_not_infinite_to_fp16(tmp_path: Path) -> None:
    """skl2onnx's first operators stay in float32, and must be given what came, not what float16 leaves of it."""
    folder = version(tmp_path, model=scaled(cast=True))
    quantize(Registry(tmp_path), "flights", "v0001", ("fp16",))
    large = np.full((3, INPUTS), 99_999.0, dtype=np.float32)
    before, after = (load(folder.parent / n).predict(large) for n in ("v0001", "v0002"))
    np.testing.assert_allclose(before, after, atol=1e-3)


def test_trees_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    from pipelines.onnx_model import convert  # noqa: PLC0415 - sklearn, for this test alone
    from pipelines.payments import train  # noqa: PLC0415

    matrix = rows()
    version(tmp_path, model=convert(train(matrix, matrix[:, 0] > 0), INPUTS))
    with pytest.raises(
        NotQuantizable, match=r"made of .*TreeEnsembleClassifier.* Trees have nothing"
    ):
        quantize(Registry(tmp_path), "flights", "v0001", ("int8",))
    assert [p.name for p in (tmp_path / "flights").iterdir()] == ["v0001"]


def test_a_variant_of_a_variant_is_refused(tmp_path: Path) -> None:
    version(tmp_path)
    registry = Registry(tmp_path)
    quantize(registry, "flights", "v0001", ("int8",))
    with pytest.raises(NotQuantizable, match="it is int8, made of v0001"):
        quantize(registry, "flights", "v0002", ("fp16",))


def test_one_that_fails_leaves_the_others_unmade(tmp_path: Path) -> None:
    """The converter does not know what type a `Scaler` gives, and makes a product of float32 and float16."""
    version(tmp_path, model=scaled(cast=False))
    with pytest.raises(NotQuantizable, match="v0001 as fp16"):
        quantize(Registry(tmp_path), "flights", "v0001", ("int8", "fp16"))
    assert [p.name for p in (tmp_path / "flights").iterdir()] == ["v0001"]


def test_the_same_version_gives_the_same_variant(tmp_path: Path) -> None:
    folder = version(tmp_path)
    for kind in ("int8", "fp16"):
        for name in ("one", "other"):
            write_variant(folder / MODEL_FILE, tmp_path / name, kind)
        assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_score_on_the_threshold_is_positive() -> None:
    one = Measured("v0001", "fp32", 1, {}, {"auc": 0.9, "log_loss": 0.2})
    other = Measured("v0002", "int8", 1, {}, {"auc": 0.8, "log_loss": 0.1})
    found = compare(one, other, (np.array([0.5, 0.1]), np.array([0.49, 0.5])), 0.5)
    assert (found.flipped, found.rows) == (2, 2)
    assert found.greatest == pytest.approx(0.4)
    assert found.loss == pytest.approx({"auc": 0.1, "log_loss": -0.1})


def test_manifests_from_before_there_were_variants_are_read(tmp_path: Path) -> None:
    said = Manifest.read(model_folders.write(tmp_path, "v0001"))
    assert (said.estimator, said.precision, said.variant_of) == ("default", "fp32", None)
