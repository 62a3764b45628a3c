from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.manifest import REFERENCE_FILE
from serving.runtime import load
from serving.tiers import CPU, Placing
from serving.warm_up import sizes, synthetic_rows, warm_up
from tests.faults import hurt_model
from tests.serving import model_folders

INPUTS = ("a", "b")


@given(st.integers(1, 5_000))
def test_batches_double_up_to_the_largest(rows_max: int) -> None:
    found = sizes(rows_max)
    assert found[0] == 1
    assert found[-1] == rows_max
    assert all(one < other <= 2 * one for one, other in pairwise(found))


def test_rows_are_those_it_was_trained_on_again_and_again(tmp_path: Path) -> None:
    table = pa.table({"b": [1.0, 2.0], "score": [0.1, 0.2], "a": [3.0, None]})
    pq.write_table(table, tmp_path / REFERENCE_FILE)
    found = synthetic_rows(tmp_path, INPUTS, 5)
    assert (found.dtype, found.shape) == (np.dtype(np.float32), (5, 2))
    np.testing.assert_array_equal(found[:, 1], [1, 2, 1, 2, 1])
    np.testing.assert_array_equal(found[:2, 0], [3, np.nan])


@pytest.mark.parametrize("columns", [{"a": [1.0]}, {"a": [], "b": []}, None])
def test_rows_that_cannot_be_read_are_zeros(
    tmp_path: Path, columns: dict[str, list[float]] | None
) -> None:
    if columns is not None:
        pq.write_table(pa.table(columns), tmp_path / REFERENCE_FILE)
    assert not synthetic_rows(tmp_path, INPUTS, 3).any()


def test_a_version_answers_every_size_before_it_serves(tmp_path: Path) -> None:
    folder = model_folders.write(tmp_path, "v0001")
    assert warm_up(load(folder), folder, 256, within_s=10.0) == len(sizes(256)) == 9


def test_it_is_bounded_and_what_fails_in_it_fails_no_version(tmp_path: Path) -> None:
    folder = model_folders.write(tmp_path, "v0001", model=hurt_model.graph(8))
    model = load(folder, placing=Placing({}, [CPU], rows_max=256))
    assert warm_up(model, folder, 256, within_s=10.0) == 5  # to it, 17 rows are too many
    assert warm_up(model, folder, 256, within_s=-1.0) == 0
