"""A breaking change of a contract.

Injected: in a copy of the source, a use case's contract changes after it was released: a field removed, a new one
required, a type changed, a bound narrowed; then a change that is compatible. Must hold: `headrace schemas check`, which
is part of the build, ends with 1 and names the field, and lets the compatible one pass. Does not show: consumers of
another team that read with their own copy of the contract.
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
LEVEL = "level: float = Field(ge=-1000, le=1000)"
BREAKING = {
    "value.note": ("    note: str | None = None\n", ""),
    "value.gate": ("    note: str", "    gate: str\n    note: str"),
    "value.station": ("station: str", "station: int"),
    "value.level": (LEVEL, "level: float = Field(ge=-1000, le=10)"),
}
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
    exported = sources.headrace("schemas", "export")
    stage.outcome.check(
        "the contract is released", holds=exported.returncode == 0, came=exported.stderr[-300:]
    )
    fields = stage.dice.sample(sorted(BREAKING), k=2)
    for field in fields:
        before, after = BREAKING[field]
        stage.inject(f"{field}: {before.strip()!r} became {after.strip()!r}")
        sources.write("schemas", released.replace(before, after))
        refused = sources.headrace("schemas", "check")
        said = refused.stdout + refused.stderr
        stage.outcome.check(
            "a breaking change is refused, and its field named",
            holds=refused.returncode == 1 and f"FaultReading.{field}" in said,
            came=f"exit {refused.returncode}: {said[-300:]}",
        )
    sources.write("schemas", released.replace(*COMPATIBLE))
    passed = sources.headrace("schemas", "check")
    stage.outcome.check(
        "a compatible change passes", holds=passed.returncode == 0, came=passed.stderr[-300:]
    )
    stage.outcome.counts["breaking"] = len(fields)
    stage.outcome.not_covered.append("`headrace features plan` does not look at released contracts")
