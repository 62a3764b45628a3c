"""A version run before it takes traffic, so that no request waits for kernels that are compiled or memory that is taken."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from schemas.manifest import REFERENCE_FILE
from serving.output_contract import ModelFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serving.output_contract import Matrix
    from serving.runtime import Model

log = structlog.get_logger()


def sizes(rows_max: int) -> list[int]:
    """1, 2, 4 and so on, and the largest batch itself (pure): what is taken for one batch serves all up to twice its size."""
    return [*(2**n for n in range((rows_max - 1).bit_length())), rows_max]


def warm_up(model: Model, folder: Path, rows_max: int, within_s: float) -> int:
    """Ask a version for batches of every size, the small ones first; none is begun after `within_s`.

    What fails here fails no version: a batch that is too large for the memory is halved when it is a real one.

    Returns:
        How many batches it answered.
    """
    rows = synthetic_rows(folder, model.manifest.inputs, rows_max)
    end_s = time.monotonic() + within_s
    answered = 0
    for size in sizes(rows_max):
        if time.monotonic() > end_s:
            log.warning("warm_up.cut_short", version=model.version, rows=size, within_s=within_s)
            break
        try:
            model.outputs(rows[:size])
        except ModelFailed as error:
            log.warning("warm_up.failed", version=model.version, rows=size, reason=str(error))
            break
        answered += 1
    return answered


def synthetic_rows(folder: Path, inputs: Sequence[str], count: int) -> Matrix:
    """`count` rows that the version was trained on, again and again where there are fewer; zeros where they cannot be read."""
    zeros = np.zeros((count, len(inputs)), dtype=np.float32)
    try:
        with pq.ParquetFile(folder / REFERENCE_FILE) as file:
            some = next(file.iter_batches(batch_size=count, columns=list(inputs)), None)
    except (OSError, pa.ArrowException):
        return zeros
    if some is None or not some.num_rows or some.num_columns != len(inputs):
        return zeros
    columns = [some.column(name).to_numpy(zero_copy_only=False) for name in inputs]
    found = np.column_stack(columns).astype(np.float32)
    return np.ascontiguousarray(np.resize(found, zeros.shape))
