from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from serving.signing_key import KeyRefused, SigningKey
from serving.trust import Trust, UntrustedKey


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return SigningKey(tmp_path / "admission.pem", Trust(tmp_path / "trusted"))


def test_the_first_key_is_made_for_its_owner_alone(key: SigningKey) -> None:
    assert key.current() is None
    made = key.ready()
    assert stat.S_IMODE(key.path.stat().st_mode) == 0o600
    assert [one.key_id for one in key.trust.all_keys()] == [made]
    assert (key.ready(), key.current()) == (made, made)
    assert [one.name for one in key.path.parent.glob(".*")] == [".lock"]


def test_two_that_start_at_once_have_one_key(key: SigningKey) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(key.ready())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {key.ready()}
    assert [one.key_id for one in key.trust.all_keys()] == [key.ready()]


def test_a_key_that_others_can_read_does_not_sign(key: SigningKey) -> None:
    key.ready()
    key.path.chmod(0o640)
    with pytest.raises(KeyRefused, match="its mode is 0640"):
        key.ready()


def test_a_lost_key_is_not_replaced_in_silence(key: SigningKey) -> None:
    old = key.ready()
    key.path.unlink()
    with pytest.raises(KeyRefused, match="keys rotate"):
        key.ready()
    new = key.rotate()
    assert key.ready() == new
    assert {one.key_id for one in key.trust.all_keys()} == {old, new}


def test_what_is_no_key_is_told(key: SigningKey) -> None:
    key.ready()
    key.path.write_text("-----BEGIN PRIVATE KEY-----\nno\n-----END PRIVATE KEY-----\n")
    with pytest.raises(KeyRefused, match="a private key in PEM"):
        key.ready()


def test_a_revoked_key_signs_no_more_and_another_takes_over(key: SigningKey) -> None:
    old = key.ready()
    new = key.revoke(old, by="a person", reason="seen in a paste")
    assert new is not None
    assert key.ready() == new != old
    assert {one.key_id: one.revoked is not None for one in key.trust.all_keys()} == {
        old: True,
        new: False,
    }
    assert key.revoke(old, by="another", reason="again") is None
    revoked = key.trust.key(old).revoked
    assert revoked is not None
    assert revoked.by == "a person"


def test_a_revocation_that_cannot_be_read_holds(key: SigningKey) -> None:
    made = key.ready()
    (key.trust.folder / f"{made}.revoked").write_text("?")
    with pytest.raises(UntrustedKey, match="cannot be read"):
        key.trust.trusted(made)


@pytest.mark.parametrize("name", ["", "0" * 16, "../admission", "*", "0" * 64])
def test_what_is_no_key_id_is_unknown(key: SigningKey, name: str) -> None:
    key.ready()
    with pytest.raises(UntrustedKey, match="is none of them"):
        key.trust.key(name)


def test_a_file_that_holds_another_key_is_found(key: SigningKey, tmp_path: Path) -> None:
    made = key.ready()
    other = SigningKey(tmp_path / "other.pem", Trust(tmp_path / "others"))
    other.ready()
    [public] = other.trust.all_keys()
    (key.trust.folder / f"{made}.pub").write_bytes(public.path.read_bytes())
    with pytest.raises(UntrustedKey, match="another key"):
        key.trust.key(made)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a file, where the folder should be")
    closed = SigningKey(tmp_path / "keys" / "admission.pem", Trust(tmp_path / "keys" / "trusted"))
    with pytest.raises(KeyRefused, match="files that this user may write"):
        closed.rotate()
