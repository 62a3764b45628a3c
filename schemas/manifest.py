"""What a model folder says about itself: `manifest.json`, shared by training, serving and monitoring.

```
<models_dir>/<model>/<version>/
├── model.onnx          input `input` float32 [rows, inputs]; score = probability of class 1
├── manifest.json       this
├── card.md             what a person should know of it
├── reference.parquet   up to 5,000 training rows: inputs, `score`, `label` (inputs are the reference of data drift)
└── holdout.parquet     the held-out rows: inputs, `label`, `request_id`, `event_time_ms`, `score` (the reference of
                        prediction drift; not in versions of before)
```
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from schemas import evolution, usecase
from schemas.errors import HeadraceError

MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"
CARD_FILE = "card.md"
REFERENCE_FILE = "reference.parquet"
HOLDOUT_FILE = "holdout.parquet"
# Of a use case that gives its estimators no names.
DEFAULT_ESTIMATOR = "default"
# What a model computes in. All take and give float32.
Precision = Literal["fp32", "fp16", "int8"]
# `v0001` sorts as it counts up to `v9999`; a hidden name is a folder under construction.
VERSION = re.compile(r"^v[0-9]{4}$")
VERSION_TRIES = 5

log = structlog.get_logger()


class NoFreeVersion(HeadraceError):
    """A finished folder could not be put in its place."""


class Trained(BaseModel):
    """What a version was fitted on: requests of `[since_ms, until_ms)` in event time.

    `covered_ms` is from the first row to the last: the newest are held out, and the last of the rest have no outcome yet. Versions
    of before do not say.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    since_ms: int
    until_ms: int
    rows: int
    label_rate: float
    covered_ms: int | None = None


class Manifest(BaseModel):
    """`manifest.json`. The digest of a version is the SHA-256 of this file as it lies there.

    Attributes:
        model: The model's name; `version` is its folder's name.
        service: The feature service whose vector it reads.
        inputs: The columns of its input matrix, in order.
        definitions: View → fingerprint of the features of it that it was trained on.
        contract: Digest of the request's contract (`contract_digest`).
        threshold: A score at or above it is labelled late.
        snapshots: Lake table → Iceberg snapshot that was read.
        metrics: `auc`, `log_loss`, `brier` and `rows`, on the held-out rows.
        parameters: The estimator's, as trained.
        code: Git revision, or "unknown".
        lock: SHA-256 of `requirements.lock`, or "unknown".
        order_id: The retraining order it answers; None for a version that a person asked for.
        estimator: Which of the use case's estimators was fitted.
        precision: What the weights were made into after the fit.
        variant_of: The version that this one says the same as, in another precision; its metrics are this one's own.
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
    order_id: str | None = None
    estimator: str = DEFAULT_ESTIMATOR
    precision: Precision = "fp32"
    variant_of: str | None = None
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
    """The fingerprint of the use case's request contract: what a model may be asked."""
    return evolution.fingerprint(usecase.load("schemas", case).REQUEST)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """The digest of a version: of its manifest, which holds those of all other files."""
    return file_digest(folder / MANIFEST_FILE)


def versions(models_dir: Path, model: str) -> list[str]:
    """The finished versions of a model, oldest first."""
    folder = models_dir / model
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if VERSION.match(path.name))


def manifests(models_dir: Path, model: str) -> Iterator[Manifest]:
    """What the versions say of themselves, newest first. A folder that cannot be read is logged and passed over."""
    for version in reversed(versions(models_dir, model)):
        try:
            said = Manifest.read(models_dir / model / version)
        except (OSError, ValidationError) as error:
            log.warning("manifest.unreadable", model=model, version=version, error=str(error))
        else:
            yield said


def place(draft: Manifest, folder: Path, models_dir: Path) -> Manifest:
    """Give a finished folder the next free version, and its place under that name: whoever sees it sees all of it.

    Args:
        draft: What the folder says about itself, but for the version.
        folder: Everything but the manifest; on the same file system, gone afterwards.
        models_dir: Where versions lie.

    Raises:
        NoFreeVersion: Others took every name that was tried.
    """
    for _ in range(VERSION_TRIES):
        finished = draft.model_copy(update={"version": next_version(models_dir, draft.model)})
        finished.write(folder)
        try:
            # Fails on a folder that is not empty, so of two that build at once one goes on to the next number.
            folder.rename(models_dir / draft.model / finished.version)
        except OSError:
            continue
        return finished
    raise NoFreeVersion(
        str(models_dir / draft.model),
        wanted="a free version",
        came=f"{VERSION_TRIES} were taken while this one was built",
        mend="Is another training running on the same folder?",
    )


def next_version(models_dir: Path, model: str) -> str:
    """The name after the newest; a folder is renamed to it, which fails if somebody was faster."""
    newest = versions(models_dir, model)[-1:]
    number = int(newest[0][1:]) + 1 if newest else 1
    return f"v{number:04d}"
