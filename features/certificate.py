"""The proof that a view means the same to every executor, as a file beside the plan.

A certificate is of one definition (its fingerprint) under one code of the executors: whichever changes, it is void.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import msgspec

from features.views import Plan, View
from schemas.errors import HeadraceError

# Fewer prove little: a rare edge is in one seed of some tens.
SEEDS_MIN = 50
FOLDER = "certificates"
ROOT = Path(__file__).parents[1]
# What decides a value in some executor.
EXECUTORS = (
    "features/batch.py",
    "features/reference.py",
    "features/ring.py",
    "features/row_events.py",
    "features/row_sql.py",
    "features/tile_row.py",
    "features/tiles.py",
    "pipelines/flink_sql.py",
)
ENGINES = ("apache-flink", "duckdb", "numpy", "pyarrow")


class Uncertified(HeadraceError):
    """A view without a valid certificate, where the settings demand one."""


class Certificate(msgspec.Struct, frozen=True):
    """What was compared for one view.

    Attributes:
        view: Its name.
        fingerprint: Its meaning.
        executors: Which were compared; a full certificate has "stream" among them.
        seeds: How many hostile streams.
        compared: How many values.
        differences: How many were not equal.
        difference_max: The greatest relative difference of any value.
        tolerance: Up to which relative difference values are equal.
        seconds: How long it took.
        code: Digest of the executors' source.
        versions: Of the engines.
        at: When, ISO 8601, UTC.
    """

    view: str
    fingerprint: str
    executors: tuple[str, ...]
    seeds: int
    compared: int
    differences: int
    difference_max: float
    tolerance: float
    seconds: float
    code: str
    versions: dict[str, str]
    at: str

    def void(self, view: View) -> str:
        """Why it does not stand for this view now; empty where it does."""
        if self.fingerprint != view.fingerprint:
            return "its definition has changed"
        if self.code != code_digest() or self.versions != engine_versions():
            return "the executors have changed"
        if self.differences:
            return f"{self.differences} values differ"
        if "stream" not in self.executors:
            return "the stream executor was left out"
        if self.seeds < SEEDS_MIN:
            return f"{self.seeds} seeds, and {SEEDS_MIN} are wanted"
        return ""


def folder_of(plan_path: str | Path) -> Path:
    """Where certificates lie: beside the plan."""
    return Path(plan_path).parent / FOLDER


def save(certificate: Certificate, plan_path: str | Path) -> Path:
    """Write a certificate whole or not at all, in the place of an older one of the same view."""
    folder = folder_of(plan_path)
    folder.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=certificate.view)
    with os.fdopen(handle, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(certificate), indent=1) + b"\n")
    target = folder / f"{certificate.view}.json"
    Path(temporary).replace(target)
    return target


def load(view: str, plan_path: str | Path) -> Certificate | None:
    """A view's certificate, valid or not; None where there is none that can be read."""
    try:
        packed = (folder_of(plan_path) / f"{view}.json").read_bytes()
        return msgspec.json.decode(packed, type=Certificate)
    except (OSError, msgspec.DecodeError):
        return None


def certified(plan: Plan, plan_path: str | Path) -> dict[str, str]:
    """For every view of a plan, why it has no valid certificate; empty where it has one."""
    return {view.name: _wanting(view, plan_path) for view in plan.views}


def require(plan: Plan, plan_path: str | Path) -> None:
    """Refuse a plan with a view that has no valid certificate.

    Raises:
        Uncertified: naming every such view and why.
    """
    wanting = {name: why for name, why in certified(plan, plan_path).items() if why}
    if wanting:
        raise Uncertified(
            f"views {', '.join(wanting)}",
            wanted="a valid certificate, as flink.require_certificate demands",
            came="; ".join(f"{name}: {why}" for name, why in wanting.items()),
            mend="Run `headrace features certify` on a running stack, then apply again.",
        )


def code_digest(files: Iterable[str] = EXECUTORS) -> str:
    """16 hex digits over the source of the executors."""
    digest = hashlib.blake2b(digest_size=8)
    for name in files:
        path = ROOT / name
        digest.update(name.encode() + (path.read_bytes() if path.exists() else b""))
    return digest.hexdigest()


def engine_versions() -> dict[str, str]:
    """The engines' versions."""
    return {name: version(name) for name in ENGINES}


def _wanting(view: View, plan_path: str | Path) -> str:
    held = load(view.name, plan_path)
    return "never certified" if held is None else held.void(view)
