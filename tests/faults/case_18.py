"""Tile rows out of order, duplicated, replayed, with tombstones among them.

Injected: all rows that a stream job would emit, shuffled over the whole topic, a third of them twice, tombstones between,
and then the whole lot once more. Must hold: of each tile the row that counts most wins; rings read as the oracle says,
the same after each round. Does not show: rows of different definitions of a view on one topic.
"""

from __future__ import annotations

from tests.faults import invariants as must
from tests.faults.ledger import Sent
from tests.faults.stage import Stage, sent_row


def run(stage: Stage) -> None:
    """Shuffle, repeat, replay."""
    stage.topics()
    events = stage.events(600)
    rows = stage.tile_rows(events)
    records = [sent_row(stage.view, row) for row in rows]
    records += stage.dice.choices(records, k=len(rows) // 3)
    records += [Sent(f"tombstone{i}", r.key, None) for i, r in enumerate(records[:20])]
    stage.dice.shuffle(records)
    stage.inject(
        f"{len(rows)} tile rows shuffled, {len(records) - len(rows)} more repeated or null"
    )
    topic, kafka = stage.view.topic_out, stage.rig.kafka
    stage.ledger.produce(kafka, topic, records)
    stage.start("materializer")
    group = must.materializer_group(stage)
    stage.recovers("lag 0", lambda: must.lag(stage, group, topic) == 0, lambda: "rows are left")
    held = must.topic_holds_ledger(stage, topic)
    stage.outcome.check("the topic holds what was acknowledged", holds=held)
    first = must.ring_differences(stage, events)
    stage.outcome.check("rings equal the oracle", holds=not first, came=first[:2])

    stage.dice.shuffle(records)
    stage.inject("the same rows once more, in another order")
    stage.ledger.produce(kafka, topic, records)
    stage.recovers("lag 0", lambda: must.lag(stage, group, topic) == 0, lambda: "rows are left")
    again = must.ring_differences(stage, events)
    stage.outcome.check("rings equal the oracle after the replay", holds=not again, came=again[:2])
    stage.outcome.counts |= {"tiles": len({(k, r.hop_s, r.tile) for k, r in rows})}
    stage.outcome.check("no hanging transaction", holds=must.no_hanging_transaction(stage, topic))
