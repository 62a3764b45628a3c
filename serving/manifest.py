"""The proof that a model folder is what its manifest says (`schemas.manifest` draws the folder)."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from schemas.errors import HeadraceError
from schemas.manifest import MANIFEST_FILE, MODEL_FILE, Manifest, file_digest

__all__ = ["Manifest", "ModelRefused", "content", "parse", "read", "verify"]

# ONNX may keep large weights beside the graph, and a card is for people; no other suffix has a reason to be in a model folder.
SUFFIXES = frozenset({".onnx", ".json", ".parquet", ".data", ".md"})
_DETAIL_CHARS_MAX = 200
_TRAIN_AGAIN = (
    "Do not mend the folder: train again, or copy the version anew from where it was made."
)


class ModelRefused(HeadraceError):
    """A model folder that must not be served; the version that answers now goes on answering."""


def read(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
        ModelRefused: It is missing, or not a manifest.
    """
    return parse(folder, content(folder))


def content(folder: Path) -> bytes:
    """The bytes of a folder's manifest, for whoever hashes and parses the same ones: a moment later they may be others.

    Raises:
        ModelRefused: It cannot be read.
    """
    try:
        return (folder / MANIFEST_FILE).read_bytes()
    except OSError as error:
        raise _none(folder, error) from error


def parse(folder: Path, text: bytes) -> Manifest:
    """What the bytes of a folder's manifest say.

    Raises:
        ModelRefused: They are none.
    """
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise _none(folder, error) from error


def _none(folder: Path, error: Exception) -> ModelRefused:
    return ModelRefused(
        str(folder / MANIFEST_FILE),
        wanted="a model's manifest",
        came=str(error)[:_DETAIL_CHARS_MAX],
        mend=_TRAIN_AGAIN,
    )


def verify(folder: Path, manifest: Manifest) -> None:
    """Check that the folder holds exactly the files that the manifest lists, unchanged, and none that could execute.

    Raises:
        ModelRefused: A file is missing, changed, not listed, of a refused format, a folder or a link; or the folder itself
            is a link: what it leads to may be another one a moment later.
    """
    if folder.is_symlink():
        raise ModelRefused(
            f"model folder {folder}", wanted="a folder", came="it is a link", mend=_TRAIN_AGAIN
        )
    found = {entry.name: entry for entry in folder.iterdir() if entry.name != MANIFEST_FILE}
    for name in sorted(found.keys() | manifest.files.keys() | {MODEL_FILE}):
        came = _complaint(name, found.get(name), manifest.files.get(name))
        if came:
            raise ModelRefused(
                f"model folder {folder}",
                wanted="the files its manifest lists, unchanged, and no other",
                came=came,
                mend=_TRAIN_AGAIN,
            )


def _complaint(name: str, path: Path | None, listed: str | None) -> str | None:
    if path is None:
        return f"{name} is missing"
    if listed is None:
        return f"{name} is not listed"
    if path.is_symlink() or not path.is_file():
        return f"{name} is not a plain file"
    if path.suffix not in SUFFIXES:
        return f"{name} is of a format that is never loaded"
    return None if file_digest(path) == listed else f"{name} has another sha256 than listed"
