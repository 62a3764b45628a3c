"""The rows of a training under way, kept until its version is finished: after kill -9 they are not read a second time.

Reading the lake and computing features as of each request is what takes long; a fit is a matter of seconds and starts anew, from
the same rows and the same seed, to the same model. What is kept belongs to one order, and to the definitions of its
time: under others it is thrown away.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.training_set import Rows, TrainingSet
from schemas import manifest, usecase
from schemas.manifest import MANIFEST_FILE

if TYPE_CHECKING:
    from collections.abc import Collection

    from features.views import Plan
    from schemas.manifest import Manifest

FOLDER = ".work"
SET_FILE = "set.json"
PARTS = ("train", "holdout")
# Of a SHA-256 in hex: 96 bits tell orders apart, and names stay short.
NAME_CHARS = 24


def place(models_dir: Path, case: str, order_id: str) -> Path:
    """Where the rows of an order are kept; hidden from whoever lists versions."""
    return models_dir / str(usecase.load("schemas", case).MODEL) / FOLDER / _name(order_id)


def keep(folder: Path, training: TrainingSet) -> None:
    """Keep the rows, all of them or none."""
    draft = _draft(folder.parent, f".{folder.name}-")
    for part in PARTS:
        pq.write_table(_table(getattr(training, part)), draft / f"{part}.parquet")
    said = {
        "case": training.case,
        "service": training.service,
        "inputs": training.inputs,
        "since_ms": training.since_ms,
        "until_ms": training.until_ms,
        "definitions": dict(training.definitions),
        "snapshots": dict(training.snapshots),
    }
    (draft / SET_FILE).write_text(json.dumps(said), encoding="utf-8")
    forget(folder)
    draft.rename(folder)


def building(home: Path, order_id: str | None) -> Path:
    """A new folder beside the versions to build one in; what a killed attempt at the same order left there is removed."""
    if order_id is None:
        # Others may be building by hand at this moment.
        folder = home / f".building-{uuid4().hex}"
        folder.mkdir(parents=True)
        return folder
    return _draft(home, _building(order_id))


def discard(models_dir: Path, case: str, order_ids: Collection[str]) -> list[str]:
    """Remove all that was made for orders that nobody wants answered any more; no process may be at work on one of them.

    A version that somebody has signed since stays: its folder holds more than its manifest names, and a person answers for it.

    Returns:
        The versions that were removed.
    """
    model = str(usecase.load("schemas", case).MODEL)
    home = models_dir / model
    unwanted = [
        said for said in manifest.manifests(models_dir, model) if said.order_id in order_ids
    ]
    removed = [said.version for said in unwanted if _hidden(home, said)]
    for order_id in order_ids:
        work = place(models_dir, case, order_id)
        forget(work)
        _sweep(work.parent, f".{work.name}-")
        _sweep(home, _building(order_id))
    return removed


def _hidden(home: Path, said: Manifest) -> bool:
    """Take a version out of sight, as if it had never been finished: whoever sees one sees all of it."""
    folder = home / said.version
    if {path.name for path in folder.glob("*")} != {MANIFEST_FILE, *said.files}:
        return False
    folder.rename(home / f"{_building(str(said.order_id))}{uuid4().hex}")
    return True


def _building(order_id: str) -> str:
    return f".building-{_name(order_id)}-"


def _name(order_id: str) -> str:
    """A folder's name for an order. Its id came from a topic, may be any path, and what lies at `place` is deleted."""
    return hashlib.sha256(order_id.encode()).hexdigest()[:NAME_CHARS]


def _draft(parent: Path, prefix: str) -> Path:
    _sweep(parent, prefix)
    folder = parent / f"{prefix}{uuid4().hex}"
    folder.mkdir(parents=True)
    return folder


def _sweep(parent: Path, prefix: str) -> None:
    for left in parent.glob(escape(prefix) + "?" * len(uuid4().hex)):
        shutil.rmtree(left, ignore_errors=True)


def kept(folder: Path, plan: Plan) -> TrainingSet | None:
    """The rows that an earlier attempt has kept; None where there are none of these definitions."""
    if not (folder / SET_FILE).exists():
        return None
    said = json.loads((folder / SET_FILE).read_text(encoding="utf-8"))
    if said["definitions"] != dict(plan.definitions(said["service"])):
        forget(folder)
        return None
    train, holdout = (_rows(pq.read_table(folder / f"{part}.parquet")) for part in PARTS)
    return TrainingSet(**said | {"inputs": tuple(said["inputs"])}, train=train, holdout=holdout)


def forget(folder: Path) -> None:
    """The version is finished, or will never be."""
    shutil.rmtree(folder, ignore_errors=True)


def _table(rows: Rows) -> pa.Table:
    columns = {str(n): rows.matrix[:, n] for n in range(rows.matrix.shape[1])}
    return pa.table(
        {
            **columns,
            "label": rows.labels,
            "event_time_ms": rows.event_time_ms,
            "request_id": pa.array(rows.request_ids, pa.string()),
        }
    )


def _rows(table: pa.Table) -> Rows:
    width = table.num_columns - 3
    return Rows(
        np.column_stack([table[str(n)].to_numpy() for n in range(width)]),
        table["label"].to_numpy(),
        table["event_time_ms"].to_numpy(),
        np.array(table["request_id"].to_pylist(), dtype=object),
    )
