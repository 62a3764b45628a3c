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
import re
from collections.abc import Mapping
from dataclasses import dataclass

from features import row_sql
from features.state_cost import tile_life_s
from features.views import KeyType, Layout, Partial, PartialKind, View
from pipelines.settings import FlinkSettings
from schemas.envelope import ORIGIN_OFFSET
from schemas.errors import HeadraceError
from schemas.settings import KafkaSettings

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
TOPIC = re.compile(r"[A-Za-z0-9._-]+")
# The fields that every tile row has besides join keys and partials.
TILE_FIELDS = ("tile", "n", "clock_ms", "source_offset", "source_partition")
SOURCE = "source"
# What is aggregated, whatever it is made of: the name by which the hint finds it.
EVENTS = "events"
# Sorts below every character of an event id, so that a shorter id comes before a longer one that it begins.
SEPARATOR = r"U&'\0001'"
# 15 digits hold every millisecond until the year 33658, and make text order the order of time.
TIME_DIGITS = 15

_KEY_TYPES: Mapping[KeyType, str] = {"string": "STRING", "bigint": "BIGINT"}
_COLUMN_TYPES = {"string": "STRING", "bigint": "BIGINT", "double": "DOUBLE"}


class SqlRefused(HeadraceError):
    """A name cannot be put into SQL: it is refused, never escaped."""


@dataclass(frozen=True)
class Job:
    """What is submitted for one view.

    Attributes:
        view: The view's name.
        options: Flink's configuration of the job, without its name.
        tables: `CREATE TEMPORARY TABLE` statements; they hold the credentials of Kafka where there are any, so they are never logged.
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
    """What the names of all jobs of a view begin with, whatever their definition was."""
    return f"features.{view} ["


def job(view: View, kafka: KafkaSettings, flink: FlinkSettings) -> Job:
    """Compile a view.

    Raises:
        SqlRefused: A name of the view is not a plain identifier, or is one of the tile row's own.
    """
    _refuse_reserved(view)
    sinks = [_sink_table(view, layout, kafka) for layout in view.layouts]
    return Job(
        view=view.name,
        options=_options(view, flink),
        tables=(_source_table(view, kafka), *sinks),
        inserts=tuple(_insert(view, layout, flink) for layout in view.layouts),
    )


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
    }


def _source_table(view: View, kafka: KafkaSettings) -> str:
    made = view.row_sql.columns if view.row_sql else {}
    columns = {k.name: _KEY_TYPES[k.type] for k in view.join_keys if k.name not in made}
    columns["event_time_ms"] = "BIGINT"
    columns[view.event_id_field] = "STRING"
    for name, kind in view.source_columns.items():
        columns.setdefault(name, _COLUMN_TYPES[kind])
    lines = [f"{_quoted(name)} {kind}" for name, kind in columns.items()]
    lines += [
        *_offset_columns(view),
        "`source_partition` INT METADATA FROM 'partition' VIRTUAL",
    ]
    options = {
        "connector": "kafka",
        "topic": _topic(view.topic),
        **_client_options(kafka),
        "properties.group.id": _topic(view.topic_out),
        # Only committed records exist: what the intake took back was never there.
        "properties.isolation.level": "read_committed",
        "properties.fetch.max.wait.ms": "5",
        # State is rebuilt from the beginning where no checkpoint is restored; the group's offsets are for the eye only.
        "scan.startup.mode": "earliest-offset",
        "format": "json",
        # The intake has judged every record, and a job must never stop over one that Flink reads differently.
        "json.ignore-parse-errors": "true",
    }
    return _create(SOURCE, lines, options)


def _offset_columns(view: View) -> list[str]:
    """Where an event stood: in the topic that is read, or in the one that the intake copied it from."""
    if not view.origin_offsets:
        return ["`source_offset` BIGINT METADATA FROM 'offset' VIRTUAL"]
    header = f"`headers`[{_literal(ORIGIN_OFFSET)}]"
    return [
        "`headers` MAP<STRING, BYTES> METADATA VIRTUAL",
        f"`source_offset` AS CAST(CAST({header} AS STRING) AS BIGINT)",
    ]


def _sink_table(view: View, layout: Layout, kafka: KafkaSettings) -> str:
    lines = [f"{_quoted(key.name)} {_KEY_TYPES[key.type]}" for key in view.join_keys]
    lines += ["`tile` STRING", "`n` BIGINT"]
    lines += [f"{_quoted(p.field)} {_partial_type(p)}" for p in layout.partials]
    lines += ["`clock_ms` BIGINT", "`source_offset` BIGINT", "`source_partition` INT"]
    keys = ", ".join([*(_quoted(key.name) for key in view.join_keys), "`tile`"])
    lines += [f"PRIMARY KEY ({keys}) NOT ENFORCED"]
    options = {
        "connector": "upsert-kafka",
        "topic": _topic(view.topic_out),
        **_client_options(kafka),
        # Whole tiles are idempotent; exactly once would show them only at the next checkpoint.
        "sink.delivery-guarantee": "at-least-once",
        "properties.linger.ms": "0",
        "key.format": "json",
        "value.format": "json",
    }
    return _create(_sink_name(layout), lines, options)


def _insert(view: View, layout: Layout, flink: FlinkSettings) -> str:
    keys = [_quoted(key.name) for key in view.join_keys]
    tile = f"CONCAT('{layout.hop_s}/', CAST(`event_time_ms` / {layout.hop_ms} AS STRING))"
    columns = [
        *keys,
        f"{tile} AS `tile`",
        "COUNT(*) AS `n`",
        *(f"{_partial(view, p)} AS {_quoted(p.field)}" for p in layout.partials),
        "MAX(`event_time_ms`) AS `clock_ms`",
        "MAX(`source_offset`) AS `source_offset`",
        "MAX(`source_partition`) AS `source_partition`",
    ]
    life_s = tile_life_s(view, layout.hop_s, flink.lateness_s)
    present = " AND ".join(f"{name} IS NOT NULL" for name in [*keys, "`event_time_ms`"])
    return "\n".join(
        [
            f"INSERT INTO {_quoted(_sink_name(layout))}",
            f"SELECT /*+ STATE_TTL('{EVENTS}' = '{life_s} s') */",
            ",\n".join(f"  {column}" for column in columns),
            f"FROM {_rows(view)} AS {_quoted(EVENTS)}",
            f"WHERE {present}",
            f"GROUP BY {', '.join([*keys, tile])}",
        ]
    )


def _rows(view: View) -> str:
    """What is aggregated: the stream, or what the view's row-level SQL makes of each of its events."""
    rows = view.row_sql
    if rows is None:
        return _quoted(SOURCE)
    made = dict(rows.select)
    kept = [*(key.name for key in view.join_keys), "event_time_ms", view.event_id_field]
    kept += ["source_offset", "source_partition"]
    columns = [_quoted(name) for name in dict.fromkeys(kept) if name not in made]
    columns += [f"{row_sql.flink(sql)} AS {_quoted(name)}" for name, sql in made.items()]
    where = f" WHERE {row_sql.flink(rows.where)}" if rows.where else ""
    # Quoted names and expressions written from a checked tree.
    return f"(SELECT {', '.join(columns)} FROM {_quoted(SOURCE)}{where})"  # noqa: S608


def _partial(view: View, partial: Partial) -> str:
    column = _quoted(partial.column)
    number = f"CAST({column} AS DOUBLE)"
    stamped = _stamped(view, column)
    expressions: Mapping[PartialKind, str] = {
        "count": f"COUNT({column})",
        "sum": f"COALESCE(SUM({number}), 0)",
        "sumsq": f"COALESCE(SUM({number} * {number}), 0)",
        "min": f"MIN({number})",
        "max": f"MAX({number})",
        "first": f"MIN({stamped})",
        "last": f"MAX({stamped})",
    }
    return expressions[partial.kind]


def _stamped(view: View, column: str) -> str:
    """Time, event id, value: MIN is the first and MAX the last, in whatever order they came. Null where the column is."""
    time = f"LPAD(CAST(`event_time_ms` AS STRING), {TIME_DIGITS}, '0')"
    identity, value = _quoted(view.event_id_field), f"CAST({column} AS STRING)"
    return f"CONCAT({time}, {SEPARATOR}, {identity}, {SEPARATOR}, {value})"


def _partial_type(partial: Partial) -> str:
    if partial.kind in ("first", "last"):
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
    pairs = ",\n".join(f"  {_literal(key)} = {_literal(value)}" for key, value in options.items())
    return f"CREATE TEMPORARY TABLE {_quoted(name)} (\n{body}\n) WITH (\n{pairs}\n)"


def _sink_name(layout: Layout) -> str:
    return f"tiles_{layout.hop_s}"


def _quoted(name: str) -> str:
    if not IDENTIFIER.fullmatch(name):
        raise SqlRefused(
            f"identifier {name!r}", wanted=f"a name like {IDENTIFIER.pattern}", came="it is not one"
        )
    return f"`{name}`"


def _topic(name: str) -> str:
    if not TOPIC.fullmatch(name):
        raise SqlRefused(
            f"topic {name!r}", wanted=f"a name like {TOPIC.pattern}", came="it is not one"
        )
    return name


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


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
