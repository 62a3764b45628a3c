"""Precedence of the sources, and the sentence of a wrong setting."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from infra.settings import InvalidSettings, Settings
from infra.workers import WORKERS


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without headrace.toml, and an environment without our variables."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("HEADRACE_")]:
        monkeypatch.delenv(name)


def endpoints(folder: Path, **sections: dict[str, object]) -> None:
    (folder / "run").mkdir(parents=True)
    (folder / "run" / "endpoints.json").write_text(json.dumps(sections), encoding="utf-8")


def test_paths_lie_under_the_data_folder_and_are_absolute(tmp_path: Path) -> None:
    settings = Settings.load()
    data = tmp_path / ".headrace"
    assert settings.data == data
    assert settings.stores.catalog_uri == f"sqlite:///{data}/lake/catalog.db"
    assert settings.stores.warehouse == f"file://{data}/lake/warehouse"
    assert settings.serving.models_dir == str(data / "models")
    assert settings.monitoring.reports_dir == str(data / "reports")
    assert settings.serving.trust_dir == str(data / "keys" / "trusted")
    assert settings.admission.signing_key == str(data / "keys" / "admission.pem")
    assert settings.admission.registry_uri == f"sqlite:///{data}/registry/mlflow.db"
    assert Path(settings.flink.connector_jar).is_absolute()


def test_nobody_turns_signatures_off_by_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_SERVING", '{"trust_dir": null}')
    with pytest.raises(InvalidSettings, match="a trust_dir"):
        Settings.load()


def test_only_admission_is_told_of_the_private_key() -> None:
    told = {entry.name for entry in WORKERS if "admission" in entry.sections}
    assert told == {"admission"}


def test_sources_weakest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.load().kafka.bootstrap_servers == "127.0.0.1:9092"
    endpoints(tmp_path / ".headrace", kafka={"bootstrap_servers": "127.0.0.1:1"})
    assert Settings.load().kafka.bootstrap_servers == "127.0.0.1:1"
    toml = '[kafka]\nbootstrap_servers = "toml:2"\nreplication_factor = 3\n'
    (tmp_path / "headrace.toml").write_text(toml, encoding="utf-8")
    assert Settings.load().kafka.bootstrap_servers == "toml:2"
    monkeypatch.setenv("HEADRACE_KAFKA__BOOTSTRAP_SERVERS", "env:3")
    kafka = Settings.load().kafka
    assert (kafka.bootstrap_servers, kafka.replication_factor) == ("env:3", 3)
    assert Settings.load(kafka={"bootstrap_servers": "call:4"}).kafka.bootstrap_servers == "call:4"


def test_the_data_folder_decides_whose_endpoints_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoints(tmp_path / "other", flink={"rest_port": 4711})
    assert Settings.load().flink.rest_port == 8081
    monkeypatch.setenv("HEADRACE_DATA_DIR", "other")
    settings = Settings.load()
    assert settings.flink.rest_port == 4711
    assert settings.data == tmp_path / "other"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("HEADRACE_LOCAL__KAFKA_PORT", "many", ["local.kafka_port", "integer", "'many'"]),
        ("HEADRACE_SERVING__REPLICAS", "0", ["serving.replicas", "greater than or equal to 1"]),
        ("HEADRACE_KAFKA__BOOTSTRAP_SERVER", "x", ["no", "bootstrap_servers"]),
        ("HEADRACE_KAFAK__BOOTSTRAP_SERVERS", "x", ["HEADRACE_KAFAK", "kafka"]),
        ("HEADRACE_LOCAL", "yes", ["local"]),
    ],
)
def test_a_wrong_variable_is_named(
    name: str, value: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings) as caught:
        Settings.load()
    assert all(word in str(caught.value) for word in said), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[kafka]\nbootstrap = 'x'\n", "kafka.bootstrap"),
        ("case = 7\n", "case"),
        ("[kafka\n", "headrace.toml"),
    ],
)
def test_a_wrong_file_is_named(toml: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "headrace.toml").write_text(toml, encoding="utf-8")
    with pytest.raises(InvalidSettings, match=said):
        Settings.load()


def test_a_wrong_secret_is_not_repeated(tmp_path: Path) -> None:
    toml = "[kafka]\nsasl_password = ['hunter2']\n"
    (tmp_path / "headrace.toml").write_text(toml, encoding="utf-8")
    with pytest.raises(InvalidSettings) as caught:
        Settings.load()
    assert "hunter2" not in str(caught.value)


def test_written_settings_come_back_whole_and_private(tmp_path: Path) -> None:
    settings = Settings.load(kafka={"sasl_password": "hunter2"}, case="payments")
    path = tmp_path / "settings.json"
    settings.write(path)
    assert Settings.read(path) == settings
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "hunter2" not in repr(settings)
