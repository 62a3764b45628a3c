"""Variants of a version: the same model in another precision, as a version of its own that can be released like any other.

A variant keeps its origin's inputs, contract, definitions and threshold; its metrics and the scores of its reference rows are
its own, because drift and admission compare answers with them.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from schemas import manifest
from schemas.manifest import (
    HOLDOUT_FILE,
    MODEL_FILE,
    REFERENCE_FILE,
    Manifest,
    Precision,
    file_digest,
)
from serving import runtime
from serving.comparison import Comparison, Measured, compare, measured, scored
from serving.manifest import ModelRefused
from serving.output_contract import ModelFailed, Scores
from serving.precision import NotQuantizable, refuse_without_weights, write_variant
from serving.registry import Registry
from serving.trial import matrix_of, measure, read_rows

PRECISIONS: tuple[Precision, ...] = ("int8", "fp16")


@dataclass(frozen=True)
class Quantized:
    """What became of a version, and what was made of it; variants that were there already are compared again."""

    origin: Measured
    variants: list[Comparison]
    made: list[str]


def quantize(
    registry: Registry, model: str, version: str, precisions: Sequence[Precision]
) -> Quantized:
    """Make the variants that are missing, all or none, and compare every one with the version.

    Raises:
        UnknownVersion: There is no such version.
        NotQuantizable: It is a variant itself, or has no weights.
        ModelRefused: Its folder is not what its manifest says, or has no held-out rows to compare on.
    """
    origin = registry.verify(model, version)
    folder = registry.path(model, version)
    if origin.precision != "fp32":
        raise NotQuantizable(
            f"{model} {version}",
            wanted="a version as it was trained",
            came=f"it is {origin.precision}, made of {origin.variant_of}",
            mend=f"Name its origin: `headrace models quantize {origin.variant_of}`.",
        )
    refuse_without_weights(folder / MODEL_FILE)
    read_rows(folder / HOLDOUT_FILE, (*origin.inputs, "label"))
    found = _variants(registry, model, version)
    missing = [one for one in precisions if one not in found]
    with ExitStack() as made:
        # Every one is finished before the first appears.
        drafts = [_build(made, folder, origin, one) for one in missing]
        for draft, at in drafts:
            placed = manifest.place(draft, at, registry.models_dir)
            found[placed.precision] = placed.version
    variants = [found[one] for one in precisions]
    return _compared(registry, model, version, variants, [found[one] for one in missing])


def _variants(registry: Registry, model: str, version: str) -> dict[Precision, str]:
    said = (registry.manifest(model, one) for one in registry.versions(model))
    return {one.precision: one.version for one in said if one.variant_of == version}


def _build(
    made: ExitStack, folder: Path, origin: Manifest, precision: Precision
) -> tuple[Manifest, Path]:
    """A finished folder under a hidden name, which is gone after `made` unless it was placed."""
    target = folder.parent / f".making-{uuid4().hex}"
    target.mkdir()
    made.callback(shutil.rmtree, target, ignore_errors=True)
    write_variant(folder / MODEL_FILE, target / MODEL_FILE, precision)
    draft = origin.model_copy(
        update={
            "precision": precision,
            "variant_of": origin.version,
            "created_ms": time.time_ns() // 1_000_000,
            # The order was answered by the origin.
            "order_id": None,
            "files": {MODEL_FILE: file_digest(target / MODEL_FILE)},
        }
    )
    draft.write(target)
    try:
        model = runtime.load(target)
        reference = read_rows(folder / REFERENCE_FILE, (*origin.inputs, "score"))
        scores = model.predict(matrix_of(model, reference))
        _write_scored(reference, scores, target / REFERENCE_FILE)
        held_out = read_rows(folder / HOLDOUT_FILE, (*origin.inputs, "label"))
        scores = scored(model, matrix_of(model, held_out))
        _write_scored(held_out, scores, target / HOLDOUT_FILE)
    except (ModelRefused, ModelFailed) as error:
        raise NotQuantizable(
            f"{origin.model} {origin.version} as {precision}",
            wanted="a variant that loads and scores its origin's rows",
            came=str(error),
            mend="Nothing was made. Leave this precision out: `--to`.",
        ) from error
    metrics = measure(held_out["label"].to_numpy(), scores)
    told = {
        "metrics": {**metrics, "rows": float(held_out.num_rows)},
        "files": {n: file_digest(target / n) for n in (MODEL_FILE, REFERENCE_FILE, HOLDOUT_FILE)},
    }
    return draft.model_copy(update=told), target


def _write_scored(rows: pa.Table, scores: Scores, path: Path) -> None:
    """The origin's rows with the variant's own scores; an origin of before kept none of its held-out rows."""
    kept = rows.drop_columns("score") if "score" in rows.column_names else rows
    pq.write_table(kept.append_column("score", pa.array(scores)), path)


def _compared(
    registry: Registry, model: str, version: str, variants: Sequence[str], made: list[str]
) -> Quantized:
    folders = [registry.path(model, one) for one in (version, *variants)]
    models = [runtime.load(folder) for folder in folders]
    rows = read_rows(folders[0] / HOLDOUT_FILE, (*models[0].manifest.inputs, "label"))
    sizes = [(folder / MODEL_FILE).stat().st_size for folder in folders]
    found, scores = measured(models, sizes, matrix_of(models[0], rows), rows["label"].to_numpy())
    compared = [
        compare(found[0], one, (scores[0], scores[at]), models[0].threshold)
        for at, one in enumerate(found[1:], 1)
    ]
    return Quantized(found[0], compared, made)
