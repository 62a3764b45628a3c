"""A use case of as many features as asked for, that exists only in the benchmarks."""

from __future__ import annotations

import sys
from datetime import timedelta
from importlib.machinery import ModuleSpec
from types import ModuleType

from pydantic import create_model

from schemas.events import Event
from schemas.topics import standard_topics
from tests.pipelines import toy

# Two windows over days: an answer as of the wall clock changes at midnight only.
DAYS = (2, 6)
FUNCTIONS = ("count", "sum", "mean", "max", "std")


def register(features: int) -> str:
    """Make `schemas.wide<features>` and `features.wide<features>` loadable; the name of the case."""
    case = f"wide{features}"
    columns = [f"c{n}" for n in range(features // len(DAYS) // len(FUNCTIONS))]
    fields = dict.fromkeys(columns, (float, ...))
    reading = create_model("Reading", __base__=toy.Reading, **fields)  # type: ignore[call-overload]
    streams: dict[str, tuple[type[Event], int]] = {"readings": (reading, 1)}
    schemas = _module(f"schemas.{case}")
    schemas.TOPICS = standard_topics(  # type: ignore[attr-defined]
        case, request=toy.Question, outcome=toy.Answer, streams=streams
    )
    _define(_module(f"features.{case}"), case, columns)
    return case


def _module(name: str) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, loader=None)
    sys.modules[name] = module
    return module


def _define(module: ModuleType, case: str, columns: list[str]) -> None:
    from feast import (  # noqa: PLC0415 - ten seconds, and only row d wants it
        Entity,
        FeatureService,
        Field,
        KafkaSource,
        StreamFeatureView,
    )
    from feast.aggregation import Aggregation  # noqa: PLC0415
    from feast.data_format import JsonFormat  # noqa: PLC0415
    from feast.types import Float64, String  # noqa: PLC0415
    from feast.value_type import ValueType  # noqa: PLC0415

    from features.lake_source import LakeSource  # noqa: PLC0415

    station = Entity(name="station", join_keys=["station"], value_type=ValueType.STRING)
    aggregations = [
        Aggregation(
            column=column,
            function=function,
            time_window=timedelta(days=days),
            name=f"{column}_{function}_{days}d",
        )
        for column in columns
        for function in FUNCTIONS
        for days in DAYS
    ]
    view = StreamFeatureView(
        name=case,
        entities=[station],
        schema=[Field(name="station", dtype=String)]
        + [Field(name=a.name, dtype=Float64) for a in aggregations],
        source=KafkaSource(
            name=f"{case}_readings",
            topic=f"{case}.readings.valid",
            message_format=JsonFormat(schema_json=""),
            timestamp_field="event_time",
            batch_source=LakeSource(f"{case}_readings"),
        ),
        mode="sql",
        timestamp_field="event_time",
        aggregations=aggregations,
        enable_tiling=True,
        tiling_hop_size=timedelta(days=1),
    )
    module.station, module.view = station, view  # type: ignore[attr-defined]
    module.service = FeatureService(name=case, features=[view])  # type: ignore[attr-defined]
