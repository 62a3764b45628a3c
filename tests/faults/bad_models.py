"""Versions of a model that load as they should and then do harm: they err, they are slow, they score something else."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save_model

from features.views import Plan
from schemas.manifest import MANIFEST_FILE, MODEL_FILE, file_digest
from serving import runtime
from tests.serving import model_folders

WIDTH = 256
TRIPS = 50
# Softmax of this much more is near 1, whatever the inputs.
SHIFT = 6.0


def good(models: Path, version: str, case: str, plan: Plan) -> Path:
    """Scores that depend a little on every input."""
    return model_folders.write(models, version, of=case, given=plan)


def erring(models: Path, version: str, case: str, plan: Plan) -> Path:
    """NaN for every request, because its first input is above 0; not for the row of zeros it is tried on when it is loaded."""
    return _rewritten(good(models, version, case, plan), _with_nan)


def shifted(models: Path, version: str, case: str, plan: Plan) -> Path:
    """Near 1 for everybody."""
    return model_folders.write(models, version, of=case, given=plan, bias=SHIFT)


def slow(models: Path, version: str, case: str, plan: Plan, by_ms: float) -> Path:
    """The good one, `by_ms` later on this machine as it is now: it multiplies matrices before it answers."""
    folder = good(models, version, case, plan)
    _rewritten(folder, lambda graph: _with_loop(graph, TRIPS))
    trip_ms = _call_ms(folder) / TRIPS
    return _rewritten(folder, lambda graph: _with_loop(graph, max(1, round(by_ms / trip_ms))))


def _plain(folder: Path) -> Any:
    inputs = len(json.loads((folder / MANIFEST_FILE).read_text())["inputs"])
    return model_folders.graph(inputs)


def _rewritten(folder: Path, change: Callable[[Any], Any]) -> Path:
    _save(folder, change(_plain(folder)))
    return folder


def _save(folder: Path, model: Any) -> None:
    """The model, and a manifest that says so."""
    checker.check_model(model)
    save_model(model, str(folder / MODEL_FILE))
    path = folder / MANIFEST_FILE
    described = json.loads(path.read_text())
    described["files"][MODEL_FILE] = file_digest(folder / MODEL_FILE)
    path.write_text(json.dumps(described))


def _call_ms(folder: Path) -> float:
    model = runtime.load(folder)
    rows = np.zeros((2, len(model.manifest.inputs)), dtype=np.float32)
    began = time.perf_counter()
    for _ in range(3):
        model.predict(rows)
    return (time.perf_counter() - began) / 3 * 1_000


def _with_nan(model: Any) -> Any:
    """`sqrt(-first input)` is 0 for 0 and NaN above; it is added to the probabilities."""
    first = numpy_helper.from_array(np.array([0], dtype=np.int64), "first")
    nodes = [
        helper.make_node("Gather", ["input", "first"], ["amount"], axis=1),
        helper.make_node("Neg", ["amount"], ["below"]),
        helper.make_node("Sqrt", ["below"], ["nothing"]),
    ]
    return _added(model, nodes, [first])


def _with_loop(model: Any, trips: int) -> Any:
    """A loop of matrix products of zeros; one element of the last is added to the probabilities."""
    matrix = [WIDTH, WIDTH]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["go_on_out"]),
            helper.make_node("MatMul", ["held", "held"], ["held_out"]),
        ],
        "work",
        [
            helper.make_tensor_value_info("trip", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("held", TensorProto.FLOAT, matrix),
        ],
        [
            helper.make_tensor_value_info("go_on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("held_out", TensorProto.FLOAT, matrix),
        ],
    )
    constants = [
        numpy_helper.from_array(np.array(trips, dtype=np.int64), "trips"),
        numpy_helper.from_array(np.array(True), "yes"),
        numpy_helper.from_array(np.zeros(matrix, dtype=np.float32), "begin"),
    ]
    nodes = [
        helper.make_node("Loop", ["trips", "yes", "begin"], ["end"], body=body),
        helper.make_node("ReduceMax", ["end"], ["nothing"], keepdims=1, axes=[0, 1]),
    ]
    return _added(model, nodes, constants)


def _added(model: Any, nodes: list[Any], constants: list[Any]) -> Any:
    """`probabilities` become the old ones plus `nothing`, which `nodes` make."""
    graph = model.graph
    for node in graph.node:
        for position, name in enumerate(node.output):
            if name == "probabilities":
                node.output[position] = "before"
        for position, name in enumerate(node.input):
            if name == "probabilities":
                node.input[position] = "before"
    graph.node.extend(nodes)
    graph.node.append(helper.make_node("Add", ["before", "nothing"], ["probabilities"]))
    graph.initializer.extend(constants)
    return model
