"""A use case made of a stream whose drift is known: its rows are requests, their labels outcomes, and no feature is windowed."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import create_model
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from monitoring.policy import GuardPolicy, LoopPolicy, Policy, WindowPolicy
from pipelines.training_set import HOLDOUT_S
from schemas import topics
from schemas.events import Event, Id
from schemas.inputs import RequestInput
from serving.gate import Requirement
from tests.monitoring.known_streams import KNOWN, Known

Floats = NDArray[np.float64]

# The newest week of a training set is held out, so that a row every ten minutes holds out a thousand.
ROW_MS = 600_000
HELD_OUT_ROWS = HOLDOUT_S * 1_000 // ROW_MS
OUTCOME_AFTER_ROWS = 5
# Rows are sent by so many at a time; windows and what they wait end with a chunk.
CHUNK_ROWS = 250
# How long a window waits for outcomes, and what a retraining looks back to: a version that answers a drift is fitted on
# the rows since the window that found it, and they must be enough (2,000, and a week held out).
SINCE_ROWS = 3_250
# Cards or aircraft of an ordinary use case: the split between champion and canary is by these.
ENTITIES = 499
SERVICE = "inputs_alone"
STREAMS = {
    "sea": "SEA, threshold 7 to 9.5",
    "led": "LEDDrift, 7 segments",
    "benign": "benign: effect 0.05",
}
LAYERS = ("schemas", "pipelines", "serving", "monitoring")


class Asked(Event):
    """A row of the stream, without its label."""

    id_field: ClassVar[str] = "request_id"
    key_field: ClassVar[str] = "entity"

    request_id: Id
    entity: Id


class Told(Event):
    """Its label, some rows later."""

    id_field: ClassVar[str] = "request_id"
    key_field: ClassVar[str] = "request_id"

    request_id: Id
    late: bool


@dataclass(frozen=True)
class KnownCase:
    """One stream as a use case.

    Attributes:
        name: Of the use case: topics, folders and modules are called so.
        stream: A key of `STREAMS`.
    """

    name: str
    stream: str

    @property
    def known(self) -> Known:
        """The stream."""
        return KNOWN[STREAMS[self.stream]]

    @property
    def width(self) -> int:
        """How many inputs it has."""
        return _width(self.stream)

    @property
    def start_ms(self) -> int:
        """Of the first row that is sent: a window begins with it. What was before is history."""
        length_ms = self.known.rows * ROW_MS
        return 1_370_000_000_000 // length_ms * length_ms

    def at_ms(self, row: int) -> int:
        """The event time of a row; negative rows are history."""
        return self.start_ms + row * ROW_MS

    def request(self, request_id: str, row: int, values: Floats) -> dict[str, Any]:
        """A row as its request."""
        told: list[Any] = values.tolist()
        inputs = [str(int(v)) for v in told] if self.known.codes else told
        names = {f"x{i}": value for i, value in enumerate(inputs)}
        return {**self._place(request_id, row), "entity": f"e{row % ENTITIES}", **names}

    def outcome(self, request_id: str, row: int, label: float) -> dict[str, Any]:
        """Its outcome, as late as outcomes are."""
        return {**self._place(request_id, row + OUTCOME_AFTER_ROWS), "late": bool(label > 0)}

    def _place(self, request_id: str, row: int) -> dict[str, Any]:
        return {"event_time_ms": self.at_ms(row), "request_id": request_id}

    def register(self) -> None:
        """Make its modules importable in this process."""
        for layer in LAYERS:
            module = ModuleType(f"{layer}.{self.name}")
            module.__spec__ = ModuleSpec(module.__name__, None)
            vars(module).update(contents(layer, self))
            sys.modules[module.__name__] = module

    def write(self, sources: Path) -> None:
        """Make them importable where the platform's source lies under `sources`: trainings are processes of their own."""
        for layer in LAYERS:
            (sources / layer / f"{self.name}.py").write_text(
                "from tests.loop.known_case import KnownCase, contents\n\n"
                f"globals().update(contents({layer!r}, KnownCase({self.name!r}, {self.stream!r})))\n",
                encoding="utf-8",
            )


def contents(layer: str, case: KnownCase) -> dict[str, object]:
    """What the use case declares in a layer."""
    declared: dict[str, dict[str, object]] = {
        "schemas": {
            "REQUEST": _contract(case.stream),
            "TOPICS": topics.standard_topics(
                case.name,
                request=_contract(case.stream),
                outcome=Told,
                streams={},
                request_partitions=2,
            ),
            "INPUTS": tuple(
                RequestInput(f"x{i}", categories=("0", "1") if case.known.codes else None)
                for i in range(case.width)
            ),
            "SERVICE": SERVICE,
            "MODEL": case.name,
        },
        "pipelines": {"train": train, "SEED": 1, "THRESHOLD": 0.5},
        "serving": {
            "CANARY_SHARE": 0.1,
            "GATE": GATE,
            "fallback": lambda _request, _features: 0.5,
            "FALLBACK_THRESHOLD": 0.5,
        },
        "monitoring": {"POLICY": policy(case.known)},
    }
    return declared[layer]


# Where a threshold moves, scores are ranked as before and mean something else: what must get better is the loss.
GATE = (
    Requirement("auc", better="higher", margin=-0.01),
    Requirement("log_loss", better="lower"),
    Requirement("brier", better="lower"),
)


def policy(known: Known) -> Policy:
    """The kernel's thresholds (`tests.monitoring.known_streams`), and a loop that may order more often than it should."""
    window_ms = known.rows * ROW_MS
    plain = known.policy()
    return replace(
        plain,
        window=WindowPolicy(
            length_ms=window_ms, grace_ms=SINCE_ROWS * ROW_MS, rows_min=plain.window.rows_min
        ),
        loop=LoopPolicy(
            cool_down_ms=window_ms,
            orders_max=10,
            orders_per_ms=100 * window_ms,
            look_back_ms=SINCE_ROWS * ROW_MS,
        ),
        guard=GuardPolicy(rows_min=100, rows_decide=200, duration_max_ms=10_000 * ROW_MS),
    )


def train(matrix: NDArray[np.float32], labels: NDArray[np.bool_]) -> Pipeline:
    """The kernel's model; what is missing counts as usual, for the gate refuses what has no answer to an empty row."""
    return make_pipeline(SimpleImputer(strategy="median"), LogisticRegression()).fit(matrix, labels)


@cache
def _width(stream: str) -> int:
    return int(KNOWN[STREAMS[stream]].before(1, 1)[0].shape[1])


@cache
def _contract(stream: str) -> type[Asked]:
    kind: Any = Literal["0", "1"] if KNOWN[STREAMS[stream]].codes else float
    fields: dict[str, Any] = {f"x{i}": (kind, ...) for i in range(_width(stream))}
    return create_model(f"Asked_{stream}", __base__=Asked, **fields)
