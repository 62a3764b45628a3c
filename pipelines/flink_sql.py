"""A `View` as Flink SQL. Pure: the same view and settings give the same text.

One job a view, one INSERT a hop, all in one statement set. Each INSERT has a sink table of its own on the view's one
topic, whose PRIMARY KEY is exactly its GROUP BY: Flink then writes plain upserts. A UNION of the hops would lose the
upsert key and send a tombstone before every update; a join with constants would keep all its input as state.

Each INSERT forgets its tiles after its own longest window and the allowed lateness, by a hint: the job's one setting would keep
the finest tiles for as long as the longest window of all.

There are no watermarks. A tile's whole value is emitted at every event, and a late event lands in its own tile.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from features.state_cost import tile_life_s
from features.views import Handover, KeyType, Layout, Partial, View
from pipelines import distinct_function, pace
from pipelines.settings import FlinkSettings
from pipelines.sql_names import SqlRefused, literal, quoted, topic_name
from pipelines.tile_query import BASE, SOURCE, has_base, reads_place, tile_query
from schemas.envelope import ORIGIN_OFFSET
from schemas.settings import KafkaSettings

# The fields of a tile row besides join keys and partials; the last two only where requests are feature events.
TILE_FIELDS = ("tile", "n", "clock_ms", "source_offset", "source_partition")
_KEY_TYPES: Mapping[KeyType, str] = {"string": "STRING", "bigint": "BIGINT"}
_COLUMN_TYPES = {"string": "STRING", "bigint": "BIGINT", "double": "DOUBLE"}


@dataclass(frozen=True)
class Job:
    """What is submitted for one view.

    Attributes:
        view: The view's name and version.
        options: Flink's configuration of the job, without its name.
        tables: `CREATE TEMPORARY` statements, of a function and of tables; they hold the credentials of Kafka where there are any, so they are never logged.
        inserts: One `INSERT INTO` a hop.
    """

    view: str
    options: Mapping[str, str]
    tables: tuple[str, ...]
    inserts: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """12 hex digits over all that is submitted."""
        parts = [sorted(self.options.items()), self.tables, self.inserts]
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=6).hexdigest()

    @property
    def name(self) -> str:
        """The job's name on the cluster, by which a later submission knows whether it runs already."""
        return f"{job_prefix(self.view)}{self.fingerprint}]"


def job_prefix(view: str) -> str:
    """What the names of all jobs of a view's version begin with."""
    return f"features.{view} ["


def view_prefix(name: str) -> str:
    """What the names of all jobs of a view begin with, whatever its version."""
    return f"features.{name}."


def job(
    view: View, kafka: KafkaSettings, flink: FlinkSettings, handover: Handover | None = None
) -> Job:
    """Compile a view.

    Args:
        view: The view.
        kafka: Where its topics are.
        flink: What every job shares.
        handover: Where it begins, if not with the stream.

    Raises:
        SqlRefused: A name of the view is not a plain identifier, or is one of the tile row's own.
    """
    _refuse_reserved(view)
    sinks = [_sink_table(view, layout, kafka) for layout in view.layouts]
    base = [_base_table(view, kafka, handover.base_topic)] if has_base(handover) else []
    return Job(
        view=view.versioned,
        options=_options(view, flink),
        tables=(
            *distinct_function.statements(view),
            _source_table(view, kafka, handover),
            *base,
            *sinks,
        ),
        inserts=tuple(_insert(view, layout, flink, handover) for layout in view.layouts),
    )


def _insert(view: View, layout: Layout, flink: FlinkSettings, handover: Handover | None) -> str:
    life_s = tile_life_s(view, layout.hop_s, flink.lateness_s)
    return f"INSERT INTO {quoted(_sink_name(layout))}\n{tile_query(view, layout, life_s, handover)}"


def _options(view: View, flink: FlinkSettings) -> dict[str, str]:
    life_s = max(tile_life_s(view, layout.hop_s, flink.lateness_s) for layout in view.layouts)
    return {
        "parallelism.default": str(flink.parallelism),
        # The default of 100 ms would be waited by every event of a quiet stream.
        "execution.buffer-timeout.interval": "1 ms",
        "table.exec.mini-batch.enabled": "false",
        # Counts must not double after a restore: barriers are aligned, although the sink is only at least once.
        "execution.checkpointing.mode": "EXACTLY_ONCE",
        "execution.checkpointing.interval": f"{round(flink.checkpoint_interval_s * 1000)} ms",
        "restart-strategy.type": "exponential-delay",
        "restart-strategy.exponential-delay.initial-backoff": "1 s",
        "restart-strategy.exponential-delay.max-backoff": "10 s",
        # Measured in processing time from a tile's last event; whoever comes later than this starts a new count, which
        # readers drop because it is lower than the one they hold. Of the longest hop; each INSERT says its own.
        "table.exec.state.ttl": f"{life_s} s",
        # Operators keep their ids, so that a savepoint fits the same statements again.
        "table.exec.uid.generation": "ALWAYS",
        "table.local-time-zone": "UTC",
        **distinct_function.options(view),
    }


def _source_table(view: View, kafka: KafkaSettings, handover: Handover | None) -> str:
    made = view.row_sql.columns if view.row_sql else {}
    waits = pace.of([view])
    columns = {k.name: _KEY_TYPES[k.type] for k in view.join_keys if k.name not in made}
    columns["event_time_ms"] = "BIGINT"
    columns[view.event_id_field] = "STRING"
    for name, kind in view.source_columns.items():
        columns.setdefault(name, _COLUMN_TYPES[kind])
    lines = [f"{quoted(name)} {kind}" for name, kind in columns.items()]
    lines += _place_columns(view, handover)
    options = {
        "connector": "kafka",
        "topic": topic_name(view.topic),
        **_client_options(kafka),
        "properties.group.id": topic_name(view.topic_out),
        # Only committed records exist: what the intake took back was never there.
        "properties.isolation.level": "read_committed",
        "properties.fetch.max.wait.ms": str(waits.fetch_ms),
        "properties.fetch.min.bytes": str(waits.fetch_bytes),
        # State is rebuilt from here where no checkpoint is restored; the group's offsets are for the eye only.
        **_startup(view, handover),
        "format": "json",
        # The intake has judged every record, and a job must never stop over one that Flink reads differently.
        "json.ignore-parse-errors": "true",
    }
    return _create(SOURCE, lines, options)


def _place_columns(view: View, handover: Handover | None) -> list[str]:
    """Where an event stood in the topic that the intake copied it from; nothing where nobody asks, for it costs a sixth."""
    if not reads_place(view, handover):
        return []
    header = f"`headers`[{literal(ORIGIN_OFFSET)}]"
    return [
        "`headers` MAP<STRING, BYTES> METADATA VIRTUAL",
        f"`source_offset` AS CAST(CAST({header} AS STRING) AS BIGINT)",
        "`source_partition` INT METADATA FROM 'partition' VIRTUAL",
    ]


def _startup(view: View, handover: Handover | None) -> dict[str, str]:
    """Where reading starts: with the stream, or with the first event that the snapshot did not hold.

    Offsets of the request topic say nothing of the copy's; there `_after` leaves out what the snapshot held.
    """
    if handover is None or view.copied:
        return {"scan.startup.mode": "earliest-offset"}
    offsets = (f"partition:{p},offset:{o}" for p, o in enumerate(handover.offsets))
    return {
        "scan.startup.mode": "specific-offsets",
        "scan.startup.specific-offsets": ";".join(offsets),
    }


def _base_table(view: View, kafka: KafkaSettings, topic: str) -> str:
    partials = dict.fromkeys(p for layout in view.layouts for p in layout.partials)
    options = {
        "connector": "kafka",
        "topic": topic_name(topic),
        **_client_options(kafka),
        "properties.group.id": topic_name(view.topic_out),
        # Written in one transaction: all of it or nothing.
        "properties.isolation.level": "read_committed",
        "scan.startup.mode": "earliest-offset",
        "format": "json",
    }
    return _create(BASE, _row_columns(view, partials), options)


def _row_columns(view: View, partials: Iterable[Partial]) -> list[str]:
    """The columns of a tile row."""
    lines = [f"{quoted(key.name)} {_KEY_TYPES[key.type]}" for key in view.join_keys]
    lines += ["`tile` STRING", "`n` BIGINT"]
    lines += [f"{quoted(p.field)} {_partial_type(p)}" for p in partials]
    place = ["`source_offset` BIGINT", "`source_partition` INT"] if view.origin_offsets else []
    return [*lines, "`clock_ms` BIGINT", *place]


def _sink_table(view: View, layout: Layout, kafka: KafkaSettings) -> str:
    lines = _row_columns(view, layout.partials)
    keys = ", ".join([*(quoted(key.name) for key in view.join_keys), "`tile`"])
    lines += [f"PRIMARY KEY ({keys}) NOT ENFORCED"]
    options = {
        "connector": "upsert-kafka",
        "topic": topic_name(view.topic_out),
        **_client_options(kafka),
        # Whole tiles are idempotent; exactly once would show them only at the next checkpoint.
        "sink.delivery-guarantee": "at-least-once",
        "properties.linger.ms": str(pace.of([view]).linger_ms),
        "key.format": "json",
        "value.format": "json",
    }
    return _create(_sink_name(layout), lines, options)


def _partial_type(partial: Partial) -> str:
    if partial.kind in ("first", "last", "distinct"):
        return "STRING"
    return "BIGINT" if partial.kind == "count" else "DOUBLE"


def _client_options(kafka: KafkaSettings) -> dict[str, str]:
    """The address and security of Kafka in the Java client's words."""
    options = {
        "properties.bootstrap.servers": kafka.bootstrap_servers,
        "properties.security.protocol": kafka.security_protocol,
    }
    if kafka.sasl_mechanism:
        options["properties.sasl.mechanism"] = kafka.sasl_mechanism
    if kafka.sasl_username and kafka.sasl_password:
        scram = (kafka.sasl_mechanism or "").startswith("SCRAM")
        module = "scram.ScramLoginModule" if scram else "plain.PlainLoginModule"
        options["properties.sasl.jaas.config"] = (
            # The connector's jar holds Kafka's classes under a name of its own.
            f"org.apache.flink.kafka.shaded.org.apache.kafka.common.security.{module} required "
            f"username={_jaas(kafka.sasl_username)} "
            f"password={_jaas(kafka.sasl_password.get_secret_value())};"
        )
    if kafka.ssl_ca_location:
        options["properties.ssl.truststore.type"] = "PEM"
        options["properties.ssl.truststore.location"] = kafka.ssl_ca_location
    return options


def _jaas(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _create(name: str, lines: list[str], options: Mapping[str, str]) -> str:
    body = ",\n".join(f"  {line}" for line in lines)
    pairs = ",\n".join(f"  {literal(key)} = {literal(value)}" for key, value in options.items())
    return f"CREATE TEMPORARY TABLE {quoted(name)} (\n{body}\n) WITH (\n{pairs}\n)"


def _sink_name(layout: Layout) -> str:
    return f"tiles_{layout.hop_s}"


def _refuse_reserved(view: View) -> None:
    names = [*(key.name for key in view.join_keys), *view.columns, view.event_id_field]
    for name in names:
        if name in TILE_FIELDS:
            raise SqlRefused(
                f"view {view.name}, column {name}",
                wanted=f"a name other than {', '.join(TILE_FIELDS)}",
                came="it is a field of the tile rows",
                mend="Rename the column in the stream's contract.",
            )
