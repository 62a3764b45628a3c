"""What doctor says about a machine that lacks something."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from infra.commands import doctor
from infra.local import process
from infra.local.endpoints import PortTaken, choose, resolve
from infra.settings import Settings
from serving import payments
from serving.tiers import Tier


@pytest.fixture
def settings(tmp_path: Path, jars: Path) -> Settings:
    return Settings.load(data_dir=str(tmp_path / "data"), jars=str(jars))


def named(settings: Settings) -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.checks(settings)}


def test_this_machine_is_fit(settings: Settings) -> None:
    unfit = [check for check in named(settings).values() if not check.ok and check.name != "memory"]
    assert not unfit


def test_a_missing_jdk_and_maven_are_named_with_the_way_to_mend_them(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = named(settings.model_copy(update={"jars": str(tmp_path)}))
    for name in ("java", "maven", "jars"):
        assert not found[name].ok
    assert "no `java` on PATH" in found["java"].found
    assert "17" in found["java"].wanted
    assert "apt install openjdk-17" in found["java"].mend
    assert "make jars" in found["jars"].mend
    with pytest.raises(doctor.MachineLacks, match="java: wanted a JDK"):
        doctor.require(settings)


def test_a_tier_of_no_estimator_is_wrong(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_payments = settings.model_copy(update={"case": "payments"})
    assert named(of_payments)["tiers"].found == "2 declared"
    monkeypatch.setattr(payments, "TIERS", {"tree": Tier("cpu"), "neural": Tier("gpu", share=0.25)})
    check = named(of_payments)["tiers"]
    assert not check.ok
    assert check.found == "there is no tree"
    assert "neural, trees" in check.wanted


@pytest.mark.parametrize(("version", "ok"), [("1.8.0_402", False), ("11.0.2", False), ("21", True)])
def test_the_version_of_java_is_read(
    version: str, *, ok: bool, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n", encoding="utf-8")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert named(settings)["java"].ok is ok


def test_a_busy_port_is_named_by_doctor_and_by_up(settings: Settings) -> None:
    with socket.socket() as taken:
        taken.bind((process.LOOPBACK, 0))
        taken.listen()
        port = int(taken.getsockname()[1])
        local = settings.local.model_copy(update={"kafka_port": port})
        busy = settings.model_copy(update={"local": local})
        check = named(busy)["ports"]
        assert not check.ok
        assert f"kafka_port {port}" in check.found
        with pytest.raises(PortTaken, match=f"local.kafka_port: wanted port {port} free"):
            choose(busy)


def test_a_full_disk_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "DISK_GB_MIN", 1e9)
    check = named(settings)["disk"]
    assert not check.ok
    assert "HEADRACE_DATA_DIR" in check.mend


def test_engines_elsewhere_need_no_java(tmp_path: Path) -> None:
    local = {"kafka": False, "redis": False, "flink": False, "ray": False}
    settings = Settings.load(data_dir=str(tmp_path), local=local)
    assert not {"java", "jars", "maven", "redis"} & set(named(settings))
    assert set(choose(settings)) == {"http_port"}


def test_chosen_ports_reach_the_clients_and_are_kept(settings: Settings) -> None:
    ports = choose(settings)
    assert len(set(ports.values())) == len(ports)
    resolved = resolve(settings, ports)
    assert resolved.kafka.bootstrap_servers == f"127.0.0.1:{ports['kafka_port']}"
    assert resolved.stores.redis_url == f"redis://127.0.0.1:{ports['redis_port']}/0"
    assert resolved.flink.rest_port == ports["flink_port"]
    assert resolved.serving.ray_address == f"127.0.0.1:{ports['ray_port']}"


def test_more_replicas_than_partitions_are_named(settings: Settings) -> None:
    assert named(settings)["replicas"].ok
    for changed in ({"replicas": 5}, {"replicas_max": 5}):
        serving = settings.serving.model_copy(update=changed)
        found = named(settings.model_copy(update={"serving": serving}))["replicas"]
        assert not found.ok
        assert "has 4 partitions" in found.found
        assert next(iter(changed)).upper() in found.mend
