"""The signature of a version: over every byte of its folder, in the OpenSSF model-signing format, beside the folder.

`<models_dir>/<model>/v0001.sig` is a Sigstore bundle around an in-toto statement that lists every file with its SHA-256; the
`model_signing` command of other tools verifies it as well. https://github.com/sigstore/model-transparency
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from json import JSONDecodeError
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from cryptography.exceptions import InvalidSignature
from model_signing import hashing, signing, verifying
from pydantic import ValidationError

from schemas.manifest import MANIFEST_FILE, Manifest
from serving import manifest
from serving.manifest import ModelRefused
from serving.trust import ID_CHARS, Trust, UntrustedKey

SUFFIX = ".sig"
_SIGN = "`headrace models sign {version}` signs it, once you have made sure that it is what it should be."
_UNLIKE = "Do not mend the folder: train again, or copy the version anew from where it was made."
_DETAIL_CHARS_MAX = 300


def path_of(folder: Path) -> Path:
    """Where the signature of a version lies; outside the folder, which it covers whole."""
    return folder.with_name(folder.name + SUFFIX)


def signer(folder: Path) -> str | None:
    """The id of the key that signed, by the signature's own word; None where there is none to be read."""
    try:
        return _hint(_bundle(folder))[:ID_CHARS]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def covered(said: Manifest, digest: str) -> dict[str, str]:
    """What a signature must cover: the files of this manifest and itself, and nothing else. File → SHA-256."""
    return {**said.files, MANIFEST_FILE: digest}


def sign(folder: Path, private_key: Path, wanted: Mapping[str, str]) -> None:
    """Sign what lies in the folder now, if that is `wanted` (`covered`).

    A signature of before is replaced at once, and only by one that covers that.

    Raises:
        ModelRefused: The folder holds something else, or a link; or nothing can be written beside it.
    """
    draft = path_of(folder).with_name(f".{folder.name}.{uuid4().hex}{SUFFIX}")
    try:
        bundle = _signed(folder, private_key)
        if _files(json.loads(bundle)) != wanted:
            came = "they changed while they were signed"
            mend = "Nothing was signed. Who writes there? Then train again."
            raise _refused(folder, "the files that were verified", came, mend)
        draft.write_bytes(bundle)
        draft.replace(path_of(folder))
    except ValueError as error:
        raise _refused(folder, "files that can be signed", _brief(error), _UNLIKE) from error
    except OSError as error:
        mend = "Sign where admission runs, and as the user that it runs as."
        raise _refused(folder, "a signature beside it", str(error), mend) from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def _signed(folder: Path, private_key: Path) -> bytes:
    """The bundle. The library writes it to a file: a private one, for it is valid whatever it covers."""
    config = signing.Config().set_hashing_config(_hashing())  # type: ignore[no-untyped-call]
    with TemporaryDirectory() as private:
        path = Path(private) / path_of(folder).name
        config.use_elliptic_key_signer(private_key=private_key).sign(folder, path)
        return path.read_bytes()


def verify(folder: Path, said: Manifest, trust: Trust) -> str:
    """Check that somebody trusted signed this version as it lies there, and return the id of the key.

    The manifest must have been verified (`manifest.verify`): a signature says nothing of empty folders.

    Raises:
        ModelRefused: There is no signature, nobody trusted made it, or something has changed since; or the folder is a link,
            or that of another version.
    """
    if folder.is_symlink():
        raise _refused(folder, "a folder", "it is a link", _UNLIKE)
    if (said.model, said.version) != (folder.parent.name, folder.name):
        # A whole folder and its signature under another name: what is signed is a version, not a place.
        came = f"it is {said.model} {said.version}"
        raise _refused(folder, f"{folder.parent.name} {folder.name}", came, _UNLIKE)
    sign_it = _SIGN.format(version=folder.name)
    hint = ""
    try:
        hint = _hint(_bundle(folder))
        key = trust.trusted(hint)
        config = verifying.Config()  # type: ignore[no-untyped-call]
        config.use_elliptic_key_verifier(public_key=key.path).set_hashing_config(_hashing())
        config.verify(folder, path_of(folder))
    except FileNotFoundError as error:
        raise _refused(
            folder, f"a signature in {path_of(folder)}", "there is none", sign_it
        ) from error
    except UntrustedKey as error:
        came = f"it is signed by {hint[:ID_CHARS]}, and {error.came}"
        raise _refused(folder, "the signature of a trusted key", came, sign_it) from error
    except InvalidSignature as error:
        came = "its text is not what was signed"
        raise _refused(folder, "an unchanged signature", came, sign_it) from error
    except (ValidationError, KeyError, TypeError, OSError, JSONDecodeError) as error:
        came = f"{type(error).__name__} on reading {path_of(folder)}"
        raise _refused(folder, "a signature that can be read", came, sign_it) from error
    except ValueError as error:
        raise _refused(folder, "the files that were signed", _brief(error), _UNLIKE) from error
    return key.key_id


def _hashing() -> hashing.Config:
    """Every file, also those of Git, which the library leaves out by itself; links are refused."""
    return (
        hashing.Config()  # type: ignore[no-untyped-call]
        .use_file_serialization(max_workers=1)
        .set_ignored_paths(paths=(), ignore_git_paths=False)
    )


def _bundle(folder: Path) -> dict[str, Any]:
    bundle = json.loads(path_of(folder).read_bytes())
    if not isinstance(bundle, dict):
        raise TypeError("not a bundle")
    return bundle


def _hint(bundle: dict[str, Any]) -> str:
    return str(bundle["verificationMaterial"]["publicKey"]["hint"])


def _files(bundle: dict[str, Any]) -> dict[str, str]:
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    return {one["name"]: one["digest"] for one in statement["predicate"]["resources"]}


def _brief(error: ValueError) -> str:
    """What the library says, without the hashes as Python prints them."""
    said = str(error).partition("\n")[0].removeprefix("Signature mismatch: ")
    return re.sub(r"[\[\]\"'\\]", "", re.sub(r": Expected .*", "", said))


def _refused(folder: Path, wanted: str, came: str, mend: str) -> ModelRefused:
    return ModelRefused(
        f"model folder {folder}", wanted=wanted, came=came[:_DETAIL_CHARS_MAX], mend=mend
    )


def verify_whole(folder: Path, trust: Trust) -> str:
    """`manifest.verify` and `verify` together: the id of the key that vouches for the folder.

    Raises:
        ModelRefused: As they do.
    """
    said = manifest.read(folder)
    manifest.verify(folder, said)
    return verify(folder, said, trust)
