"""Rows in Redis: the newest one of an entity, by event time, whoever writes last.

A row is the value of `<project>:<view>:<entity key>`, as a ring would be: its stamp, then msgpack of field → value. The
stamp is event time and created time, 15 digits each, so that the order of bytes is the order of time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from features.rings import EntityKey, Rings

STAMP_DIGITS = 15
# Before 1970 as well: no digit is a minus.
EPOCH_SHIFT_MS = 10**14
# One call a batch; a row is replaced only by one that is not older, so order and repetition of writes never matter.
# Of each key the row, and after how many seconds Redis shall forget it (0: never).
NEWEST_WINS = """
local written = {}
for i, key in ipairs(KEYS) do
  local held = redis.call('GET', key)
  local row, forgotten_s = ARGV[2 * i - 1], ARGV[2 * i]
  written[i] = 0
  if not held or string.sub(held, 1, 30) <= string.sub(row, 1, 30) then
    if forgotten_s == '0' then
      redis.call('SET', key, row)
    else
      redis.call('SET', key, row, 'EX', forgotten_s)
    end
    written[i] = 1
  end
end
return written
"""
BATCH_ROWS_MAX = 1_000


class Row(NamedTuple):
    """One row: when it was true, when it was made, and its fields as Feast's serialized values."""

    event_ms: int
    created_ms: int
    fields: dict[str, bytes]


def pack(row: Row) -> bytes:
    """The row as it stands in Redis."""
    stamp = "".join(f"{at + EPOCH_SHIFT_MS:0{STAMP_DIGITS}d}" for at in row[:2])
    return stamp.encode() + msgspec.msgpack.encode(row.fields)


def unpack(packed: bytes) -> Row:
    """The row back.

    Raises:
        msgspec.DecodeError, ValueError: it is none.
    """
    event, created = packed[:STAMP_DIGITS], packed[STAMP_DIGITS : 2 * STAMP_DIGITS]
    fields = msgspec.msgpack.decode(packed[2 * STAMP_DIGITS :], type=dict[str, bytes])
    return Row(int(event) - EPOCH_SHIFT_MS, int(created) - EPOCH_SHIFT_MS, fields)


class Rows(Rings):
    """Reads and writes rows beside rings, under the same names and settings."""

    def newest(self, view: str, keys: Sequence[EntityKey]) -> list[Row | None]:
        """The newest row of each entity, None where there is none."""
        return [None if packed is None else unpack(packed) for packed in self.read(view, keys)]

    def offer(
        self, view: str, rows: Iterable[tuple[EntityKey, Row]], *, forgotten_s: int = 0
    ) -> int:
        """Write rows that are not older than what is held. Returns how many were written.

        Args:
            view: The view.
            rows: Rows of entities, in any order.
            forgotten_s: After how many seconds of the machine's clock Redis forgets what is written now; 0: never.
        """
        # Of one entity only the newest is sent: the script would otherwise keep the last of the call.
        chosen: dict[EntityKey, Row] = {}
        for key, row in rows:
            held = chosen.get(key)
            if held is None or held[:2] <= row[:2]:
                chosen[key] = row
        items = list(chosen.items())
        written = 0
        for start in range(0, len(items), BATCH_ROWS_MAX):
            written += self._offer(view, items[start : start + BATCH_ROWS_MAX], forgotten_s)
        return written

    def _offer(self, view: str, items: Sequence[tuple[EntityKey, Row]], forgotten_s: int) -> int:
        until = str(forgotten_s).encode()
        with self._reported():
            packed = [(self._key(view, key), [pack(row), until]) for key, row in items]
            return sum(self._many.run(NEWEST_WINS, packed))

    def forget(self, view: str, keys: Sequence[EntityKey]) -> int:
        """Delete entities' rows or rings. Returns how many there were."""
        with self._reported():
            return int(self._redis.delete(*(self._key(view, key) for key in keys))) if keys else 0
