from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from features.views import Plan
from pipelines import payments, training
from pipelines.estimators import default
from pipelines.onnx_model import convert, verify
from pipelines.training_set import TrainingSet, span_ms, training_set
from schemas.manifest import Manifest
from tests.pipelines.payments_lake import CASE, SINCE_MS, UNTIL_MS, lake


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    stores = lake(tmp_path_factory.mktemp("payments"))
    span = span_ms(CASE, stores)
    assert span is not None
    assert SINCE_MS <= span[0] < UNTIL_MS < span[1]
    return training_set(CASE, Plan.load(stores.plan_path), stores, *span)


def test_trees_are_fitted_where_nobody_says_otherwise() -> None:
    assert default(CASE) == "trees"


@pytest.mark.parametrize(("name", "auc_least"), [("trees", 0.99), ("neural", 0.98)])
def test_each_estimator_finds_fraud_and_survives_its_conversion(
    made: TrainingSet, tmp_path: Path, name: str, auc_least: float
) -> None:
    assert np.isnan(made.train.matrix).any()
    built = training.build(made, tmp_path, estimator_name=name)
    assert (built.estimator, built.precision, built.variant_of) == (name, "fp32", None)
    assert Manifest.read(tmp_path / CASE / built.version) == built
    assert built.metrics["auc"] > auc_least


def test_a_missing_value_is_told_apart_from_a_median(made: TrainingSet) -> None:
    """And is the same to ONNX, whichever columns are missing."""
    rows = made.train
    fitted = payments.neural(rows.matrix, rows.labels)
    model = convert(fitted, len(made.inputs))
    some = made.holdout.matrix[:500].copy()
    some[np.random.default_rng(7).random(some.shape) < 0.3] = np.nan
    some[0] = np.nan
    assert verify(model, fitted, some) < 1e-6
    assert np.isfinite(fitted.predict_proba(some)).all()
    at = made.inputs.index("card_payments__std_amount_24h")
    typical = np.nanmedian(rows.matrix, axis=0)[None].astype(np.float32)
    missing = typical.copy()
    missing[0, at] = np.nan
    assert fitted.predict_proba(typical)[0, 1] != fitted.predict_proba(missing)[0, 1]


def test_no_weight_is_too_small_for_float32(made: TrainingSet) -> None:
    """Processors take a hundred times as long for subnormal numbers."""
    network = payments.neural(made.train.matrix, made.train.labels)["network"]
    for weights in network.coefs_:
        assert not ((weights != 0) & (np.abs(weights) < np.finfo(np.float32).tiny)).any()


def test_the_same_rows_make_the_same_network(made: TrainingSet) -> None:
    some = made.train.where(np.arange(len(made.train)) < 5_000)
    one, other = (payments.neural(some.matrix, some.labels) for _ in range(2))
    np.testing.assert_array_equal(
        one.predict_proba(made.holdout.matrix), other.predict_proba(made.holdout.matrix)
    )
