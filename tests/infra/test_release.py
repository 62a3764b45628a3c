"""What a person orders of releases by command, on a real broker: who ordered it is kept with the release."""

from __future__ import annotations

import getpass
import json
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from infra.cli import command_line
from infra.local.kafka import KafkaServer
from infra.settings import Settings
from schemas import topics
from schemas.settings import KafkaSettings
from serving import release_log
from serving.releases import suspended
from serving.signer import Signer
from tests.serving import model_folders

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CASE = model_folders.CASE


@pytest.fixture(scope="module")
def broker(jars: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaSettings]:
    """A broker of this file's own: flights are released on it."""
    with KafkaServer(tmp_path_factory.mktemp("kafka"), jars / "kafka") as server:
        yield KafkaSettings(bootstrap_servers=server.bootstrap_servers)


@pytest.fixture
def released(broker: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a stack whose champion is v0001; v0002 lies beside it, both signed."""
    monkeypatch.setenv("HEADRACE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("HEADRACE_KAFKA__BOOTSTRAP_SERVERS", broker.bootstrap_servers)
    settings = Settings.load()
    topics.apply(broker, CASE)
    model_folders.plan().save(settings.stores.plan_path)
    signer = Signer.of(settings.serving, settings.admission)
    signer.key.ready()
    for version in ("v0001", "v0002"):
        model_folders.write(tmp_path / "models", version)
        signer.sign(CASE, version, by="test", reason="seen")
    first = release_log.first(
        CASE, CASE, "v0001", event_time_ms=1_370_000_000_000, decided_by="test"
    )
    release_log.publish(broker, first)
    return settings


def ordered(*arguments: str) -> dict[str, Any]:
    """What an order prints as JSON."""
    done = CliRunner().invoke(command_line(["release"]), ["release", *arguments, "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_every_order_keeps_who_gave_it(released: Settings) -> None:
    user = getpass.getuser()
    orders = (
        "canary v0002 --share 5",
        "shadow v0002",
        "pin --key N1 v0002",
        "rule origin=EWR only",
        "rollback",
        "canary v0002 --share 5 --by ann",
        "promote",
    )
    for epoch, order in enumerate(orders, start=2):
        told = ordered(*order.split(), "--reason", "a test")
        by = "ann" if "--by" in order else user
        assert (told["epoch"], told["decided_by"], told["reason"]) == (epoch, by, "a test"), order
    now = release_log.current(released.kafka, CASE)
    assert now is not None
    assert (now.champion, now.decided_by) == ("v0002", user)

    stamp: dict[str, Any] = release_log.stamp(now, "below its floor", "admission")
    release_log.publish(released.kafka, suspended(now, "incident-1", **stamp))
    told = ordered("resume", "--by", "eve")
    assert (told["suspended"], told["decided_by"]) == (False, "eve")
    said = CliRunner().invoke(command_line(["release"]), ["release", "shadow", "--off"])
    assert f"({user}: by command)" in said.stdout
