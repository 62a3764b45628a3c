"""The private key by which admission vouches for versions: made at its first start, rotated and revoked by a person.

`serving.trust` draws the folder. Every step leaves files that hold together: a public key is trusted before anything is signed
by it, and a revocation is written before the list of what it concerns is read.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import structlog

from schemas.errors import HeadraceError
from serving.trust import ID_CHARS, Revocation, Trust

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

LOCK_FILE = ".lock"
PRIVATE_MODE = 0o600
PUBLIC_MODE = 0o644

log = structlog.get_logger()


class KeyRefused(HeadraceError):
    """A private key that must not sign: missing, readable by others, or not trusted."""


@dataclass(frozen=True)
class SigningKey:
    """One private key file, and the folder in which its public keys are trusted."""

    path: Path
    trust: Trust

    def ready(self) -> str:
        """The id of the key that signs; the first one is made here.

        Raises:
            KeyRefused: It is lost, its file is open to others, or its signatures do not count.
        """
        with self._alone():
            if not self.path.exists():
                self._refuse_lost()
                self._make_first()
        mode = stat.S_IMODE(self.path.stat().st_mode)
        if mode & 0o077:
            raise KeyRefused(
                str(self.path),
                wanted="a private key that its owner alone can read (mode 0600)",
                came=f"its mode is {mode:04o}",
                mend="Who could read it may have it: rotate and revoke it (`headrace models keys`), or at least chmod 600.",
            )
        return self.trust.trusted(key_id(self._public())).key_id

    def rotate(self) -> str:
        """Sign with a new key from now on; what the old one signed stays signed. Returns the new key's id.

        The old private key is gone afterwards.
        """
        with self._alone():
            return self._rotated()

    def revoke(self, key: str, *, by: str, reason: str) -> str | None:
        """Let no signature of a key count from now on. Returns the id of the key that signs instead, if it was this one.

        Replicas find out within seconds: only a champion that they have in memory answers on.

        Raises:
            UntrustedKey: There is no such key.
            KeyRefused: This user may not write here, or the private key cannot be read; then the key is revoked all the same.
        """
        with self._alone():
            found = self.trust.key(key)
            if found.revoked is None:
                said = Revocation(revoked_ms=time.time_ns() // 1_000_000, by=by, reason=reason)
                content = said.model_dump_json().encode() + b"\n"
                _put(found.path.with_suffix(".revoked"), content, PUBLIC_MODE)
                log.info("keys.revoked", key_id=found.key_id, by=by, reason=reason)
            return self._rotated() if self.current() == found.key_id else None

    def current(self) -> str | None:
        """The id of the key that signs, whatever is thought of it; None where there is no private key."""
        return key_id(self._public()) if self.path.exists() else None

    def _rotated(self) -> str:
        made = _made()
        added = self._trust(made)
        _put(self.path, _private_bytes(made), PRIVATE_MODE)
        log.info("keys.rotated", key_id=added, path=str(self.path))
        return added

    def _refuse_lost(self) -> None:
        if self.trust.all_keys():
            raise KeyRefused(
                str(self.path),
                wanted="the private key of admission",
                came="it is not there, though public keys are trusted",
                mend="Put it back from where you keep it, or make another: `headrace models keys rotate`.",
            )

    def _make_first(self) -> None:
        made = _made()
        added = self._trust(made)
        _put(self.path, _private_bytes(made), PRIVATE_MODE)
        log.info(
            "keys.made",
            key_id=added,
            path=str(self.path),
            say="Admission signs versions with it. Keep a copy where nobody else reads it; there is no other.",
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time makes, rotates or revokes; whoever dies lets go."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.with_name(LOCK_FILE).open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise KeyRefused(
                f"keys under {self.path.parent}",
                wanted="files that this user may write",
                came=str(error),
                mend="Keys are made, rotated and revoked where admission runs, as the user that it runs as.",
            ) from error

    def _trust(self, key: EllipticCurvePrivateKey) -> str:
        public = _public_bytes(key)
        self.trust.folder.mkdir(parents=True, exist_ok=True)
        _put(self.trust.folder / f"{key_id(public)}.pub", public, PUBLIC_MODE)
        return key_id(public)

    def _public(self) -> bytes:
        from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 - only who signs
            load_pem_private_key,
        )

        try:
            return _public_bytes(load_pem_private_key(self.path.read_bytes(), None))
        except (ValueError, TypeError, OSError) as error:
            raise KeyRefused(
                str(self.path),
                wanted="a private key in PEM",
                came=str(error) or type(error).__name__,
                mend="Put it back from where you keep it, or make another: `headrace models keys rotate`.",
            ) from error


def key_id(public: bytes) -> str:
    """The id of a public key: the start of the hash by which a signature names its signer."""
    return hashlib.sha256(public).hexdigest()[:ID_CHARS]


def _made() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - only who signs

    return ec.generate_private_key(ec.SECP256R1())


def _private_bytes(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 - only who signs
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _public_bytes(key: object) -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - only who signs
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 - as above
        Encoding,
        PublicFormat,
    )

    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("it is not an elliptic-curve key")
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _draft(path: Path, content: bytes, mode: int) -> Path:
    """A finished file beside `path`; never readable to more than `mode` allows, not even while it is written."""
    draft = path.with_name(f".{path.name}.{uuid4().hex}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return draft


def _put(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _draft(path, content, mode).replace(path)
