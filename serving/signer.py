"""Admission's identity: who alone may sign a version, after having verified every byte of it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from schemas.manifest import Manifest
from serving import line_file, signature
from serving.registry import Registry
from serving.signing_key import SigningKey
from serving.trust import ID_CHARS, Trust

if TYPE_CHECKING:
    from serving.settings import AdmissionSettings, ServingSettings

SIGNED_FILE = "signed.jsonl"

log = structlog.get_logger()


class Signed(NamedTuple):
    """A version as it was signed: by which key, its manifest, and the digest of that."""

    key_id: str
    said: Manifest
    digest: str


@dataclass(frozen=True)
class Signer:
    """Signs versions of a registry. `signed.jsonl` beside the key keeps when, by whom and why."""

    registry: Registry
    key: SigningKey

    @classmethod
    def of(cls, serving: ServingSettings, admission: AdmissionSettings) -> Signer:
        """The identity that the settings name."""
        trust = Trust(Path(serving.trust_dir or Path(admission.signing_key).parent / "trusted"))
        return cls(
            Registry(Path(serving.models_dir)), SigningKey(Path(admission.signing_key), trust)
        )

    def sign(
        self, model: str, version: str, *, by: str, reason: str, digest: str | None = None
    ) -> Signed:
        """Verify a version, and sign it; what was signed before stays so where this fails.

        Args:
            model: The model's name.
            version: Its version; one that is signed already is signed anew.
            by: Who vouches, for the record.
            reason: Why, for the record.
            digest: What the version must hash to, where somebody else said so.

        Raises:
            UnknownVersion: There is no such version.
            ModelRefused: It is not what its manifest says, or it changed while it was signed.
            KeyRefused, UntrustedKey: The key cannot sign.
        """
        key_id = self.key.ready()
        said, verified = self.registry.verified(model, version, digest)
        folder = self.registry.path(model, version)
        signature.sign(folder, self.key.path, signature.covered(said, verified))
        self._note(model, version, verified, key_id, by, reason)
        return Signed(key_id, said, verified)

    def signed_by(self, key_id: str) -> list[dict[str, str]]:
        """`model` and `version` of what a key signed, by the signatures' own word; oldest first."""
        return [
            {"model": model, "version": version}
            for model in self.registry.models()
            for version in self.registry.versions(model)
            if signature.signer(self.registry.path(model, version)) == key_id[:ID_CHARS]
        ]

    def record(self, model: str, version: str) -> list[dict[str, Any]]:
        """What `signed.jsonl` has of a version, oldest first; a line that is none is passed over."""
        path = self.key.path.with_name(SIGNED_FILE)
        found = []
        for line in path.read_bytes().splitlines() if path.exists() else []:
            try:
                said = json.loads(line)
            except ValueError:
                # Torn by a crash.
                continue
            if (said["model"], said["version"]) == (model, version):
                found.append(said)
        return found

    def _note(
        self, model: str, version: str, digest: str, key_id: str, by: str, reason: str
    ) -> None:
        line = {
            "signed_ms": time.time_ns() // 1_000_000,
            "model": model,
            "version": version,
            "digest": digest,
            "key_id": key_id,
            "by": by,
            "reason": reason,
        }
        line_file.append(self.key.path.with_name(SIGNED_FILE), json.dumps(line).encode())
        log.info("models.signed", model=model, version=version, key_id=key_id, by=by)
