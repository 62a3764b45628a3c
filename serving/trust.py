"""Whose signatures count: a folder of public keys that everybody who loads a model reads, and nobody but admission writes.

```
<data>/keys/
├── admission.pem         the private key, mode 0600: only admission's settings name it (`serving.signing_key`)
├── signed.jsonl          what was signed, when, by whom and why (`serving.signer`)
├── acts.jsonl            what people did with keys, whether or not it is on record yet (`serving.key_record`)
└── trusted/              this folder, `serving.trust_dir`
    ├── <key id>.pub      a public key; a key's id is the start of the SHA-256 of this file
    └── <key id>.revoked  JSON: since when its signatures do not count any more, by whom, and why
```
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.errors import HeadraceError

ID_CHARS = 16
_ID = re.compile(r"[0-9a-f]{16}")


class UntrustedKey(HeadraceError):
    """A key that nobody here vouches with: unknown, revoked, or not the one its name says."""


class Revocation(BaseModel):
    """`<key id>.revoked`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    revoked_ms: int
    by: str
    reason: str


@dataclass(frozen=True)
class TrustedKey:
    """A key of the folder; with `revoked`, one whose signatures do not count any more."""

    key_id: str
    path: Path
    added_ms: int
    revoked: Revocation | None


@dataclass(frozen=True)
class Trust:
    """The keys under one folder. Holds nothing in memory, so that a revocation counts at the next look."""

    folder: Path

    def all_keys(self) -> list[TrustedKey]:
        """All keys, the newest first."""
        found = [self._key(path) for path in self.folder.glob("*.pub") if _ID.fullmatch(path.stem)]
        return sorted(found, key=lambda key: (key.added_ms, key.key_id), reverse=True)

    def key(self, key_id: str) -> TrustedKey:
        """The key of that id, revoked or not.

        Args:
            key_id: Its id, or the whole hash of which that is the start.

        Raises:
            UntrustedKey: There is none, or it is another key than its name says.
        """
        short = key_id[:ID_CHARS]
        path = self.folder / f"{short}.pub"
        if not _ID.fullmatch(short) or not path.is_file():
            known = [key.key_id for key in self.all_keys()]
            raise UntrustedKey(
                f"keys under {self.folder}",
                wanted=f"one of {known}" if known else "a trusted key",
                came=f"{short!r} is none of them",
                mend="`headrace models keys list` shows whose signatures count.",
            )
        if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(short):
            raise UntrustedKey(
                str(path),
                wanted=f"the public key {short}",
                came="the file holds another key",
                mend="Take the file away, and find out who put it there.",
            )
        return self._key(path)

    def trusted(self, key_id: str) -> TrustedKey:
        """The key of that id, if its signatures count.

        Raises:
            UntrustedKey: They do not, or there is no such key.
        """
        key = self.key(key_id)
        if key.revoked is not None:
            raise UntrustedKey(
                f"key {key.key_id}",
                wanted="a key that is trusted",
                came=f"it was revoked by {key.revoked.by}: {key.revoked.reason}",
                mend="Verify what it signed, then sign anew what you vouch for: `headrace models sign VERSION`.",
            )
        return key

    def trusts(self, key_id: str) -> bool:
        """Whether the signatures of that key count."""
        try:
            self.trusted(key_id)
        except UntrustedKey:
            return False
        return True

    def _key(self, path: Path) -> TrustedKey:
        added_ms = path.stat().st_mtime_ns // 1_000_000
        return TrustedKey(path.stem, path, added_ms, _revocation(path.with_suffix(".revoked")))


def _revocation(path: Path) -> Revocation | None:
    """What is said of a revocation. One that cannot be read is one all the same."""
    try:
        return Revocation.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        return Revocation(revoked_ms=0, by="unknown", reason=f"{path} cannot be read")
