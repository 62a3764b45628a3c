from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from features.settings import StoreSettings
from features.views import Plan, Service
from pipelines import estimators, trainer, training, training_work
from pipelines.settings import PipelineSettings
from pipelines.train_process import Job
from schemas import manifest, usecase
from schemas.manifest import CARD_FILE, Manifest
from schemas.worker import WorkerContext
from tests.pipelines import training_rows

CASE = "payments"
SERVICE = str(usecase.load("schemas", CASE).SERVICE)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Payments, whose v0001 is a network; v0002 says the same in int8, and v0003 is of an estimator that is gone."""
    rows = replace(training_rows.training_set(), case=CASE, service=SERVICE, definitions={})
    folder = tmp_path_factory.mktemp("models")
    made = training.build(rows, folder, estimator_name="neural")
    variants = ({"precision": "int8", "variant_of": "v0001"}, {"estimator": "forest"})
    for n, changes in enumerate(variants):
        (draft := folder / CASE / f".{n}").mkdir()
        manifest.place(made.model_copy(update=changes), draft, folder)
    return folder


def test_a_retraining_fits_what_the_champion_was_fitted_with(models: Path, tmp_path: Path) -> None:
    stores = StoreSettings(plan_path=str(tmp_path / "plan.json"))
    Plan(views=(), services=(Service(SERVICE, ()),)).save(stores.plan_path)
    rows = replace(training_rows.training_set(), case=CASE, service=SERVICE, definitions={})
    training_work.keep(training_work.place(models, CASE, "order-1"), rows)
    job = Job(
        case=CASE,
        stores=stores,
        models_dir=str(models),
        since_ms=rows.since_ms,
        until_ms=rows.until_ms,
        order_id="order-1",
        champion="v0002",
        accept_data=True,
    )
    context = WorkerContext(CASE, threading.Event(), lambda _: None)
    assert trainer.train(job, PipelineSettings(), context) == ("v0004", None)
    made = models / CASE / "v0004"
    said = Manifest.read(made)
    assert (said.estimator, said.precision, said.variant_of) == ("neural", "fp32", None)
    card = (made / CARD_FILE).read_text(encoding="utf-8")
    assert "Fitted as `neural`, as v0002 was, which drifted. v0002 is v0001 in int8;" in card


@pytest.mark.parametrize(
    ("champion", "fitted", "told"),
    [
        ("v0001", "neural", "fitted as `neural`, as v0001 was, which drifted"),
        ("v0003", "trees", "v0003 was fitted as `forest`, which pipelines/payments.py does not"),
        ("v0009", "trees", "the manifest of v0009 cannot be read"),
    ],
)
def test_who_cannot_say_what_the_champion_was_fits_the_usual(
    models: Path, champion: str, fitted: str, told: str
) -> None:
    name, why = estimators.as_champion(CASE, models, champion)
    assert name == fitted
    assert told in why
