"""The engines themselves: they start, answer, keep their data, and leave no process."""

from __future__ import annotations

import socket
from pathlib import Path

import psutil
import pytest
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from infra.local import process
from infra.local.engine import EngineStartError
from infra.local.kafka import KafkaServer
from infra.local.ray_head import RayHead, token_path
from infra.local.redis_server import RedisServer


def processes_naming(folder: Path) -> list[str]:
    found = []
    for one in psutil.process_iter(["cmdline"]):
        line = " ".join(one.info["cmdline"] or [])
        if str(folder) in line and "pytest" not in line:
            found.append(line)
    return found


def test_kafka_starts_keeps_topics_and_leaves_nothing(jars: Path, tmp_path: Path) -> None:
    with KafkaServer(tmp_path, jars / "kafka") as server:
        admin = AdminClient({"bootstrap.servers": server.bootstrap_servers})
        admin.create_topics([NewTopic("kept", 2)])["kept"].result(20)
        address = server.bootstrap_servers
    assert processes_naming(tmp_path) == []
    # Another port at the second start, as after `down` and `up`: the data does not care.
    with KafkaServer(tmp_path, jars / "kafka") as server:
        assert server.bootstrap_servers != address
        again = AdminClient({"bootstrap.servers": server.bootstrap_servers})
        assert "kept" in again.list_topics(timeout=20).topics
    assert processes_naming(tmp_path) == []


def test_kafka_without_jars_says_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(EngineStartError) as caught, KafkaServer(tmp_path, tmp_path / "nothing"):
        pass
    assert "kafka" in str(caught.value)
    assert str(tmp_path / "kafka.log") in str(caught.value)
    assert processes_naming(tmp_path) == []


def command(server: RedisServer, line: bytes) -> bytes:
    with socket.create_connection((process.LOOPBACK, server.port), 2) as connection:
        connection.sendall(line + b"\r\n")
        return connection.recv(1024)


def test_redis_keeps_its_data_and_leaves_nothing(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        assert command(server, b"SET key kept") == b"+OK\r\n"
    assert not process.is_listening(server.port)
    with RedisServer(tmp_path) as server:
        assert b"kept" in command(server, b"GET key")
    assert processes_naming(tmp_path) == []


def test_redis_on_a_busy_port_does_not_start(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((process.LOOPBACK, 0))
        taken.listen()
        port = int(taken.getsockname()[1])
        with pytest.raises(EngineStartError, match="Address already in use"):
            RedisServer(tmp_path, port=port).start()
    assert processes_naming(tmp_path) == []


def test_ray_keeps_its_token_private_and_its_sockets_short(tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 20)
    head = RayHead(deep, port=1, dashboard_port=2)
    head.prepare()
    first = token_path(deep).read_text(encoding="utf-8")
    head.prepare()
    assert token_path(deep).read_text(encoding="utf-8") == first
    assert token_path(deep).stat().st_mode & 0o077 == 0
    assert len(str(head.temp_dir)) < 50
    assert RayHead(Path("/srv/ray"), port=1, dashboard_port=2).temp_dir == Path("/srv/ray/session")
