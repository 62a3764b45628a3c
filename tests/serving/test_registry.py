from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving.manifest import ModelRefused
from serving.registry import Registry, UnknownVersion
from tests.serving import model_folders

MODEL = "flights"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    for version in ("v0002", "v0001"):
        model_folders.write(tmp_path, version)
    (tmp_path / MODEL / ".building-1").mkdir()
    return Registry(tmp_path)


def test_versions_are_finished_folders_oldest_first(registry: Registry) -> None:
    assert registry.versions(MODEL) == ["v0001", "v0002"]
    assert registry.versions("unknown") == []


def test_a_whole_version_is_verified(registry: Registry) -> None:
    digest = registry.digest(MODEL, "v0001")
    assert registry.verify(MODEL, "v0001", digest) == registry.manifest(MODEL, "v0001")
    assert digest != registry.digest(MODEL, "v0002")


@pytest.mark.parametrize("version", ["v0009", "..", "../flights/v0001", ".building-1", ""])
def test_what_is_no_version_has_no_path(registry: Registry, version: str) -> None:
    with pytest.raises(UnknownVersion, match="wanted one of"):
        registry.path(MODEL, version)


@pytest.mark.parametrize("model", ["../flights", "flights/../../flights", "flights/.", "/", ""])
def test_what_is_no_model_has_no_path(registry: Registry, tmp_path: Path, model: str) -> None:
    model_folders.write(tmp_path / "inner", "v0001")
    inner = Registry(tmp_path / "inner")
    assert inner.path(MODEL, "v0001").exists()
    for name in (model, str(registry.models_dir / MODEL)):
        with pytest.raises(UnknownVersion, match="wanted a trained version"):
            inner.path(name, "v0001")


def test_a_changed_byte_is_found(registry: Registry) -> None:
    path = registry.path(MODEL, "v0001") / "model.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelRefused, match=r"model\.onnx"):
        registry.verify(MODEL, "v0001")


@pytest.mark.parametrize("name", ["extra.onnx", "model.pkl", ".hidden"])
def test_a_file_too_many_is_found(registry: Registry, name: str) -> None:
    (registry.path(MODEL, "v0001") / name).write_bytes(b"")
    with pytest.raises(ModelRefused, match=name):
        registry.verify(MODEL, "v0001")


def test_a_missing_file_is_found(registry: Registry) -> None:
    (registry.path(MODEL, "v0001") / "reference.parquet").unlink()
    with pytest.raises(ModelRefused, match="missing"):
        registry.verify(MODEL, "v0001")


def test_a_link_is_no_file(registry: Registry, tmp_path: Path) -> None:
    path = registry.path(MODEL, "v0001") / "reference.parquet"
    elsewhere = tmp_path / "elsewhere.parquet"
    elsewhere.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(elsewhere)
    with pytest.raises(ModelRefused, match="plain file"):
        registry.verify(MODEL, "v0001")


def test_a_link_is_no_folder(registry: Registry, tmp_path: Path) -> None:
    folder = registry.path(MODEL, "v0001")
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelRefused, match="it is a link"):
        registry.verify(MODEL, "v0001")


def test_a_manifest_rewritten_to_match_is_found_by_the_digest(registry: Registry) -> None:
    digest = registry.digest(MODEL, "v0001")
    path = registry.path(MODEL, "v0001") / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"threshold": 0.1}))
    registry.verify(MODEL, "v0001")
    with pytest.raises(ModelRefused, match="the digest"):
        registry.verify(MODEL, "v0001", digest)


def test_another_versions_folder_under_this_name_is_found(registry: Registry) -> None:
    folder = registry.path(MODEL, "v0002")
    folder.rename(folder.with_name("v0003"))
    with pytest.raises(ModelRefused, match="flights v0002"):
        registry.verify(MODEL, "v0003")
