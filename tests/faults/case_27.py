"""A breaking change of a contract.

Injected: in a copy of the source, a use case's contract changes after it was released: a field removed, a new one
required, a type changed, a bound narrowed; then a change that is compatible. Must hold: `headrace schemas check`, which
is part of the build, and `headrace features plan` and `apply` end with 1, name the field and change nothing; the compatible
one passes. Does not show: consumers of another team that read with their
own copy of the contract.
"""

from __future__ import annotations

from tests.faults.sources import Sources
from tests.faults.stage import Stage

CONTRACT = """
from __future__ import annotations

from pydantic import Field

from schemas.events import Event, Id
from schemas.topics import standard_topics


class FaultReading(Event):
    event_id: Id
    station: str
    level: float = Field(ge=-1000, le=1000)
    note: str | None = None


class FaultQuestion(Event):
    request_id: Id
    id_field = "request_id"
    key_field = "request_id"


class FaultAnswer(FaultQuestion):
    high: bool


TOPICS = standard_topics(
    "{case}", request=FaultQuestion, outcome=FaultAnswer, streams={{"readings": (FaultReading, 2)}}
)
"""
DEFINITION = """
from __future__ import annotations

from datetime import timedelta

from feast import Entity, Field, KafkaSource, StreamFeatureView
from feast.aggregation import Aggregation
from feast.data_format import JsonFormat
from feast.types import Float64, String
from feast.value_type import ValueType

from features.lake_source import LakeSource

readings = KafkaSource(
    name="{case}_readings",
    topic="{case}.readings.valid",
    message_format=JsonFormat(schema_json=""),
    timestamp_field="event_time",
    batch_source=LakeSource("{case}_readings"),
)
station = Entity(name="station", join_keys=["station"], value_type=ValueType.STRING)
levels = StreamFeatureView(
    name="{case}_levels",
    entities=[station],
    schema=[Field(name="station", dtype=String), Field(name="mean_level", dtype=Float64)],
    source=readings,
    mode="sql",
    timestamp_field="event_time",
    aggregations=[
        Aggregation(
            column="level", function="mean", time_window=timedelta(hours=1), name="mean_level"
        )
    ],
    enable_tiling=True,
    tiling_hop_size=timedelta(minutes=5),
)
"""
LEVEL = "level: float = Field(ge=-1000, le=1000)"
BREAKING = {
    "value.note": ("    note: str | None = None\n", ""),
    "value.gate": ("    note: str", "    gate: str\n    note: str"),
    "value.station": ("station: str", "station: int"),
    "value.level": (LEVEL, "level: float = Field(ge=-1000, le=10)"),
}
# The last one would need engines; it must refuse before it looks for them.
JUDGES = (("schemas", "check"), ("features", "plan"), ("features", "apply"))
COMPATIBLE = ("    note: str", "    gate: str | None = None\n    note: str")


def run(stage: Stage) -> None:
    """Release, break, mend."""
    sources = Sources(stage.folder / "source", "faulted")
    released = (
        CONTRACT.format(case=sources.case)
        .replace(
            "    request_id: Id\n    id_field = ",
            "    request_id: Id\n    id_field: ClassVar[str] = ",
        )
        .replace("    key_field = ", "    key_field: ClassVar[str] = ")
        .replace("from pydantic", "from typing import ClassVar\n\nfrom pydantic")
    )
    sources.write("schemas", released)
    sources.write("features", DEFINITION.format(case=sources.case))
    exported = sources.headrace("schemas", "export")
    stage.outcome.check(
        "the contract is released", holds=exported.returncode == 0, came=exported.stderr[-300:]
    )
    fields = stage.dice.sample(sorted(BREAKING), k=2)
    for field in fields:
        before, after = BREAKING[field]
        stage.inject(f"{field}: {before.strip()!r} became {after.strip()!r}")
        sources.write("schemas", released.replace(before, after))
        for judge in JUDGES:
            refused = sources.headrace(*judge)
            said = refused.stdout + refused.stderr
            stage.outcome.check(
                f"`headrace {' '.join(judge)}` refuses a breaking change and names its field",
                holds=refused.returncode == 1 and f"FaultReading.{field}" in said,
                came=f"exit {refused.returncode}: {said[-300:]}",
            )
    stage.outcome.check(
        "what is refused changes nothing",
        holds=not (sources.folder / "data").exists(),
        came="there is a data folder",
    )
    sources.write("schemas", released.replace(*COMPATIBLE))
    for judge in JUDGES[:2]:
        passed = sources.headrace(*judge)
        stage.outcome.check(
            f"`headrace {' '.join(judge)}` passes a compatible change",
            holds=passed.returncode == 0,
            came=passed.stderr[-300:],
        )
    stage.outcome.counts["breaking"] = len(fields)
