"""Kill -9 of the materializer while it writes, and its topic replayed twice.

Injected: kill -9 at a random moment after the first write of each of some chunks of tile rows; then the group's offsets
are set to the beginning, twice. Must hold: rings read as the oracle says after the kills; during each replay no feature
goes back for as long as between two looks, and after it nothing has changed. Does not show: a ring that goes back between
two looks (case 18 has rows out of order), a kill of Redis beside it (case 15), or a power cut, for what Redis was sent
stays in its memory.
"""

from __future__ import annotations

import time

import redis
from confluent_kafka import Consumer, KafkaException, TopicPartition

from tests.faults import invariants as must
from tests.faults.stage import Stage, Worker, sent_row

KILLS = 4
CHUNK = 400
STATIONS = 150
REPLAYS = 2


def run(stage: Stage) -> None:
    """Kill, replay."""
    stage.topics()
    events = stage.events(CHUNK * (KILLS + 1), stations=STATIONS)
    rows = [sent_row(stage.view, row) for row in stage.tile_rows(events)]
    size = len(rows) // (KILLS + 1)
    topic, kafka, group = stage.view.topic_out, stage.rig.kafka, must.materializer_group(stage)
    worker = stage.start("materializer")
    torn = 0
    for kill in range(KILLS):
        after = _writes(stage)
        stage.ledger.produce(kafka, topic, rows[kill * size : (kill + 1) * size])
        stage.until(lambda a=after: _writes(stage) > a)  # type: ignore[misc]
        pause_s = stage.dice.uniform(0.0, 0.08)
        time.sleep(pause_s)
        worker.kill()
        torn += must.lag(stage, group, topic) > 0
        stage.inject(f"kill -9 of the materializer {pause_s * 1000:.0f} ms after a first write")
        worker.restart()
    stage.ledger.produce(kafka, topic, rows[KILLS * size :])
    stage.recovers("lag 0", lambda: must.lag(stage, group, topic) == 0, lambda: "rows are left")
    wanted = must.truth(stage, events)
    wrong = must.differences(stage, wanted)
    stage.outcome.check("rings equal the oracle", holds=not wrong, came=wrong[:2])
    for _ in range(REPLAYS):
        _replay(stage, worker, wanted, len(rows))
    held = must.topic_holds_ledger(stage, topic)
    stage.outcome.check("the topic holds what was acknowledged", holds=held)
    stage.outcome.counts |= {"rows": len(rows), "kills with rows uncommitted": torn}
    stage.outcome.check("no hanging transaction", holds=must.no_hanging_transaction(stage, topic))


def _replay(stage: Stage, worker: Worker, wanted: must.Truth, rows: int) -> None:
    topic, group = stage.view.topic_out, must.materializer_group(stage)
    worker.stop()
    _rewind(stage, group, topic)
    left = must.lag(stage, group, topic)
    stage.outcome.check("the replay is of all rows", holds=left == rows, came=left)
    stage.inject("the topic from its beginning once more")
    worker.restart()
    went_back: list[str] = []

    def done() -> bool:
        # Looked at while old rows of each tile come again before the newest.
        went_back.extend(must.differences(stage, wanted)[:2])
        return must.lag(stage, group, topic) == 0

    stage.recovers("lag 0", done, lambda: "rows are left")
    came = went_back[:2]
    stage.outcome.check("no ring goes back during a replay", holds=not went_back, came=came)
    again = must.differences(stage, wanted)
    stage.outcome.check("rings equal the oracle after a replay", holds=not again, came=again[:2])


def _rewind(stage: Stage, group: str, topic: str) -> None:
    """Set the group to the beginning; refused for as long as the session of its last member goes on."""
    config = stage.rig.kafka.client_config(group_id=group, enable_auto_commit=False)
    consumer = Consumer(config)

    def accepted() -> bool:
        try:
            consumer.commit(offsets=[TopicPartition(topic, 0, 0)], asynchronous=False)
        except KafkaException:
            return False
        return True

    try:
        if stage.until(accepted) is None:
            raise RuntimeError(f"{group}: its offsets cannot be set")
    finally:
        consumer.close()


def _writes(stage: Stage) -> int:
    """How many times rings were written."""
    with redis.Redis.from_url(stage.stores.redis_url) as client:
        held = client.info("commandstats").get("cmdstat_mset", {})
    return int(held.get("calls", 0))
