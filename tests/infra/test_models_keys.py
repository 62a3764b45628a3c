"""What a person is told of signatures and keys: on versions on disk, without any engine but for the record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from typer.testing import CliRunner

from infra.cli import command_line
from schemas import topics
from schemas.control import KeyAct
from schemas.control_log import ControlLog
from schemas.manifest import file_digest
from serving import runtime
from serving.key_record import KeyRecord
from serving.manifest import ModelRefused
from serving.trust import Trust
from tests.serving import model_folders

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typer.testing import Result

    from schemas.settings import KafkaSettings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data folder with two versions, and no broker."""
    monkeypatch.setenv("HEADRACE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("HEADRACE_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    for version in ("v0001", "v0002"):
        model_folders.write(tmp_path / "models", version)
    yield tmp_path
    # A command decides where its process logs to, and this one goes on.
    structlog.reset_defaults()


def models(*arguments: str) -> Result:
    return CliRunner().invoke(command_line(["models"]), ["models", *arguments])


def keys() -> list[dict[str, Any]]:
    done = models("keys", "list", "--json")
    assert done.exit_code == 0, done.stderr
    told: list[dict[str, Any]] = json.loads(done.stdout)
    return told


def loads(home: Path, version: str) -> bool:
    trust = Trust(home / "keys" / "trusted")
    try:
        runtime.load(home / "models" / "flights" / version, trust=trust)
    except ModelRefused:
        return False
    return True


def test_a_person_signs_rotates_revokes_and_signs_anew(home: Path) -> None:
    assert "no key yet" in models("keys", "list").stdout
    for version in ("v0001", "v0002"):
        done = models("sign", version, "--reason", "looked at it")
        assert done.exit_code == 0, done.stderr
        assert f"flights {version} is signed by" in done.stdout
    [old] = keys()
    assert old["signs"]
    both = [{"model": "flights", "version": version} for version in ("v0001", "v0002")]
    assert old["versions"] == both

    told = models("keys", "rotate").stdout
    assert f"{old['key_id']} stays trusted" in told
    new = next(row for row in keys() if row["signs"])
    assert new["key_id"] != old["key_id"]
    assert (
        json.loads(models("sign", "v0002", "--reason", "again", "--json").stdout)["key_id"]
        == (new["key_id"])
    )
    assert loads(home, "v0001")

    done = models("keys", "revoke", old["key_id"], "--reason", "a laptop was lost")
    assert done.exit_code == 0, done.stderr
    assert "  flights v0001" in done.stdout
    assert "flights v0002" not in done.stdout
    assert "headrace models sign VERSION --reason" in done.stdout
    assert (loads(home, "v0001"), loads(home, "v0002")) == (False, True)
    assert "a laptop was lost" in models("keys", "list").stdout
    assert models("sign", "v0001", "--reason", "as it was trained").exit_code == 0
    assert loads(home, "v0001")


@pytest.mark.usefixtures("home")
def test_a_key_that_signs_is_replaced_when_it_is_revoked() -> None:
    models("sign", "v0001", "--reason", "?")
    [before] = json.loads(models("keys", "list", "--json").stdout)
    done = models("keys", "revoke", before["key_id"], "--reason", "seen in a paste", "--json")
    told = json.loads(done.stdout)
    assert told["revoked"] == before["key_id"] != told["signs"]
    assert [one["version"] for one in told["versions"]] == ["v0001"]


def test_a_person_sees_whether_a_version_is_what_was_signed(home: Path) -> None:
    assert "nothing is on record" in models("verify", "v0001").stdout
    models("sign", "v0001", "--reason", "looked at it")
    done = models("verify", "v0001")
    assert done.exit_code == 0
    assert "is as it was signed" in done.stdout
    assert "signed the same" in done.stdout
    path = home / "models" / "flights" / "v0001" / "manifest.json"
    path.write_text(path.read_text() + " ")
    done = models("verify", "v0001")
    assert done.exit_code == 1
    assert "would be refused" in done.stdout
    assert "signed ANOTHER" in done.stdout
    told = json.loads(models("verify", "v0001", "--json").stdout)
    assert told["digest"] != told["record"][0]["digest"]


def test_what_is_done_without_a_broker_is_put_on_record_later(
    home: Path, kafka: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics.create(kafka, topics.CONTROL_TOPICS)
    done = models("sign", "v0001", "--reason", "looked at it", "--json")
    assert json.loads(done.stdout)["on_record"] is False
    assert "nobody listens on 127.0.0.1:1" in done.stderr
    assert "headrace models keys record" in done.stderr
    assert models("keys", "record").exit_code == 1
    with (home / "keys" / "acts.jsonl").open("ab") as file:
        file.write(b'{"torn')
    old = models("keys", "rotate", "--reason", "a year is over", "--json")
    assert acts(kafka, home) == []

    monkeypatch.setenv("HEADRACE_KAFKA__BOOTSTRAP_SERVERS", kafka.bootstrap_servers)
    told = json.loads(models("keys", "record", "--json").stdout)
    assert told == {"noted": 2, "sent": 2}
    before = json.loads(old.stdout)["signed_until_now"]
    done = models("keys", "revoke", before, "--reason", "a laptop was lost", "--json")
    assert json.loads(done.stdout)["on_record"] is True
    assert json.loads(models("keys", "record", "--json").stdout) == {"noted": 3, "sent": 0}
    models("keys", "revoke", before, "--reason", "again")
    signed, rotated, revoked = acts(kafka, home)
    digest = json.loads(models("verify", "v0001", "--json").stdout)["digest"]
    assert (signed.kind, signed.key_id, signed.reason) == ("sign", before, "looked at it")
    assert (signed.model, signed.version, signed.digest) == ("flights", "v0001", digest)
    assert (rotated.kind, rotated.key_id, rotated.reason) == ("rotate", before, "a year is over")
    assert (revoked.kind, revoked.key_id, revoked.signs) == ("revoke", before, None)
    assert rotated.signs == next(row["key_id"] for row in keys() if row["signs"])


def acts(kafka: KafkaSettings, home: Path) -> list[KeyAct]:
    """What is on record of this data folder."""
    structlog.reset_defaults()
    noted = {act.event_id for act in KeyRecord(home / "keys" / "acts.jsonl").acts()}
    with ControlLog(kafka, "flights", ("control.keys",)) as control:
        found = [entry.event for entry in control.read_all()]
    return [one for one in found if isinstance(one, KeyAct) and one.event_id in noted]


def test_a_key_that_is_revoked_though_no_other_could_be_made_is_on_record(home: Path) -> None:
    models("sign", "v0001", "--reason", "?")
    [key] = keys()
    (home / "keys" / "admission.pem").write_text("torn")
    done = models("keys", "revoke", key["key_id"], "--reason", "seen in a paste")
    assert done.exit_code == 1
    *_, last = KeyRecord(home / "keys" / "acts.jsonl").acts()
    assert (last.kind, last.key_id, last.signs) == ("revoke", key["key_id"], None)
    assert keys()[0]["revoked"]["reason"] == "seen in a paste"


def test_the_list_needs_no_private_key(home: Path) -> None:
    done = models("sign", "v0001", "--reason", "?")
    assert "made the key that signs" in done.stderr
    assert "made the key" not in models("sign", "v0001", "--reason", "again").stderr
    (home / "keys" / "admission.pem").write_text("not for you")
    done = models("keys", "list")
    assert done.exit_code == 0
    assert "which key signs is not known" in done.stderr
    assert "trusted" in done.stdout


def test_what_cannot_be_vouched_for_is_not_signed(home: Path) -> None:
    with (home / "models" / "flights" / "v0001" / "model.onnx").open("ab") as file:
        file.write(b"!")
    done = models("sign", "v0001", "--reason", "?")
    assert isinstance(done.exception, ModelRefused)
    assert models("sign", "v0009", "--reason", "?").exit_code == 1
    assert models("sign", "v0002").exit_code == 2, "a reason is asked for"
    assert models("keys", "revoke", "0" * 16, "--reason", "?").exit_code == 1


def test_the_bill_of_a_version_is_that_of_its_lock(home: Path) -> None:
    lock = Path(__file__).parents[2] / "requirements.lock"
    done = models("sbom", "v0001")
    assert "its lock is not known" in str(done.exception)
    model_folders.write(home / "models", "v0003", lock=file_digest(lock))
    path = Path(models("sbom", "v0003").stdout.strip())
    assert path == home / "models" / "sbom" / f"{file_digest(lock)}.cdx.json"
    told = json.loads(models("sbom", "v0003", "--json").stdout)
    assert told == json.loads(path.read_text())
    assert told["bomFormat"] == "CycloneDX"


def test_a_registry_that_is_not_there_is_not_made(home: Path) -> None:
    done = models("registry")
    assert done.exit_code == 0, done.exception
    assert "no version of flights is registered" in done.stdout
    assert not (home / "registry").exists()
