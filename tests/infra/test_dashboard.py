"""The Grafana dashboard asks only for what is exported."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from infra.metrics import JOB_GAUGES, StackMetrics
from serving.stages import Labels, Row, Stage, Stages, merged
from serving.stopwatch import Took

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "infra" / "grafana" / "headrace.json"
# Who reports; read as text, because Ray takes seconds to import.
SCORER = ROOT / "serving" / "deployment.py"
METRIC = re.compile(r"headrace_[a-z_]+")
MATCHER = re.compile(r'(\w+)\s*(=~|!=|=)\s*"([^"]*)"')
GROUPING = re.compile(r"by \(([^)]*)\)")


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def exported() -> list[Any]:
    stages = Stages()
    took = Took(taken_ms=1_000, read_us=700, predict_us={"v1": 90}, commit_us=5_000)
    stages.observe(took, [Row("scored", 990, Labels("v1", "canary", "acme", "bulk"))], 1_020)
    report = {"lag": 0, "stages": json.dumps(merged([stages.snapshot()]))}
    service = {"phase": "ready", "answers": True, "restarts": 0, "report": report}
    job = {"name": "j", "state": "RUNNING"} | dict.fromkeys(JOB_GAUGES, 1)
    summary = {"healthy": True, "services": {"scorer": service}, "flink_jobs": [job]}
    return [
        sample for family in StackMetrics(lambda: summary).collect() for sample in family.samples
    ]


def test_every_metric_label_and_number_of_the_dashboard_is_exported() -> None:
    samples = exported()
    labels: dict[str, set[str]] = {}
    for sample in samples:
        labels.setdefault(sample.name, set()).update(sample.labels)
    reported = SCORER.read_text()
    asked = expressions()
    assert len(asked) > 25
    for expression in asked:
        (name, *others) = set(METRIC.findall(expression))
        assert not others, expression
        assert name in labels, expression
        used = {label for label, _, _ in MATCHER.findall(expression)}
        used |= {one.strip() for group in GROUPING.findall(expression) for one in group.split(",")}
        assert used <= labels[name], expression
        told = {label: value for label, _, value in MATCHER.findall(expression)}
        if "number" in told:
            assert f'"{told["number"]}"' in reported, expression
        if "stage" in told:
            assert set(told["stage"].split("|")) <= set(Stage), expression


def test_every_metric_that_is_exported_is_on_the_dashboard() -> None:
    """But the buckets' sums and counts, which quantiles do not need."""
    shown = {name for expression in expressions() for name in METRIC.findall(expression)}
    told = {sample.name for sample in exported()}
    assert told - shown == {"headrace_stage_seconds_count", "headrace_stage_seconds_sum"}


def test_panels_do_not_overlap_and_have_names() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["title"]
