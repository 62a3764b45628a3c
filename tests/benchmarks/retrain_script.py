"""`python -m tests.benchmarks.retrain_script SETTINGS SINCE_MS UNTIL_MS MODEL`: what row h's peer does at an alert. Fit, convert, write."""

from __future__ import annotations

import sys
from pathlib import Path

from features.views import Plan
from infra.settings import Settings
from pipelines import onnx_model
from pipelines.training_set import training_set
from tests.loop.known_case import train


def main() -> None:
    """The script."""
    settings_path, since_ms, until_ms, model = sys.argv[1:]
    settings = Settings.read(Path(settings_path))
    plan = Plan.load(settings.stores.plan_path)
    rows = training_set(settings.case, plan, settings.stores, int(since_ms), int(until_ms))
    estimator = train(rows.train.matrix, rows.train.labels)
    Path(model).write_bytes(onnx_model.convert(estimator, len(rows.inputs)).SerializeToString())


if __name__ == "__main__":
    main()
