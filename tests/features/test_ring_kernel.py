from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.ring import Records, RingFormat
from features.ring_kernel import RingKernel
from features.tiles import Floats
from features.views import PARTIALS_OF, Aggregate, JoinKey, View

FUNCTIONS = tuple(PARTIALS_OF)
COLUMNS = ("a", "b")
# Shorter than a lane of the sum, some lanes, and longer than what is summed at once.
WIDTHS = st.sampled_from([1, 2, 3, 7, 40, 129, 300])


@st.composite
def views(draw: st.DrawFn) -> View:
    wanted = draw(
        st.lists(
            st.tuples(
                st.sampled_from(FUNCTIONS),
                st.sampled_from(COLUMNS),
                WIDTHS,
                st.sampled_from([60, 3600]),
            ),
            min_size=1,
            max_size=12,
            unique=True,
        )
    )
    return View(
        name="made",
        topic="lab.made.valid",
        table="lab_made",
        event_id_field="event_id",
        join_keys=(JoinKey("sensor"),),
        columns={"sensor": "string", "a": "double", "b": "double", "event_id": "string"},
        aggregates=tuple(
            Aggregate(f"{f}_{c}_{w}_{hop}", c, f, w * hop, hop) for f, c, w, hop in wanted
        ),
        origin_offsets=draw(st.booleans()),
    )


def some_rings(fmt: RingFormat, rings: int, now_ms: int, dice: np.random.Generator) -> Records:
    """Rings with tiles around an instant: some empty, some past, some future, some of nothing but nulls."""
    records = fmt.empty(rings)
    records["clock_ms"] = now_ms + dice.integers(-7_200_000, 7_200_000, rings)
    records["clock_ms"][dice.random(rings) < 0.2] = -1
    for layout in fmt.view.layouts:
        shape = (rings, layout.tiles)
        head = now_ms // layout.hop_ms
        tiles = head + dice.integers(-layout.tiles, 3, shape)
        records[f"tile_{layout.hop_s}"] = np.where(dice.random(shape) < 0.3, -1, tiles)
        for place, partial in enumerate(layout.partials):
            column = dice.normal(size=shape) * 10.0 ** dice.integers(-9, 9, shape)
            column[dice.random(shape) < 0.2] = np.nan
            if partial.kind in ("count", "distinct"):
                column = dice.integers(0, 4, shape).astype(float)
            records[f"partials_{layout.hop_s}"][:, place] = column
        for place in range(len(layout.distinct)):
            blocks = dice.integers(0, 256, (*shape, 512))
            records[f"blocks_{layout.hop_s}"][:, place] = blocks
    return records


def filled(fmt: RingFormat, records: Records, rows: Any, as_of: Any) -> tuple[Floats, Any, Any]:
    wanted = [(2 * i, a.name) for i, a in enumerate(fmt.view.aggregates)]
    values = np.full((len(rows), 2 * len(wanted)), 77.0)
    age_ms, ahead = np.zeros((len(rows), 3), np.int64), np.zeros((len(rows), 3), bool)
    RingKernel(fmt, wanted).fill(records, rows, as_of, 1, (values, age_ms, ahead))
    assert (values[:, 1::2] == 77.0).all(), "only its own columns"
    assert not age_ms[:, [0, 2]].any()
    return values[:, ::2], age_ms[:, 1], ahead[:, 1]


@settings(max_examples=200, deadline=None)
@given(
    view=views(),
    seed=st.integers(0, 2**32),
    rings=st.integers(1, 3),
    count=st.integers(0, 6),
    now_ms=st.sampled_from([1_370_000_000_000, 59_999, 0, -1, -5_000_000]),
)
def test_the_kernel_gives_what_numpy_gives_to_the_bit(
    view: View, seed: int, rings: int, count: int, now_ms: int
) -> None:
    dice, fmt = np.random.default_rng(seed), RingFormat(view)
    records = some_rings(fmt, rings, now_ms, dice)
    rows = dice.integers(-1, rings, count)
    as_of = now_ms + dice.integers(-600_000, 600_000, count)
    values, _, ahead = filled(fmt, records, rows, as_of)
    expected = fmt.evaluate(records, rows, as_of, [a.name for a in view.aggregates])
    assert np.array_equal(values, expected, equal_nan=True)
    assert np.array_equal(ahead, fmt.ahead(records, rows, as_of))


def test_ages_are_of_the_entity_s_latest_event() -> None:
    view = View(
        "v", "t", "t", "event_id", (JoinKey("k"),), {}, (Aggregate("n", "a", "count", 60, 60),)
    )
    fmt = RingFormat(view)
    records = fmt.empty(4)
    records["clock_ms"] = [-1, 900, 1_001, 1_500]
    _, age_ms, ahead = filled(fmt, records, np.arange(4), np.full(4, 1_000))
    # One ms ahead would read as "no ring".
    assert age_ms.tolist() == [-1, 100, -2, -500]
    assert ahead.tolist() == [False, False, True, True]


@pytest.mark.parametrize("kept", [True, False], ids=["compiled and kept", "nowhere to keep it"])
def test_an_install_that_cannot_be_written_still_compiles(tmp_path: Path, *, kept: bool) -> None:
    root = Path(__file__).parents[2]
    installed = tmp_path / "installed"
    for layer in ("features", "schemas"):
        shutil.copytree(
            root / layer, installed / layer, ignore=shutil.ignore_patterns("__pycache__")
        )
    # A file where a folder is wanted stops even the superuser.
    (installed / "features" / "__pycache__").touch()
    home = tmp_path / "home"
    home.mkdir() if kept else home.touch()
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(installed),
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    program = "import features.ring_kernel as k, numpy as n; print(k._variance(3.0, 6.0, 14.0))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1.0"
    assert bool(list(tmp_path.rglob("*.nbi"))) == kept
