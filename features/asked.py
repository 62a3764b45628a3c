"""The rows that features are computed for, numbered, with the instant and the cutoff of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

ROW, AS_OF, CUTOFF = "__row", "__as_of", "__cutoff"
FOREVER_MS = 2**62


def asked(
    join_keys: Sequence[str], entities: pa.Table, cutoff_ms: pa.ChunkedArray | None
) -> pa.Table:
    """Row number, join keys, instant, and the last ingest time that counts."""
    cutoff = pa.repeat(pa.scalar(FOREVER_MS, pa.int64()), len(entities))
    return pa.table(
        {
            ROW: pa.array(np.arange(len(entities), dtype=np.int64)),
            AS_OF: entities["event_time_ms"].cast(pa.int64()),
            CUTOFF: cutoff if cutoff_ms is None else cutoff_ms.cast(pa.int64()),
            **{name: entities[name] for name in join_keys},
        }
    )
