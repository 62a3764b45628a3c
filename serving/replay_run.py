"""A replay over the lake: read in order, scored in batches, published beside, and gone on with after an interruption."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import Producer

from schemas import topics
from schemas.envelope import headers
from schemas.errors import HeadraceError
from schemas.results import Replayed, Status
from serving import runtime
from serving.registry import Registry
from serving.replay import Difference, Logged, Pair, rescored

if TYPE_CHECKING:
    from features.lake import Lake
    from schemas.settings import KafkaSettings
    from serving.runtime import Model

# Rows a batch: what is lost when it is interrupted, and how often it says how far it is.
BATCH_ROWS = 1_000
FLUSH_TIMEOUT_S = 30.0
METADATA_TIMEOUT_S = 10.0
COLUMNS = (
    *("request_id", "entity", "event_time_ms", "model", "version"),
    *("status", "score", "label", "features"),
)


class ReplayUnpublished(HeadraceError):
    """Kafka did not take what was scored again; the same replay goes on from the last batch it took."""


@dataclass(frozen=True)
class Asked:
    """What to replay: results with `since_ms ≤ event_time_ms < until_ms`, by `version`, or each by its own.

    `snapshot_id` pins the lake, so that one that is gone on with reads the same rows.
    """

    case: str
    since_ms: int | None = None
    until_ms: int | None = None
    version: str | None = None
    limit: int | None = None

    @property
    def name(self) -> str:
        """The same for the same question."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Progress:
    """How far a replay has come; kept as JSON after every batch, and removed at its end."""

    snapshot_id: int | None
    rows: int
    difference: Difference

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """What was left there; None where nothing was."""
        if not path.exists():
            return None
        kept = json.loads(path.read_text(encoding="utf-8"))
        difference = kept["difference"].items()
        told: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in difference}
        return cls(kept["snapshot_id"], kept["rows"], Difference(**told))

    def save(self, path: Path) -> None:
        """By renaming: whoever reads it, reads all of it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_text(json.dumps(asdict(self)), encoding="utf-8")
        new.replace(path)


class Replay:
    """One replay. `run` may be interrupted between any two batches.

    Args:
        asked: What.
        kafka: Where to publish.
        lake: Where results are.
        models_dir: Where versions are.
        state_dir: Where its progress is kept.
    """

    def __init__(
        self, asked: Asked, kafka: KafkaSettings, lake: Lake, models_dir: Path, state_dir: Path
    ) -> None:
        table = topics.table_of(asked.case)
        self._asked, self._lake = asked, lake
        self._table, self._topic = (
            table[f"{asked.case}.results"].table,
            table[f"{asked.case}.replay"],
        )
        self._path = state_dir / f"{asked.name}.json"
        self._models = _Models(models_dir)
        # A record published twice by an interruption is the same record: no transaction is needed.
        self._producer = Producer(kafka.client_config(enable_idempotence=True, linger_ms=20))
        self._kafka = kafka
        self.resumed = Progress.load(self._path)

    def run(self, told: Callable[[int, int], None]) -> Difference:
        """Score everything again.

        Args:
            told: Called after every batch with the rows done and their whole number.

        Raises:
            UnknownVersion: There is no such version on disk.
            ModelRefused: A version is not what its manifest says.
            ReplayUnpublished: Kafka did not take a batch.
            NoSuchLakeTable: Nothing was archived yet.
        """
        if topics.missing(self._kafka, [self._topic.name], METADATA_TIMEOUT_S):
            topics.create(self._kafka, [self._topic])
        now = self.resumed or Progress(self._lake.snapshot_id(self._table), 0, Difference())
        rows = self._rows(now.snapshot_id)
        for first in range(now.rows, len(rows), BATCH_ROWS):
            batch = _logged(rows.slice(first, BATCH_ROWS))
            pairs = self._scored(batch)
            self._publish(pairs)
            done = first + len(batch)
            now = Progress(now.snapshot_id, done, now.difference.plus(pairs))
            now.save(self._path)
            told(done, len(rows))
        self._path.unlink(missing_ok=True)
        return now.difference

    def _rows(self, snapshot_id: int | None) -> pa.Table:
        """Results with a vector, in an order that does not depend on how the lake is filed."""
        found = self._lake.scan(
            self._table,
            snapshot_id=snapshot_id,
            since_ms=self._asked.since_ms,
            until_ms=self._asked.until_ms,
            columns=COLUMNS,
        )
        found = found.filter(pc.not_equal(found["status"], Status.EXPIRED.value))
        order = [("event_time_ms", "ascending"), ("request_id", "ascending")]
        rows: pa.Table = found.take(pc.sort_indices(found, order))
        return rows if self._asked.limit is None else rows.slice(0, self._asked.limit)

    def _scored(self, batch: list[Logged]) -> list[Pair]:
        """By the version asked for, or by each row's own, and in the order of the batch."""
        by_version: dict[tuple[str, str], list[int]] = {}
        for place, row in enumerate(batch):
            by_version.setdefault((row.model, self._asked.version or row.version), []).append(place)
        found: dict[int, Pair] = {}
        for (name, version), places in by_version.items():
            model, inputs = self._models.of(name, version)
            pairs = rescored(model, inputs, version, [batch[place] for place in places])
            found |= dict(zip(places, pairs, strict=True))
        return [found[place] for place in range(len(batch))]

    def _publish(self, pairs: list[Pair]) -> None:
        failed: list[str] = []

        def delivered(error: object, _: object) -> None:
            if error is not None:
                failed.append(str(error))

        for pair in pairs:
            event = _event(pair)
            source = f"headrace/{self._asked.case}.replay"
            self._producer.produce(
                self._topic.name,
                key=event.key,
                value=event.encode(),
                headers=headers(event, source=source),
                on_delivery=delivered,
            )
            self._producer.poll(0)
        if self._producer.flush(FLUSH_TIMEOUT_S) or failed:
            raise ReplayUnpublished(
                f"topic {self._topic.name} on {self._kafka.bootstrap_servers}",
                wanted=f"{len(pairs)} records acknowledged",
                came=failed[0] if failed else f"no answer within {FLUSH_TIMEOUT_S} s",
                mend="Is the broker up (`headrace status`)? The same command goes on from here.",
            )


class _Models:
    """Versions in memory, each loaded and verified once."""

    def __init__(self, models_dir: Path) -> None:
        self._registry = Registry(models_dir)
        self._loaded: dict[tuple[str, str], tuple[Model, tuple[str, ...]]] = {}

    def of(self, model: str, version: str) -> tuple[Model, tuple[str, ...]]:
        if (model, version) not in self._loaded:
            loaded = runtime.load(self._registry.path(model, version))
            self._loaded[model, version] = (loaded, loaded.manifest.inputs)
        return self._loaded[model, version]


def _logged(rows: pa.Table) -> list[Logged]:
    return [
        Logged(
            request_id=row["request_id"],
            entity=row["entity"],
            event_time_ms=row["event_time_ms"],
            model=row["model"],
            version=row["version"],
            score=row["score"] if row["status"] == Status.SCORED.value else None,
            label=row["label"],
            features=dict(row["features"]),
        )
        for row in rows.to_pylist()
    ]


def _event(pair: Pair) -> Replayed:
    logged = pair.logged
    return Replayed(
        event_time_ms=logged.event_time_ms,
        request_id=logged.request_id,
        entity=logged.entity,
        version=pair.version,
        score=pair.score,
        label=pair.label,
        logged_version=logged.version,
        logged_score=logged.score,
        logged_label=logged.label,
    )
