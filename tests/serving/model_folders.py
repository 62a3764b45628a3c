"""Real model folders for tests: small ONNX graphs, built in milliseconds, with manifests that hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save_model

from features.views import Aggregate, JoinKey, Plan, Service, View
from schemas.manifest import MANIFEST_FILE, MODEL_FILE, file_digest
from serving.runtime import Expected

CASE = "flights"


def plan() -> Plan:
    """A plan small enough to think about: one view by origin, one by aircraft."""
    columns: dict[str, Any] = {"dep_delay": "double"}
    origin = View(
        name="origin_departures",
        topic="flights.departures.valid",
        table="flights_departures",
        event_id_field="event_id",
        join_keys=(JoinKey("origin"),),
        columns=columns,
        aggregates=(
            Aggregate("count_dep_delay", "dep_delay", "count", 3_600, 300),
            Aggregate("mean_dep_delay", "dep_delay", "mean", 3_600, 300),
        ),
    )
    aircraft = View(
        name="aircraft_departures",
        topic="flights.departures.valid",
        table="flights_departures",
        event_id_field="event_id",
        join_keys=(JoinKey("tailnum"),),
        columns=columns,
        aggregates=(Aggregate("last_dep_delay", "dep_delay", "last", 86_400, 1_800),),
    )
    features = (
        ("origin_departures", "count_dep_delay"),
        ("origin_departures", "mean_dep_delay"),
        ("aircraft_departures", "last_dep_delay"),
    )
    return Plan(views=(origin, aircraft), services=(Service("flights_v1", features),))


def graph(inputs: int, *, bias: float = 0.0, fragile: bool = False) -> Any:
    """An ONNX classifier: `softmax([0, x·w + bias])` with small weights.

    A fragile one answers NaN where any input is NaN; the other takes NaN for 0.
    """
    weights = np.zeros((inputs, 2), dtype=np.float32)
    weights[:, 1] = np.linspace(-0.02, 0.03, inputs)
    constants = [
        numpy_helper.from_array(weights, "w"),
        numpy_helper.from_array(np.array([0.0, bias], dtype=np.float32), "b"),
        numpy_helper.from_array(np.array(0.0, dtype=np.float32), "zero"),
    ]
    nodes = [
        helper.make_node("IsNaN", ["input"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "input"], ["filled"]),
        helper.make_node("MatMul", ["input" if fragile else "filled", "w"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]
    made = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, inputs])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2]),
        ],
        constants,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def write(
    models_dir: Path,
    version: str,
    *,
    bias: float = 0.0,
    fragile: bool = False,
    of: str = CASE,
    given: Plan | None = None,
    model: Any = None,
    **changes: Any,
) -> Path:
    """A version's folder of the use case `of`, under `<models_dir>/<case>`; `changes` replace fields of its manifest.

    `model` is an ONNX model to be taken instead of the small one.
    """
    expected = Expected.of(of, given or plan())
    folder = models_dir / of / version
    folder.mkdir(parents=True)
    made = model or graph(len(expected.inputs), bias=bias, fragile=fragile)
    save_model(made, str(folder / MODEL_FILE))
    (folder / "reference.parquet").write_bytes(b"PAR1")
    described = {
        "model": of,
        "version": version,
        "case": of,
        "service": expected.service,
        "inputs": expected.inputs,
        "definitions": expected.definitions,
        "contract": expected.contract,
        "threshold": 0.5,
        "trained": {"since_ms": 0, "until_ms": 1, "rows": 1, "label_rate": 0.2},
        "snapshots": {},
        "metrics": {"auc": 0.8},
        "parameters": {},
        "seed": 1,
        "code": "unknown",
        "lock": "unknown",
        "created_ms": 0,
        "files": {name: file_digest(folder / name) for name in (MODEL_FILE, "reference.parquet")},
    }
    (folder / MANIFEST_FILE).write_text(json.dumps(described | changes))
    return folder
