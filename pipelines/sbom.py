"""The bill of materials of the environment that versions are trained in: CycloneDX, once for every lock file.

`<models_dir>/sbom/<SHA-256 of the lock>.cdx.json`; a version's manifest names the lock by that hash. What was locked comes from the
lock – names, versions, hashes of all artefacts, who needs whom – and what only an installation knows, the licences, from the
packages' own metadata. https://cyclonedx.org/specification/overview/
"""

from __future__ import annotations

import re
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING
from uuid import NAMESPACE_URL, uuid4, uuid5

from schemas.manifest import file_digest

if TYPE_CHECKING:
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component
    from cyclonedx.model.license import License

# Of this checkout: what a training runs under.
LOCK = Path(__file__).parents[1] / "requirements.lock"
ROOT = "headrace"
FOLDER = "sbom"
UNKNOWN = "unknown"
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_VIA = re.compile(r"^\s+#\s+(?:via\s+)?(\S.*)$")
_NAME_CHARS_MAX = 100


@dataclass(frozen=True)
class Locked:
    """One package of the lock: `via` are those that need it, as the lock says."""

    name: str
    version: str
    hashes: tuple[str, ...]
    via: tuple[str, ...]


def locked(text: str) -> list[Locked]:
    """The packages of a lock file as `uv pip compile` writes it, in its order."""
    return [one for one in _blocks(text.splitlines()) if one is not None]


def path_of(models_dir: Path, lock: str) -> Path:
    """Where the bill of that lock lies, or would."""
    return models_dir / FOLDER / f"{lock}.cdx.json"


def ensure(lock: Path, models_dir: Path) -> Path:
    """The bill of this lock, written if it is not there yet; it appears whole."""
    digest = file_digest(lock)
    path = path_of(models_dir, digest)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{uuid4().hex}")
        draft.write_text(bill(lock.read_text(encoding="utf-8"), digest), encoding="utf-8")
        draft.replace(path)
    return path


def bill(text: str, digest: str) -> str:
    """The bill of a lock file's text, as CycloneDX JSON: the same for the same lock and the same installation."""
    from cyclonedx.output.json import JsonV1Dot6  # noqa: PLC0415 - half a second, once a lock

    with warnings.catch_warnings():
        # Of a root that nothing depends on, in locks that do not say who needs what.
        warnings.simplefilter("ignore", UserWarning)
        return str(JsonV1Dot6(_bom(locked(text), digest)).output_as_string(indent=1)) + "\n"


def _blocks(lines: list[str]) -> Iterator[Locked | None]:
    name, version = "", ""
    hashes: list[str] = []
    via: list[str] = []
    for line in [*lines, "end==0"]:
        if pinned := _PINNED.match(line):
            yield Locked(name, version, tuple(hashes), tuple(via)) if name else None
            name, version = pinned[1], pinned[2]
            hashes, via = [], []
        hashes += _HASH.findall(line)
        if (by := _VIA.match(line)) and by[1] != "via":
            via.append(by[1].partition(" ")[0])


def _bom(packages: list[Locked], digest: str) -> Bom:
    from cyclonedx.model import Property  # noqa: PLC0415 - as above
    from cyclonedx.model.bom import Bom  # noqa: PLC0415
    from cyclonedx.model.component import Component, ComponentType  # noqa: PLC0415

    root = Component(
        name=ROOT, version=_installed(ROOT), type=ComponentType.APPLICATION, bom_ref=ROOT
    )
    bom = Bom(serial_number=uuid5(NAMESPACE_URL, f"urn:sha256:{digest}"))
    bom.metadata.component = root
    # A time would make two bills of one lock differ.
    bom.metadata.timestamp = None  # type: ignore[assignment] # the schema allows none
    told = {"lock_sha256": digest, "python": python_version(), "platform": sysconfig.get_platform()}
    for name, value in told.items():
        bom.metadata.properties.add(Property(name=f"headrace:{name}", value=value))
    made = {one.name: _component(one) for one in packages}
    for component in made.values():
        bom.components.add(component)
    parents: dict[str, list[Component]] = {name: [] for name in (ROOT, *made)}
    for one in packages:
        for parent in one.via:
            if parent in parents:
                parents[parent].append(made[one.name])
    for name, needed in parents.items():
        bom.register_dependency(root if name == ROOT else made[name], needed)
    return bom


def _component(one: Locked) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType, Property  # noqa: PLC0415 - as above
    from cyclonedx.model.component import Component, ComponentType  # noqa: PLC0415
    from packageurl import PackageURL  # noqa: PLC0415

    return Component(
        name=one.name,
        version=one.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"{one.name}=={one.version}",
        purl=PackageURL("pypi", None, one.name, one.version),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in one.hashes],
        licenses=_licences(one.name),
        # Locked for several platforms, installed on one: what is not here was not there in training.
        properties=[Property(name="headrace:installed", value=_installed(one.name) or "no")],
    )


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _licences(name: str) -> list[License]:
    """What the package says of its licence: an SPDX expression where it is one, else its first words."""
    from cyclonedx.contrib.license.factories import LicenseFactory  # noqa: PLC0415 - as above

    try:
        said = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return []
    classified = [
        one.rpartition(" :: ")[2]
        for one in said.get_all("Classifier") or []
        if one.startswith("License :: ") and one.count(" :: ") > 1
    ]
    expressions = said.get_all("License-Expression") or []
    stated = [*expressions, *filter(_short, said.get_all("License") or [])]
    text = stated[0] if stated else " / ".join(classified)
    return [LicenseFactory().make_from_string(text[:_NAME_CHARS_MAX])] if text else []


def _short(text: str) -> bool:
    """Some packages put the licence's whole text there."""
    return bool(text) and "\n" not in text and len(text) <= _NAME_CHARS_MAX
