"""The lake: Iceberg tables through PyIceberg, one a topic.

The Kafka offsets behind a batch are in the summary of the snapshot that holds the batch, so that rows and offsets commit
together or not at all, and a restart neither loses nor repeats a row.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec
import pyarrow as pa
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    NamespaceAlreadyExistsError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.expressions import BooleanExpression, EqualTo, GreaterThanOrEqual, LessThan
from sqlalchemy.exc import IntegrityError, OperationalError

from features.settings import StoreSettings
from schemas.errors import HeadraceError

if TYPE_CHECKING:
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot

Offsets = Mapping[tuple[str, int], int]

OFFSETS = "headrace.offsets"
BATCH = "headrace.batch"
# A commit on SQLite takes about 10 ms, and at most the committers of a table (one archiver, a history load) compete for
# it; some thirty seconds of waiting outlast any of them.
BUSY_TIMEOUT_S = 30
APPEND_TRIES_MAX = 20
# A new catalog is three things to make, and each can be lost to another worker once.
OPEN_TRIES_MAX = 5
PROPERTIES = {
    # PyIceberg's own retry would append again without looking at the offsets that the winner committed.
    "commit.retry.num-retries": "0",
    "commit.manifest-merge.enabled": "true",
    "commit.manifest.min-count-to-merge": "20",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "10",
    "write.parquet.compression-codec": "zstd",
}


class LakeUnavailable(HeadraceError):
    """The catalog did not answer: out of reach, or locked by somebody else for longer than is waited."""


class NoSuchLakeTable(HeadraceError):
    """The table was never created."""


class LakeSchemaChanged(HeadraceError):
    """A table exists with other columns than the contract has."""


class OffsetsTaken(HeadraceError):
    """Another committer has already archived these offsets: this one is a zombie and must start again."""


class AppendFailed(HeadraceError):
    """Nothing was committed; read `committed` and append again from there."""


class Lake:
    """The tables of one catalog. Safe to make in every process; not for sharing between threads."""

    def __init__(self, stores: StoreSettings) -> None:
        self._namespace = stores.namespace
        with _reported("opening it"):
            self._catalog = _open(stores)

    def create(self, table: str, schema: pa.Schema) -> bool:
        """Create a table; whether it was missing. One that lacks columns gets them, null in the rows that it has.

        Raises:
            LakeSchemaChanged: it exists with columns that `schema` has not.
        """
        # To look takes no lock; to create takes the catalog's write lock, and writes a metadata file first.
        if self.exists(table):
            self._hold_to(table, schema)
            return False
        try:
            with _reported(f"creating {table}"):
                made = self._catalog.create_table(self._name(table), schema, properties=PROPERTIES)
        except TableAlreadyExistsError:
            self._hold_to(table, schema)
            return False
        return made is not None

    def _hold_to(self, table: str, schema: pa.Schema) -> None:
        held = self.schema(table)
        if set(held.names) - set(schema.names):
            raise LakeSchemaChanged(
                f"lake table {table}",
                wanted=f"columns {schema.names}",
                came=f"it has {held.names}",
                mend="Evolve the table (pyiceberg's update_schema) or give the topic a new name.",
            )
        if set(schema.names) - set(held.names):
            self._widen(table, schema)

    def _widen(self, table: str, schema: pa.Schema) -> None:
        """Add the columns that a contract has gained, which are optional there: its old records lack them too."""
        for tries_left in reversed(range(APPEND_TRIES_MAX)):
            held = self._load(table)
            names = held.schema().as_arrow().names
            gained = pa.schema([f.with_nullable(True) for f in schema if f.name not in names])
            try:
                with _reported(f"adding columns to {table}"), held.update_schema() as update:
                    update.union_by_name(gained)
            except CommitFailedException:
                # A batch was appended meanwhile, or another worker did the same.
                if not tries_left:
                    raise
                time.sleep(random.uniform(0.01, 0.05))
            else:
                return

    def tables(self) -> list[str]:
        """The names of all tables, in order."""
        with _reported("listing tables"):
            return sorted(name[-1] for name in self._catalog.list_tables(self._namespace))

    def exists(self, table: str) -> bool:
        """Whether the table was created."""
        with _reported(f"looking for {table}"):
            return bool(self._catalog.table_exists(self._name(table)))

    def schema(self, table: str) -> pa.Schema:
        """The table's columns."""
        return self._load(table).schema().as_arrow()

    def snapshot_id(self, table: str) -> int | None:
        """The current snapshot, to read the same rows again later; None while the table is empty."""
        snapshot = self._load(table).current_snapshot()
        return snapshot.snapshot_id if snapshot else None

    def rows(self, table: str) -> int:
        """How many rows the table holds, from its newest snapshot's summary: no file is read."""
        snapshot = self._load(table).current_snapshot()
        return int(snapshot.summary["total-records"]) if snapshot and snapshot.summary else 0

    def committed(self, table: str) -> dict[tuple[str, int], int]:
        """(topic, partition) → the next offset to archive; empty while none was."""
        return _committed(self._load(table))

    def pin(self, table: str) -> tuple[int | None, dict[tuple[str, int], int]]:
        """The current snapshot, and the next offsets to archive after just its rows."""
        held = self._load(table)
        snapshot = held.current_snapshot()
        return (snapshot.snapshot_id if snapshot else None), _committed(held)

    def append(self, table: str, rows: pa.Table, offsets: Offsets | None = None) -> int | None:
        """Append rows and, in the same commit, the offsets after them. Returns the snapshot's id.

        Args:
            table: The table's name.
            rows: With the table's columns, in any order.
            offsets: (topic, partition) → the next offset to read. Other partitions keep theirs. History has none.

        Raises:
            OffsetsTaken: rows of these offsets are in the table already, from another committer.
            AppendFailed: nothing was committed.
            LakeUnavailable: the catalog did not answer; what `committed` says once it does is true.
        """
        batch = uuid.uuid4().hex
        for attempt in range(APPEND_TRIES_MAX):
            target = self._load(table)
            summary = {BATCH: batch}
            if offsets:
                held = _committed(target)
                _refuse_taken(table, rows, offsets, held)
                summary[OFFSETS] = _pack(held | dict(offsets))
            try:
                target.append(_fitted(rows, target), snapshot_properties=summary)
            except CommitFailedException:
                time.sleep(random.uniform(0.01, 0.05) * (attempt + 1))
            except (CommitStateUnknownException, OperationalError) as error:
                found = self._snapshot_of(table, batch)
                if found is None:
                    raise _append_failed(table, str(error)) from error
                return found
            else:
                return self._snapshot_of(table, batch)
        raise _append_failed(table, f"{APPEND_TRIES_MAX} other commits came first")

    def _snapshot_of(self, table: str, batch: str) -> int | None:
        for snapshot in _newest_first(self._load(table)):
            if snapshot.summary and snapshot.summary.get(BATCH) == batch:
                return int(snapshot.snapshot_id)
        return None

    def scan(
        self,
        table: str,
        *,
        snapshot_id: int | None = None,
        since_ms: int | None = None,
        until_ms: int | None = None,
        ingested_since_ms: int | None = None,
        equal: Mapping[str, str | int] | None = None,
        columns: tuple[str, ...] = ("*",),
    ) -> pa.Table:
        """Rows as Arrow: of a snapshot (else the newest), with `since_ms ≤ event_time_ms < until_ms`.

        With `ingested_since_ms`, only what was ingested then or later; with `equal`, only where those columns have those
        values.
        """
        bounds: list[BooleanExpression] = []
        if since_ms is not None:
            bounds.append(GreaterThanOrEqual("event_time_ms", since_ms))
        if until_ms is not None:
            bounds.append(LessThan("event_time_ms", until_ms))
        if ingested_since_ms is not None:
            bounds.append(GreaterThanOrEqual("ingest_ms", ingested_since_ms))
        bounds += [EqualTo(column, value) for column, value in (equal or {}).items()]
        source = self._load(table)
        scan = source.scan(selected_fields=columns, snapshot_id=snapshot_id)
        for bound in bounds:
            scan = scan.filter(bound)
        return scan.to_arrow()

    def _name(self, table: str) -> str:
        return f"{self._namespace}.{table}"

    def _load(self, table: str) -> Table:
        try:
            with _reported(f"loading {table}"):
                return self._catalog.load_table(self._name(table))
        except NoSuchTableError as error:
            raise NoSuchLakeTable(
                f"lake table {table}",
                wanted="it to exist",
                came="the catalog has none of that name",
                mend="Run `headrace features apply`.",
            ) from error


@contextmanager
def _reported(doing: str) -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        raise LakeUnavailable(
            "lake catalog",
            wanted=f"an answer in time, {doing}",
            came=str(error.orig),
            mend="Is its database up, and does another process hold its lock?",
        ) from error


def _open(stores: StoreSettings) -> Catalog:
    uri = stores.catalog_uri
    if uri.startswith("sqlite:///") and "timeout=" not in uri:
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        uri += f"?timeout={BUSY_TIMEOUT_S}"
    warehouse = stores.warehouse
    if warehouse.startswith("file://."):
        # Relative to the working directory, like every other path of the settings; PyIceberg wants it whole.
        warehouse = f"file://{Path(warehouse.removeprefix('file://')).resolve()}"
    if warehouse.startswith("file://"):
        Path(urlsplit(warehouse).path).mkdir(parents=True, exist_ok=True)
    for tries_left in reversed(range(OPEN_TRIES_MAX)):
        try:
            catalog = load_catalog(
                "headrace", type=stores.catalog_type, uri=uri, warehouse=warehouse
            )
            catalog.create_namespace_if_not_exists(stores.namespace)
        except (OperationalError, IntegrityError, NamespaceAlreadyExistsError):
            # Another worker made a table of the catalog, or the namespace, between the look and the write: look again.
            if not tries_left:
                raise
            time.sleep(random.uniform(0.01, 0.05))
        else:
            return catalog
    raise AssertionError


def _newest_first(table: Table) -> Iterator[Snapshot]:
    snapshot = table.current_snapshot()
    while snapshot is not None:
        yield snapshot
        parent = snapshot.parent_snapshot_id
        snapshot = table.snapshot_by_id(parent) if parent is not None else None


def _committed(table: Table) -> dict[tuple[str, int], int]:
    for snapshot in _newest_first(table):
        packed = snapshot.summary.get(OFFSETS) if snapshot.summary else None
        if packed:
            return _unpack(packed)
    return {}


def _pack(offsets: Offsets) -> str:
    flat = {f"{topic}:{partition}": offset for (topic, partition), offset in offsets.items()}
    return msgspec.json.encode(flat, order="sorted").decode()


def _unpack(packed: str) -> dict[tuple[str, int], int]:
    flat = msgspec.json.decode(packed, type=dict[str, int])
    parted = ((name.rpartition(":"), offset) for name, offset in flat.items())
    return {(topic, int(partition)): offset for (topic, _, partition), offset in parted}


def _refuse_taken(table: str, rows: pa.Table, offsets: Offsets, held: Offsets) -> None:
    behind = {k: v for k, v in offsets.items() if v < held.get(k, 0)}
    if not behind and "kafka_offset" in rows.column_names:
        first = rows.group_by(["kafka_topic", "kafka_partition"]).aggregate(
            [("kafka_offset", "min")]
        )
        behind = {
            key: row["kafka_offset_min"]
            for row in first.to_pylist()
            if (key := (row["kafka_topic"], row["kafka_partition"])) in held
            and row["kafka_offset_min"] is not None
            and row["kafka_offset_min"] < held[key]
        }
    if behind:
        raise OffsetsTaken(
            f"lake table {table}",
            wanted=f"rows from {held} on",
            came=f"they start at {behind}",
            mend="Another archiver runs on this table; start again from `committed`.",
        )


def _fitted(rows: pa.Table, table: Table) -> pa.Table:
    """The rows in the table's column order, and non-null where it is: a null there raises ArrowInvalid."""
    fields = [
        pa.field(f.name, rows.schema.field(f.name).type, nullable=not f.required)
        for f in table.schema().fields
    ]
    return rows.select([f.name for f in fields]).cast(pa.schema(fields))


def _append_failed(table: str, came: str) -> AppendFailed:
    return AppendFailed(
        f"lake table {table}",
        wanted="a commit",
        came=came,
        mend="Nothing was written; read the committed offsets and append again.",
    )
