from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.manifest import MANIFEST_FILE, MODEL_FILE, Manifest, file_digest
from serving import manifest, runtime, signature
from serving.manifest import ModelRefused
from serving.registry import Registry
from serving.signer import SIGNED_FILE, Signer
from serving.signing_key import SigningKey
from serving.trust import Trust
from tests.serving import model_folders
from tests.serving.tampering import TAMPERINGS, Tampering, flip

MODEL = "flights"


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    """An identity with v0001 and v0002 on disk, both signed."""
    keys = tmp_path / "keys"
    made = Signer(
        Registry(tmp_path / "models"), SigningKey(keys / "admission.pem", Trust(keys / "trusted"))
    )
    for version in ("v0001", "v0002"):
        model_folders.write(tmp_path / "models", version)
        made.sign(MODEL, version, by="a person", reason="a test")
    return made


def folder_of(signer: Signer, version: str = "v0001") -> Path:
    return signer.registry.path(MODEL, version)


def load(signer: Signer, version: str = "v0001") -> runtime.Model:
    return runtime.load(folder_of(signer, version), trust=signer.key.trust)


def test_a_signed_version_loads_and_its_record_says_who_and_why(signer: Signer) -> None:
    assert load(signer).version == "v0001"
    assert signature.verify_whole(folder_of(signer), signer.key.trust) == signer.key.current()
    assert signature.signer(folder_of(signer)) == signer.key.current()
    lines = (signer.key.path.parent / SIGNED_FILE).read_text().splitlines()
    said = [json.loads(line) for line in lines]
    assert [(s["version"], s["by"], s["reason"]) for s in said] == [
        ("v0001", "a person", "a test"),
        ("v0002", "a person", "a test"),
    ]
    assert said[0]["digest"] == signer.registry.digest(MODEL, "v0001")


def test_other_tools_verify_the_signature(signer: Signer) -> None:
    """The command of OpenSSF's own library, which knows nothing of headrace."""
    [key] = signer.key.trust.all_keys()
    folder = folder_of(signer)
    command: list[str | Path] = [Path(sys.executable).with_name("model_signing"), "verify", "key"]
    command += [folder, "--signature", signature.path_of(folder), "--public_key", key.path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with (folder / MANIFEST_FILE).open("a") as file:
        file.write("\n")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0


@pytest.mark.parametrize("tampering", TAMPERINGS, ids=lambda one: one.name)
def test_what_was_tampered_with_is_refused_and_the_other_loads(
    signer: Signer, tampering: Tampering
) -> None:
    tampering.do(signer, folder_of(signer), folder_of(signer, "v0002"))
    with pytest.raises(ModelRefused) as refused:
        load(signer)
    assert tampering.said in str(refused.value)
    assert refused.value.mend, "it says what to do next"
    assert load(signer, "v0002").version == "v0002"


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_byte_of_a_version_or_its_signature_can_change(
    signer: Signer, data: st.DataObject
) -> None:
    """JSON leaves a few bytes of the signature's frame free (a space more); none that changes what it says."""
    folder = folder_of(signer)
    files = sorted(folder.iterdir())
    path = data.draw(st.sampled_from(files))
    was = path.read_bytes()
    flip(path, data.draw(st.integers(0, len(was) - 1)))
    try:
        with pytest.raises(ModelRefused):
            signature.verify_whole(folder, signer.key.trust)
    finally:
        path.write_bytes(was)


def test_a_rotated_key_keeps_its_word_and_a_revoked_one_does_not(signer: Signer) -> None:
    old = signer.key.current()
    new = signer.key.rotate()
    assert old is not None
    assert new != old
    signer.sign(MODEL, "v0002", by="a person", reason="by the new key")
    assert (load(signer).version, load(signer, "v0002").version) == ("v0001", "v0002")
    assert signer.key.revoke(old, by="a person", reason="a laptop was lost") is None
    with pytest.raises(ModelRefused, match="revoked by a person: a laptop was lost") as refused:
        load(signer)
    assert "headrace models sign v0001" in refused.value.mend
    assert load(signer, "v0002").version == "v0002"


def test_only_what_was_verified_is_signed(signer: Signer) -> None:
    flip(folder_of(signer) / MODEL_FILE, 100)
    before = signature.path_of(folder_of(signer)).read_bytes()
    with pytest.raises(ModelRefused, match="another sha256"):
        signer.sign(MODEL, "v0001", by="a person", reason="?")
    with pytest.raises(ModelRefused, match="the digest"):
        signer.sign(MODEL, "v0002", by="a person", reason="?", digest="0" * 64)
    assert signature.path_of(folder_of(signer)).read_bytes() == before


def swap_manifest(folder: Path) -> None:
    """Another threshold for the same files."""
    path = folder / MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"threshold": 0.01}))


def swap_all(folder: Path) -> None:
    """Another model, and a manifest that agrees with it."""
    flip(folder / MODEL_FILE, 100)
    path = folder / MANIFEST_FILE
    said = json.loads(path.read_text())
    said["files"][MODEL_FILE] = file_digest(folder / MODEL_FILE)
    path.write_text(json.dumps(said))


@pytest.mark.parametrize("told", [False, True], ids=["by a person", "with the digest"])
@pytest.mark.parametrize("swap", [swap_manifest, swap_all])
def test_what_is_swapped_after_it_was_verified_is_never_signed(
    signer: Signer, swap: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch, *, told: bool
) -> None:
    """Whoever may write to the folder waits for the moment. The signature of before stays in its place all the time."""
    folder, verify = folder_of(signer), manifest.verify
    digest = signer.registry.digest(MODEL, "v0001") if told else None
    place = signature.path_of(folder)
    before, recorded = place.stat(), signer.record(MODEL, "v0001")

    def verify_and_swap(folder: Path, said: Manifest) -> None:
        verify(folder, said)
        swap(folder)

    with monkeypatch.context() as moment:
        moment.setattr(manifest, "verify", verify_and_swap)
        with pytest.raises(ModelRefused, match="they changed while they were signed"):
            signer.sign(MODEL, "v0001", by="a person", reason="?", digest=digest)
    after = place.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert signer.record(MODEL, "v0001") == recorded
    assert sorted(path.name for path in folder.parent.iterdir()) == [
        *("v0001", "v0001.sig", "v0002", "v0002.sig")
    ]
    with pytest.raises(ModelRefused):
        load(signer)


def test_a_line_that_a_crash_tore_costs_no_other(signer: Signer) -> None:
    with (signer.key.path.parent / SIGNED_FILE).open("ab") as file:
        file.write(b'{"signed_ms": 1, "mod')
    signer.sign(MODEL, "v0001", by="a person", reason="after the crash")
    assert [said["reason"] for said in signer.record(MODEL, "v0001")] == [
        *("a test", "after the crash")
    ]
