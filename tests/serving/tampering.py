"""What may be done to a signed version behind everybody's back: each with words of the refusal that must follow."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from schemas.manifest import MANIFEST_FILE, MODEL_FILE, file_digest
from serving import signature
from serving.signer import Signer
from serving.signing_key import SigningKey
from serving.trust import Trust


@dataclass(frozen=True)
class Tampering:
    """Done to a version's folder by `do`; `other` is another signed version of the same model."""

    name: str
    do: Callable[[Signer, Path, Path], None]
    said: str


def flip(path: Path, at: int) -> None:
    """Turn one bit of a byte round; positions go round as well."""
    content = bytearray(path.read_bytes())
    content[at % len(content)] ^= 1
    path.write_bytes(bytes(content))


def _flipped_model(_: Signer, folder: Path, __: Path) -> None:
    flip(folder / MODEL_FILE, 100)


def _flipped_rows(_: Signer, folder: Path, __: Path) -> None:
    flip(folder / "reference.parquet", 0)


def _extra_file(_: Signer, folder: Path, __: Path) -> None:
    (folder / "notes.json").write_text("{}")


def _ignored_by_git(_: Signer, folder: Path, __: Path) -> None:
    (folder / ".gitattributes").write_text("")


def _empty_folder(_: Signer, folder: Path, __: Path) -> None:
    (folder / "empty").mkdir()


def _pickle(_: Signer, folder: Path, __: Path) -> None:
    (folder / "model.pkl").write_bytes(b"\x80\x04.")


def _listed_pickle(_: Signer, folder: Path, __: Path) -> None:
    """Even where the manifest says that it belongs there."""
    (folder / "model.pkl").write_bytes(b"\x80\x04.")
    _list(folder, "model.pkl")


def _link(_: Signer, folder: Path, __: Path) -> None:
    elsewhere = folder.parents[1] / f"{folder.name}.onnx"
    (folder / MODEL_FILE).rename(elsewhere)
    (folder / MODEL_FILE).symlink_to(elsewhere)


def _linked_folder(_: Signer, folder: Path, __: Path) -> None:
    elsewhere = folder.parents[1] / f"{folder.name}.moved"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)


def _unsigned(_: Signer, folder: Path, __: Path) -> None:
    signature.path_of(folder).unlink()


def _forgery(_: Signer, folder: Path, __: Path) -> None:
    """Model and manifest say the same; only the signature does not."""
    flip(folder / MODEL_FILE, 200)
    _list(folder, MODEL_FILE)


def _others_signature(_: Signer, folder: Path, other: Path) -> None:
    shutil.copy(signature.path_of(other), signature.path_of(folder))


def _other_version(signer: Signer, folder: Path, other: Path) -> None:
    """A version that is signed, under another one's name: yesterday's model as today's."""
    shutil.rmtree(folder)
    shutil.copytree(other, folder)
    _others_signature(signer, folder, other)


def _no_bundle(_: Signer, folder: Path, __: Path) -> None:
    signature.path_of(folder).write_text("[]")


def _stranger(signer: Signer, folder: Path, __: Path) -> None:
    """Signed as it should be, with a key that was made elsewhere."""
    keys = signer.key.path.parent / "strangers"
    stranger = Signer(signer.registry, SigningKey(keys / "key.pem", Trust(keys / "trusted")))
    stranger.sign(folder.parent.name, folder.name, by="a stranger", reason="malice")


def _revoked(signer: Signer, folder: Path, other: Path) -> None:
    """Signed by a key that was trusted then; the other version has the word of the next key."""
    key_id = signer.key.rotate()
    signer.sign(folder.parent.name, folder.name, by="a person", reason="a test")
    signer.key.rotate()
    signer.sign(other.parent.name, other.name, by="a person", reason="a new key")
    signer.key.revoke(key_id, by="a person", reason="a laptop was lost")


def _list(folder: Path, name: str) -> None:
    """Make the manifest say that the file is as it is now."""
    path = folder / MANIFEST_FILE
    said = json.loads(path.read_text())
    said["files"][name] = file_digest(folder / name)
    path.write_text(json.dumps(said))


TAMPERINGS = (
    Tampering("a flipped bit of the model", _flipped_model, "model.onnx has another sha256"),
    Tampering("a flipped bit of its rows", _flipped_rows, "reference.parquet has another sha256"),
    Tampering("a file too many", _extra_file, "notes.json is not listed"),
    Tampering("a file that Git ignores", _ignored_by_git, ".gitattributes is not listed"),
    Tampering("an empty folder", _empty_folder, "empty is not listed"),
    Tampering("a pickle", _pickle, "model.pkl is not listed"),
    Tampering("a pickle in the manifest", _listed_pickle, "of a format that is never loaded"),
    Tampering("a link for the model", _link, "model.onnx is not a plain file"),
    Tampering("a link for the folder", _linked_folder, "it is a link"),
    Tampering("no signature", _unsigned, "wanted a signature"),
    Tampering("model and manifest forged", _forgery, "Hash mismatch for manifest.json"),
    Tampering("another's signature", _others_signature, "Hash mismatch for manifest.json"),
    Tampering("another version's folder", _other_version, "but it is "),
    Tampering("a signature that is none", _no_bundle, "a signature that can be read"),
    Tampering("an unknown signer", _stranger, "is none of them"),
    Tampering("a revoked signer", _revoked, "it was revoked by a person: a laptop was lost"),
)
