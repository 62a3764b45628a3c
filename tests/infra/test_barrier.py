"""The demo's barrier looks where readers look, also after a new version of a view has taken over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from features import versions
from features.ring import RingFormat
from features.rings import Rings, entity_key
from features.tile_row import TileRow
from features.views import Plan, View
from infra.demo.barrier import Barrier, NotVisible
from infra.demo.slices import Sent
from tests.features.readings import START_MS, VIEW

if TYPE_CHECKING:
    from features.settings import StoreSettings

# One hop, then the same under another version, then none of it.
MINUTE = msgspec.structs.replace(
    VIEW, aggregates=tuple(a for a in VIEW.aggregates if a.hop_s == 60)
)
NEXT = versions.renewed(Plan((MINUTE,)), Plan((MINUTE,)), [MINUTE.name]).views[0]
SENT = Sent("lab.readings", START_MS, "e1", None, b"{}", [], {"sensor": "a"})


def _write(stores: StoreSettings, view: View, count: int) -> None:
    rings, fmt = Rings(stores), RingFormat(view)
    records = fmt.empty()
    (layout,) = view.layouts
    row = TileRow(60, START_MS // 60_000, count, (0.0,) * len(layout.partials), START_MS)
    fmt.apply(records, 0, [row])
    rings.write([(view.versioned, entity_key(["a"]), records.tobytes())])
    rings.close()


def test_it_waits_for_the_rings_that_are_read_now(stores: StoreSettings) -> None:
    Plan((MINUTE,)).save(stores.plan_path)
    barrier = Barrier(stores)
    barrier.sent([SENT])
    with pytest.raises(NotVisible):
        barrier.wait(0.01)
    Plan((NEXT,)).save(stores.plan_path)
    _write(stores, MINUTE, 1)
    with pytest.raises(NotVisible, match=NEXT.versioned):
        barrier.wait(0.01)
    _write(stores, NEXT, 1)
    barrier.wait(0.01)
    # What was counted before the change counts after it.
    barrier.sent([SENT])
    with pytest.raises(NotVisible):
        barrier.wait(0.01)
    _write(stores, NEXT, 2)
    barrier.wait(0.01)
    barrier.close()


def test_a_view_that_is_gone_is_not_waited_for(stores: StoreSettings) -> None:
    Plan((MINUTE,)).save(stores.plan_path)
    barrier = Barrier(stores)
    barrier.sent([SENT])
    Plan().save(stores.plan_path)
    barrier.wait(0.01)
    barrier.close()
