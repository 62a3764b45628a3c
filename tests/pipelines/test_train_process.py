from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.settings import StoreSettings
from features.views import Plan, Service
from pipelines import estimators, trainer, training, training_work
from pipelines.lineage import FILE
from pipelines.settings import PipelineSettings
from pipelines.train_process import Job
from pipelines.training_set import TrainingSet
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


def prepared(models: Path, folder: Path, order_id: str, rows: TrainingSet) -> Job:
    """An order whose rows have been read already: there is no lake."""
    stores = StoreSettings(plan_path=str(folder / "plan.json"))
    Plan(views=(), services=(Service(SERVICE, ()),)).save(stores.plan_path)
    training_work.keep(training_work.place(models, CASE, order_id), rows)
    return Job(
        case=CASE,
        stores=stores,
        models_dir=str(models),
        since_ms=rows.since_ms,
        until_ms=rows.until_ms,
        order_id=order_id,
        champion="v0002",
        like="v0002",
    )


def test_rows_are_compared_with_those_of_the_champion(models: Path, tmp_path: Path) -> None:
    rows = replace(training_rows.training_set(), case=CASE, service=SERVICE, definitions={})
    odd = replace(rows, train=replace(rows.train, matrix=rows.train.matrix + np.float32(9)))
    shutil.copytree(models, tmp_path / "models")
    newest = training.build(odd, tmp_path / "models")
    assert newest.version == "v0004"
    job = prepared(tmp_path / "models", tmp_path, "order-1", odd)
    context = WorkerContext(CASE, threading.Event(), lambda _: None)
    version, error = trainer.train(job, PipelineSettings(), context)
    assert version is None
    assert "wanted rows like those of v0001, but 2 of 2 inputs are nowhere near" in str(error)


def test_a_retraining_fits_what_the_champion_was_fitted_with(models: Path, tmp_path: Path) -> None:
    rows = replace(training_rows.training_set(), case=CASE, service=SERVICE, definitions={})
    job = prepared(models, tmp_path, "order-1", rows)
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


def test_what_nobody_foresaw_ends_the_run_and_is_the_answer(models: Path, tmp_path: Path) -> None:
    rows = replace(training_rows.training_set(), case=CASE, service=SERVICE, definitions={})
    job = told(prepared(models, tmp_path, "order-torn", rows), tmp_path)
    kept = training_work.place(models, CASE, "order-torn")
    (kept / training_work.SET_FILE).write_text("{", encoding="utf-8")
    context = WorkerContext(CASE, threading.Event(), lambda _: None)
    version, error = trainer.train(job, PipelineSettings(), context)
    assert version is None
    assert str(error).startswith("JSONDecodeError: ")
    (failed,) = events(tmp_path)
    assert failed["eventType"] == "FAIL"
    assert failed["run"]["facets"]["errorMessage"]["message"] == error


def test_a_training_that_is_given_up_ends_its_run(models: Path, tmp_path: Path) -> None:
    rows = replace(training_rows.training_set(), case=CASE, service=SERVICE, definitions={})
    job = told(prepared(models, tmp_path, "order-slow", rows), tmp_path)
    by_hand = job.model_copy(update={"order_id": None})
    context = WorkerContext(CASE, threading.Event(), lambda _: None)
    for one in (job, job, by_hand):
        trainer.train(one, PipelineSettings(training_timeout_s=0.01), context)
    ended = events(tmp_path)
    assert [event["eventType"] for event in ended] == ["FAIL"] * 3
    assert ended[0]["run"]["runId"] == ended[1]["run"]["runId"]
    assert ended[2]["run"]["runId"] == by_hand.run_id
    assert "not done after" in ended[0]["run"]["facets"]["errorMessage"]["message"]


def told(job: Job, folder: Path) -> Job:
    stores = job.stores.model_copy(update={"lineage_dir": str(folder / "lineage")})
    return job.model_copy(update={"stores": stores})


def events(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "lineage" / FILE).read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_process_that_cannot_begin_ends_while_its_job_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "sklearn.py").write_text("raise ImportError('torn')", encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "-m", "pipelines.train_process"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    ) as process:
        assert process.stderr is not None
        said = process.stderr.read()
    assert "ImportError: torn" in said
    assert process.returncode == 1, said
