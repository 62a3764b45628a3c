"""Which versions of a model exist, and whether one is what it claims to be.

A folder appears by renaming, so whoever sees one sees all of it. `schemas.manifest` draws it, `serving.manifest`
judges it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from schemas import manifest as naming
from schemas.errors import HeadraceError
from schemas.manifest import Manifest
from serving import manifest
from serving.manifest import ModelRefused


class UnknownVersion(HeadraceError):
    """There is no such version."""


@dataclass(frozen=True)
class Registry:
    """The versions under one folder. Holds nothing in memory: every call looks."""

    models_dir: Path

    def models(self) -> list[str]:
        """The models that have a finished version."""
        if not self.models_dir.is_dir():
            return []
        return sorted(path.name for path in self.models_dir.iterdir() if self.versions(path.name))

    def versions(self, model: str) -> list[str]:
        """The finished versions, oldest first."""
        return naming.versions(self.models_dir, model)

    def path(self, model: str, version: str) -> Path:
        """The version's folder.

        Raises:
            UnknownVersion: There is none of that name; a name that leads out of the folder is none either.
        """
        known = self.versions(model) if self._has(model) else []
        if version not in known:
            raise UnknownVersion(
                f"{model} {version} under {self.models_dir}",
                wanted=f"one of {known}" if known else "a trained version",
                came="there is no such folder",
            )
        return self.models_dir / model / version

    def _has(self, model: str) -> bool:
        """Whether a folder here has this very name; what a candidate calls its model may be any path."""
        folder = self.models_dir
        return folder.is_dir() and any(path.name == model for path in folder.iterdir())

    def manifest(self, model: str, version: str) -> Manifest:
        """What the version says about itself; not yet whether that is true (`verify`).

        Raises:
            UnknownVersion: There is no such version.
            ModelRefused: Its manifest cannot be read.
        """
        return manifest.read(self.path(model, version))

    def digest(self, model: str, version: str) -> str:
        """SHA-256 of the manifest, which holds those of the files: one word for the whole version."""
        return naming.folder_digest(self.path(model, version))

    def verify(self, model: str, version: str, digest: str | None = None) -> Manifest:
        """As `verified`; the manifest."""
        return self.verified(model, version, digest)[0]

    def verified(self, model: str, version: str, digest: str | None = None) -> tuple[Manifest, str]:
        """Read every byte of the version and compare it with the manifest. Returns that, and its digest: of the same bytes.

        Args:
            model: The model's name.
            version: Its version.
            digest: What the version must hash to, where somebody else said so.

        Raises:
            UnknownVersion: There is nothing to verify.
            ModelRefused: It is another version than it claims, or a file is not as the manifest says.
        """
        folder = self.path(model, version)
        content = manifest.content(folder)
        came = hashlib.sha256(content).hexdigest()
        if digest is not None and digest != came:
            raise _refused(folder, f"the digest {digest}", f"the manifest has {came}")
        said = manifest.parse(folder, content)
        if (said.model, said.version) != (model, version):
            raise _refused(folder, f"{model} {version}", f"it is {said.model} {said.version}")
        manifest.verify(folder, said)
        return said, came


def _refused(folder: Path, wanted: str, came: str) -> ModelRefused:
    return ModelRefused(
        f"model folder {folder}", wanted=wanted, came=came, mend="Train the version again."
    )
