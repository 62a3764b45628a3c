"""A model that is hurt by whom it is asked about, and a scorer that serves it: `python -m tests.faults.hurt_model CASE SECTION… [SLOT]`.

The graph is a real one and the runtime is ONNX Runtime itself; what goes wrong goes wrong in there. Only a call that
cannot be ended (`STUCK`) is made here: a sleep around the runtime's.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from schemas.envelope import header
from schemas.inputs import RequestInput
from serving import release_log
from serving.output_contract import Bools, ScoreRule, Scores
from tests.faults import answers, scored
from tests.faults.replicas import STATIONS
from tests.faults.stage import Stage, Worker
from tests.pipelines.records import committed
from tests.serving import model_folders

# What the model does where one of these is among the rows. The first station is not one: a model is tried on zeros.
HURT = STATIONS[1:9]
RAISES, NAN, TOO_HIGH, SHORT, BROKEN_RULE, MEMORY, HANGS, STUCK = HURT
WELL = (STATIONS[0], *STATIONS[9:])
# The use case's rule cannot answer for this one either.
LOST = MEMORY
ROWS_IN_MEMORY = 16
PREDICT_MS_MAX = 500
# More bytes than an address has bits for: refused wherever it runs, and nothing is used up.
_TOO_LARGE = 1 << 46
_LOOP_WITHOUT_END = 1 << 60
_HIGH, _SCORE = 1.5, 0.25


def register(case: str) -> str:
    """As `scored` does, with the station as an input of the model, and declarations of its own."""
    scored.register(case)
    contracts, rules = sys.modules[f"schemas.{case}"], sys.modules[f"serving.{case}"]
    vars(contracts)["INPUTS"] = (RequestInput("station", STATIONS),)
    _declare(rules)
    return case


def _declare(rules: ModuleType) -> None:
    def fallback(request: Any, _: object) -> float:
        if request.station == LOST:
            raise LookupError(f"no rule for {LOST}")
        return scored.RULE_SCORE

    def not_broken(_: Scores, station: Scores) -> Bools:
        broken: Bools = station == STATIONS.index(BROKEN_RULE)
        return ~broken

    rule = ScoreRule("a rule of the business", ("station",), not_broken)
    vars(rules).update(fallback=fallback, SCORE_RULES=(rule,), PREDICT_MS_MAX=PREDICT_MS_MAX)


def release(stage: Stage) -> Path:
    """The hurt model, released; returns the models' folder."""
    register(stage.case)
    models = stage.folder / "models"
    inputs = 1 + len(stage.view.aggregates)
    made = graph(inputs)
    model_folders.write(models, answers.VERSION, of=stage.case, given=stage.plan, model=made)
    first = release_log.first(
        stage.case,
        stage.case,
        answers.VERSION,
        event_time_ms=answers.RELEASED_MS,
        decided_by="fault",
    )
    release_log.publish(stage.rig.kafka, first)
    return models


def dead(stage: Stage) -> list[tuple[str, str]]:
    """Station and reason of every dead letter."""
    letters = committed(stage.rig.kafka, f"{stage.case}.requests.dlq")
    return [
        (json.loads(m.value() or b"{}")["station"], str(header(m, "headrace_reason")))
        for m in letters
    ]


def counted(scorer: Worker, name: str) -> int:
    """What the scorer counted, which it says when it ends."""
    scorer.stop()
    said = re.findall(
        rf"\b{name}(?:\x1b\[[0-9;]*m)*=(?:\x1b\[[0-9;]*m)*(\d+)", answers.log_of(scorer)
    )
    return int(said[-1]) if said else 0


def graph(inputs: int, *, whole: bool = False) -> Any:
    """A score of 0.25, unless a station of the list is among the rows; `whole` makes it whole numbers, of the wrong type."""
    made = helper.make_graph(
        _nodes(whole=whole),
        "hurt",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, inputs])],
        [
            helper.make_tensor_value_info(
                "scores", TensorProto.INT64 if whole else TensorProto.FLOAT, [None]
            )
        ],
        [numpy_helper.from_array(value, name) for name, value in _constants().items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _nodes(*, whole: bool) -> list[Any]:
    node = helper.make_node
    return [
        node("Gather", ["input", "first_column"], ["code"], axis=1),
        node("Shape", ["code"], ["rows"]),
        node("Expand", ["score", "rows"], ["sound"]),
        # An index beyond its table.
        *_among(RAISES),
        node("Where", [f"has_{RAISES}", "ten", "zero"], ["index"]),
        node("Gather", ["table", "index"], ["one_a"]),
        # Memory that nobody has.
        *_among(MEMORY),
        node("Greater", ["rows", "rows_in_memory"], ["too_many"]),
        node("Or", [f"has_{MEMORY}", "too_many"], ["greedy"]),
        node("Where", ["greedy", "too_large", "one"], ["room"]),
        node("Expand", ["table_first", "room"], ["space"]),
        node("ReduceMax", ["space"], ["one_b"], keepdims=0),
        # A loop without an end.
        *_among(HANGS),
        node("Where", [f"has_{HANGS}", "without_end", "zero"], ["turns"]),
        node("Squeeze", ["turns"], ["turns_scalar"]),
        node("Loop", ["turns_scalar", "yes", "table_first"], ["one_c"], body=_loop()),
        node("Mul", ["sound", "one_a"], ["a"]),
        node("Mul", ["a", "one_b"], ["b"]),
        node("Mul", ["b", "one_c"], ["c"]),
        node("Equal", ["code", f"code_{NAN}"], ["is_nan"]),
        node("Where", ["is_nan", "nan", "c"], ["d"]),
        node("Equal", ["code", f"code_{TOO_HIGH}"], ["is_high"]),
        node("Where", ["is_high", "high", "d"], ["e"]),
        # Fewer scores than rows.
        node("Equal", ["code", f"code_{SHORT}"], ["is_short"]),
        node("Not", ["is_short"], ["kept"]),
        node("Compress", ["e", "kept"], ["whole_or_not"], axis=0),
        node("Cast", ["whole_or_not"], ["scores"], to=TensorProto.INT64)
        if whole
        else node("Identity", ["whole_or_not"], ["scores"]),
    ]


def _among(station: str) -> list[Any]:
    """Whether a row is about the station, as `[1]`."""
    node = helper.make_node
    return [
        node("Equal", ["code", f"code_{station}"], [f"is_{station}"]),
        node("Cast", [f"is_{station}"], [f"number_{station}"], to=TensorProto.FLOAT),
        node("ReduceMax", [f"number_{station}"], [f"most_{station}"], keepdims=1),
        node("Greater", [f"most_{station}", "half"], [f"has_{station}"]),
    ]


def _loop() -> Any:
    value = helper.make_tensor_value_info
    return helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Identity", ["kept_in"], ["kept_out"]),
        ],
        "turn",
        [
            value("turn", TensorProto.INT64, []),
            value("go", TensorProto.BOOL, []),
            value("kept_in", TensorProto.FLOAT, [1]),
        ],
        [value("go_on", TensorProto.BOOL, []), value("kept_out", TensorProto.FLOAT, [1])],
    )


def _constants() -> dict[str, Any]:
    floats = {
        "score": [_SCORE],
        "half": [0.5],
        "table": [1.0],
        "table_first": [1.0],
        "nan": [np.nan],
        "high": [_HIGH],
        **{f"code_{name}": [float(STATIONS.index(name))] for name in HURT},
    }
    wholes = {
        "first_column": 0,
        "zero": [0],
        "one": [1],
        "ten": [10],
        "rows_in_memory": [ROWS_IN_MEMORY],
        "too_large": [_TOO_LARGE],
        "without_end": [_LOOP_WITHOUT_END],
    }
    return {
        **{name: np.array(value, dtype=np.float32) for name, value in floats.items()},
        **{name: np.array(value, dtype=np.int64) for name, value in wholes.items()},
        "yes": np.array(True),
    }


class Stuck(onnxruntime.InferenceSession):
    """The runtime, with a call that nobody can end."""

    def run(self, names: Any, given: Any, options: Any = None) -> Any:
        """Sleep for ever where the station is among the rows."""
        if (next(iter(given.values()))[:, 0] == STATIONS.index(STUCK)).any():
            time.sleep(3_600)
        return super().run(names, given, options)


def main() -> None:
    """Become the scorer."""
    vars(sys.modules["onnxruntime"])["InferenceSession"] = Stuck
    scored.main(register)


if __name__ == "__main__":
    main()
