"""An online store elsewhere: users, passwords and certificates, on a real server."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from features.rings import OnlineStoreUnavailable, Rings
from features.settings import StoreSettings
from infra.local.redis_server import RedisServer, redis_binary


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis with a user of its own and nobody else."""
    port, folder = free_port(), tmp_path_factory.mktemp("guarded")
    lines = ["user scorer on >secret ~* +@all", "user default off", f"port {port}", f"dir {folder}"]
    (folder / "redis.conf").write_text("\n".join([*lines, "bind 127.0.0.1", 'save ""', ""]))
    process = subprocess.Popen(
        [str(redis_binary()), str(folder / "redis.conf")], stdout=subprocess.DEVNULL
    )
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    yield f"redis://127.0.0.1:{port}/0"
    process.terminate()
    process.wait(10)


def written(stores: StoreSettings) -> list[bytes | None]:
    rings = Rings(stores)
    rings.write([("view", b"key", b"ring")])
    found = rings.read("view", [b"key"])
    rings.delete("view")
    rings.close()
    return found


def test_a_user_with_the_password_is_let_in(guarded: str) -> None:
    mine = StoreSettings(redis_url=guarded, redis_user="scorer", redis_password=SecretStr("secret"))
    assert written(mine) == [b"ring"]
    assert written(StoreSettings(redis_url=guarded.replace("//", "//scorer:secret@"))) == [b"ring"]


@pytest.mark.parametrize("credentials", ["", "scorer:wrong@", ":wrong@"])
def test_anybody_else_is_told_so_and_no_secret_is(guarded: str, credentials: str) -> None:
    with pytest.raises(OnlineStoreUnavailable, match="AuthenticationError") as refused:
        written(StoreSettings(redis_url=guarded.replace("//", f"//{credentials}")))
    assert "wrong" not in str(refused.value)
    assert guarded.partition("//")[2] in str(refused.value)


@contextmanager
def tls_before(port: int, certificate: Path, key: Path) -> Iterator[int]:
    """What stands before a Redis without TLS: every byte passed on, encrypted on this side."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ExitStack() as open_sockets, socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    client = context.wrap_socket(server.accept()[0], server_side=True)
                except ssl.SSLError:
                    continue  # a client that does not trust us
                except OSError:
                    return  # closed
                behind = socket.create_connection(("127.0.0.1", port))
                open_sockets.enter_context(client)
                open_sockets.enter_context(behind)
                for pair in ((client, behind), (behind, client)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield int(server.getsockname()[1])


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while part := source.recv(65_536):
            target.sendall(part)
    except OSError:
        return  # one side hung up


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    made, key = folder / f"{name}.pem", folder / f"{name}.key"
    subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(made), "-days", "2", "-nodes"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    subprocess.run([*command, *subject, *files], check=True, capture_output=True)
    return made, key


def test_a_certificate_is_checked_against_the_one_that_is_trusted(tmp_path: Path) -> None:
    trusted, other = certificate(tmp_path, "store"), certificate(tmp_path, "stranger")
    (tmp_path / "redis").mkdir()
    with RedisServer(tmp_path / "redis") as redis:
        port = int(redis.url.rpartition(":")[2].partition("/")[0])
        with tls_before(port, *trusted) as encrypted:
            url = f"rediss://127.0.0.1:{encrypted}/0"
            mine = StoreSettings(redis_url=url, redis_ca_path=str(trusted[0]))
            assert written(mine) == [b"ring"]
            for ca in (None, str(other[0])):
                with pytest.raises(OnlineStoreUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
                    written(mine.model_copy(update={"redis_ca_path": ca}))
