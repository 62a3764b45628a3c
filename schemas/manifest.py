"""What a model folder says about itself: `manifest.json`, shared by training, serving and monitoring.

```
<models_dir>/<model>/<version>/
├── model.onnx          input `input` float32 [rows, inputs]; score = probability of class 1
├── manifest.json       this
├── reference.parquet   up to 5,000 training rows: inputs, `score`, `label` (the reference of drift)
└── holdout.parquet     the held-out rows: inputs, `label`, `request_id`, `event_time_ms`
```
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from schemas import usecase
from schemas.evolution import schema_of

if TYPE_CHECKING:
    from schemas.events import Event

MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"
REFERENCE_FILE = "reference.parquet"
HOLDOUT_FILE = "holdout.parquet"
# Read in pieces: a model may be larger than the memory it is fair to ask for a digest.
CHUNK_BYTES = 1 << 20


class Trained(BaseModel):
    """What a version was fitted on: requests of `[since_ms, until_ms)` in event time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    since_ms: int
    until_ms: int
    rows: int
    label_rate: float


class Manifest(BaseModel):
    """`manifest.json`. The digest of a version is the SHA-256 of this file as it lies there.

    Attributes:
        model: The model's name; `version` is its folder's name.
        service: The feature service whose vector it reads.
        inputs: The columns of its input matrix, in order.
        definitions: View → fingerprint of the definitions it was trained on.
        contract: Digest of the request's contract (`contract_digest`).
        threshold: A score at or above it is labelled late.
        snapshots: Lake table → Iceberg snapshot that was read.
        metrics: `auc`, `log_loss`, `brier` and `rows`, on the held-out rows.
        parameters: The estimator's, as trained.
        code: Git revision, or "unknown".
        lock: SHA-256 of `requirements.lock`, or "unknown".
        files: Every other file of the folder → SHA-256.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    version: str
    case: str
    service: str
    inputs: tuple[str, ...]
    definitions: dict[str, str]
    contract: str
    threshold: float
    trained: Trained
    snapshots: dict[str, int]
    metrics: dict[str, float]
    parameters: dict[str, str | int | float | bool | None]
    seed: int
    code: str
    lock: str
    created_ms: int
    files: dict[str, str]

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a model folder; pydantic's ValidationError or OSError where there is none to be read."""
        return cls.model_validate_json((folder / MANIFEST_FILE).read_bytes())

    def write(self, folder: Path) -> None:
        """Write it beside the files it names, the same bytes for the same content."""
        text = json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True)
        (folder / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")


def contract_digest(case: str) -> str:
    """SHA-256 of the JSON Schema of the use case's request, without its prose: what a model may be asked."""
    contract: type[Event] = usecase.load("schemas", case).REQUEST
    schema = schema_of(contract)
    schema.pop("description", None)
    return hashlib.sha256(json.dumps(schema, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def folder_digest(folder: Path) -> str:
    """The digest of a version: of its manifest, which holds those of all other files."""
    return file_digest(folder / MANIFEST_FILE)
