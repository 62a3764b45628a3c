"""The bill of the environment as it is locked here, judged by CycloneDX's own schema."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from pipelines import sbom
from pipelines.sbom import LOCK
from schemas.manifest import file_digest

SMALL = f"""
# made by a tool
numpy==2.4.6 \\
    --hash=sha256:{"a" * 64} \\
    --hash=sha256:{"b" * 64}
    # via
    #   headrace (pyproject.toml)
    #   pandas
not-here[extra]==1.0 ; sys_platform == 'win32' \\
    --hash=sha256:{"c" * 64}
    # via numpy
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def made(models: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(sbom.ensure(LOCK, models).read_text())
    return told


def test_the_schema_has_no_complaint(made: dict[str, Any]) -> None:
    judge = JsonStrictValidator(SchemaVersion.V1_6)
    assert judge.validate_str(json.dumps(made)) is None
    assert judge.validate_str(json.dumps(made | {"unknown": 1})) is not None


def test_every_locked_package_is_there_with_version_hashes_and_most_licences(
    made: dict[str, Any],
) -> None:
    components = {one["name"]: one for one in made["components"]}
    pinned = [
        line for line in LOCK.read_text().splitlines() if "==" in line and line[0] not in " #"
    ]
    assert len(components) == len(pinned) > 200
    assert components["numpy"]["version"] == version("numpy")
    assert all(one["hashes"] for one in components.values())
    without = [name for name, one in components.items() if not one.get("licenses")]
    assert len(without) < 0.1 * len(components), without
    needs = {one["ref"]: one.get("dependsOn", []) for one in made["dependencies"]}
    numpy = components["numpy"]["bom-ref"]
    assert numpy in needs[components["pandas"]["bom-ref"]]
    assert len(needs["headrace"]) > 20


def test_it_is_made_once_a_lock_and_says_which(made: dict[str, Any], models: Path) -> None:
    path = sbom.path_of(models, file_digest(LOCK))
    before = path.stat().st_mtime_ns
    assert sbom.ensure(LOCK, models) == path
    assert path.stat().st_mtime_ns == before
    properties = {one["name"]: one["value"] for one in made["metadata"]["properties"]}
    assert properties["headrace:lock_sha256"] == file_digest(LOCK)
    assert properties["headrace:python"] == python_version()
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_the_same_lock_gives_the_same_bill() -> None:
    assert sbom.bill(SMALL, "d" * 64) == sbom.bill(SMALL, "d" * 64)
    told = json.loads(sbom.bill(SMALL, "d" * 64))
    components = {one["name"]: one for one in told["components"]}
    assert [one["content"] for one in components["numpy"]["hashes"]] == ["a" * 64, "b" * 64]
    assert components["not-here"]["properties"] == [{"name": "headrace:installed", "value": "no"}]
    assert "licenses" not in components["not-here"]


def test_a_lock_is_read_with_who_needs_whom() -> None:
    assert [(one.name, one.version, one.via) for one in sbom.locked(SMALL)] == [
        ("numpy", "2.4.6", ("headrace", "pandas")),
        ("not-here", "1.0", ("numpy",)),
    ]
    assert sbom.locked("") == []
