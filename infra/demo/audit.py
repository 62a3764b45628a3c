"""Counts, from the topics alone, what happened: shares no code with the scorer, and believes nobody's counters.

Records are read with plain `json`; scores are recomputed with ONNX Runtime from the logged vectors.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from infra.demo.control_audit import contradictions
from infra.exactly_once import History, Wrong, check
from infra.topic_history import asked_of, given_of, refused_of
from infra.topic_scan import scan
from schemas.topics import CONTROL_TOPICS, stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from confluent_kafka import Message
    from numpy.typing import NDArray

    from schemas.settings import KafkaSettings

Json = dict[str, Any]
QUANTILES = {"p50": 50, "p95": 95, "p99": 99}
ROWS_FOR_AUC_MIN = 50


@dataclass(frozen=True)
class Record:
    """A committed record, its identity from its headers."""

    id: str
    value: Json


class Audit:
    """Reads the topics of a use case once and answers from what they hold."""

    def __init__(self, kafka: KafkaSettings, case: str, models_dir: str) -> None:
        self._models = Path(models_dir)
        self.results: list[Record] = []
        given = []
        for message in scan(kafka, f"{case}.results"):
            self.results.append(_record(message))
            given.append(given_of(message))
        self.dead = {
            t.name: [refused_of(m) for m in scan(kafka, t.name)] for t in stage(case, "dlq")
        }
        asked = [asked_of(m) for m in scan(kafka, f"{case}.requests")]
        self._history = History(asked, given, self.dead[f"{case}.requests.dlq"])
        self.control = {t.name: [_record(m) for m in scan(kafka, t.name)] for t in CONTROL_TOPICS}
        self._late = {
            record.id: bool(record.value["late"])
            for record in map(_record, scan(kafka, f"{case}.outcomes.valid"))
        }

    def counts(self) -> Json:
        """Requests and what became of them."""
        judged = check(self._history)
        return {
            "requests": judged.requests,
            "results": judged.results,
            "duplicates": len(judged.of(Wrong.TWICE, Wrong.BOTH, Wrong.UNASKED)),
            "lost": len(judged.of(Wrong.LOST)),
            "dead_lettered": sum(len(ids) for ids in self.dead.values()),
            "dead_lettered_by_topic": {name: len(ids) for name, ids in self.dead.items()},
            "statuses": dict(Counter(record.value["status"] for record in self.results)),
            "routes": dict(Counter(_arm(record) for record in self.results)),
        }

    def latency_ms(self, sent_at: Mapping[str, float], arrived_at: Mapping[str, float]) -> Json:
        """From just before a request was handed to its producer to its committed result at an independent reader."""
        waited = [(arrived_at[i] - sent) * 1000 for i, sent in sent_at.items() if i in arrived_at]
        return {name: round(float(np.percentile(waited, q)), 1) for name, q in QUANTILES.items()}

    def drift(self) -> list[Json]:
        """Every alert: when, of what kind, over which columns, and what was done about it."""
        return [
            {
                "until": _day(alert["window_end_ms"]),
                "kinds": alert["kinds"],
                "version": alert["version"],
                "rows": alert["rows"],
                "columns": alert["drifted"],
                "metrics": alert["metrics"],
                "acted_on": alert["acted_on"],
                "held_back_by": alert["held_back_by"],
                "report": alert["report"],
            }
            for alert in self._said("control.alerts")
        ]

    def retrainings(self) -> list[Json]:
        """Every order and the candidate it came to."""
        candidates = {c["order_id"]: c for c in self._said("control.candidates")}
        return [
            {
                "ordered": _day(order["event_time_ms"]),
                "trained_on": [_day(order["since_ms"]), _day(order["until_ms"])],
                "candidate": candidates.get(order["event_id"], {}).get("version"),
                "error": candidates.get(order["event_id"], {}).get("error"),
            }
            for order in self._said("control.retraining")
        ]

    def trainings_s(self) -> list[float]:
        """How long after each order its candidate was there, in seconds."""
        ordered = {o["event_id"]: int(o["decided_at_ms"]) for o in self._said("control.retraining")}
        return [
            (int(c["decided_at_ms"]) - ordered[c["order_id"]]) / 1000
            for c in self._said("control.candidates")
            if c["order_id"] in ordered
        ]

    def verdicts(self) -> list[Json]:
        """Every decision of the gate (admit, refuse) and of the guard (promote, roll back)."""
        return [
            {
                "at": _day(verdict["event_time_ms"]),
                "verdict": verdict["verdict"],
                "champion": verdict["champion"],
                "candidate": verdict["candidate"],
                "rows": verdict["rows"],
                "champion_metrics": verdict["champion_metrics"],
                "candidate_metrics": verdict["candidate_metrics"],
                "reason": verdict["reason"],
            }
            for verdict in self._said("control.verdicts")
        ]

    def releases(self) -> list[Json]:
        """Every release, in order of its epoch."""
        fields = ("epoch", "champion", "canary", "canary_share", "reason", "decided_by")
        told = sorted(self._said("control.releases"), key=lambda r: int(r["epoch"]))
        return [{"at": _day(r["event_time_ms"]), **{f: r[f] for f in fields}} for r in told]

    def contradictions(self) -> list[str]:
        """What does not fit together in the loop's events."""
        return contradictions({topic: self._said(topic) for topic in self.control})

    def auc(self) -> Json:
        """What the first champion and the promoted one scored, and what the first would have where the other answered."""
        frame = self.labelled()
        releases = self.releases()
        if frame.empty or not releases:
            return {"champion": None, "promoted": None, "same_window": None}
        first, last = releases[0]["champion"], releases[-1]["champion"]
        champion = frame[(frame.version == first) & (frame.route == "champion")]
        told: Json = {"champion": _auc_of(champion, first), "promoted": None, "same_window": None}
        if last != first:
            promoted = frame[(frame.version == last) & (frame.route == "champion")]
            told["promoted"] = _auc_of(promoted, last)
            rescored = promoted.assign(score=self.rescored(first, promoted))
            told["same_window"] = _auc_of(rescored, first)
        return told

    def labelled(self) -> pd.DataFrame:
        """The answers with a score and an outcome: time, version, route, score, outcome, vector."""
        rows = [
            {
                "time_ms": r.value["event_time_ms"],
                "version": r.value["version"],
                "route": r.value["route"],
                "score": r.value["score"],
                "late": self._late[r.id],
                "features": r.value["features"],
            }
            for r in self.results
            if r.id in self._late and r.value["score"] is not None
        ]
        return pd.DataFrame(rows)

    def rescored(self, version: str, rows: pd.DataFrame) -> NDArray[np.float64]:
        """What a version says to the vectors of `labelled` rows."""
        import onnxruntime  # noqa: PLC0415 - loaded only where a promoted model is to be compared

        folder = next(self._models.glob(f"*/{version}"))
        inputs = json.loads((folder / "manifest.json").read_text())["inputs"]
        session = onnxruntime.InferenceSession(
            folder / "model.onnx", providers=["CPUExecutionProvider"]
        )
        matrix = vectors(rows, inputs)
        probabilities = session.run(None, {session.get_inputs()[0].name: matrix})[1]
        return np.asarray(probabilities, dtype=np.float64)[:, 1]

    def _said(self, topic: str) -> list[Json]:
        return [record.value for record in self.control[topic]]


def _auc_of(rows: pd.DataFrame, version: str) -> Json | None:
    if len(rows) < ROWS_FOR_AUC_MIN or rows.late.nunique() < len({True, False}):
        return None
    return {
        "version": version,
        "auc": round(float(roc_auc_score(rows.late, rows.score)), 4),
        "rows": len(rows),
        "window": [_day(int(rows.time_ms.min())), _day(int(rows.time_ms.max()))],
    }


def _id(message: Message) -> str:
    headers: Any = message.headers() or []
    return next((value.decode() for name, value in headers if name == "ce_id"), "")


def _record(message: Message) -> Record:
    return Record(_id(message), json.loads(message.value() or b"{}"))


def _arm(record: Record) -> str:
    return f"{record.value['route']} {record.value['version']}"


def vectors(rows: pd.DataFrame, inputs: Sequence[str]) -> NDArray[np.float32]:
    """The logged vectors of `labelled` rows as a model's input, `[rows, inputs]`; null is NaN."""
    values = [[_number(logged[name]) for name in inputs] for logged in rows.features]
    return np.array(values, dtype=np.float32).reshape(len(rows), len(inputs))


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _day(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
