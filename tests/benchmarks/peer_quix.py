"""Row b's peer in its own environment: Quix Streams keeps the same tiles in its own state."""

from __future__ import annotations

import sys
from typing import Any

from quixstreams import (  # type: ignore[import-not-found]  # the peers' environment has it
    Application,
    State,
)

HOP_MS = 1_800_000


def tile(value: dict[str, Any], state: State) -> dict[str, Any]:
    """The tile of an event with the event in it; the state is that of the record's key."""
    index = value["event_time_ms"] // HOP_MS
    held = state.get(str(index)) or [0, 0, 0.0, 0.0, float("-inf"), 0]
    n, counted, total, squares, highest, clock = held
    level = value["level"]
    held = [n + 1, counted + 1, total + level, squares + level * level, max(highest, level)]
    held.append(max(clock, value["event_time_ms"]))
    state.set(str(index), held)
    names = ("n", "count__level", "sum__level", "sumsq__level", "max__level", "clock_ms")
    fields = dict(zip(names, held, strict=True))
    return {"station": value["station"], "tile": f"1800/{index}", **fields}


def main() -> None:
    servers, source, sink = sys.argv[1:]
    app = Application(
        broker_address=servers,
        consumer_group="quix",
        auto_offset_reset="earliest",
        auto_create_topics=True,
        loglevel="WARNING",
        state_dir=f"/tmp/quix.{servers.rpartition(':')[2]}",  # noqa: S108 - named after our broker
    )
    stream = app.dataframe(app.topic(source, value_deserializer="json", key_deserializer="str"))
    stream = stream.apply(tile, stateful=True)
    stream.to_topic(app.topic(sink, value_serializer="json", key_serializer="str"))
    app.run()


if __name__ == "__main__":
    main()
