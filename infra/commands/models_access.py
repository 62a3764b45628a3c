"""A training by command is recorded as a retraining is: who read which snapshots, and what for."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from infra.settings import Settings
    from pipelines.train_process import Job

KAFKA_TIMEOUT_S = 2.0


def recorded(settings: Settings, job: Job) -> Callable[[Mapping[str, int]], None]:
    """What to tell of each reading. Where no broker listens, a model is trained off the record, and it is said so."""

    def reading(snapshots: Mapping[str, int]) -> None:
        from pipelines.trainer import access
        from schemas.control_log import ControlLog

        servers = settings.kafka.bootstrap_servers
        if not listens(servers):
            typer.echo(f"this reading is not on record: nobody listens on {servers}", err=True)
            return
        by = getpass.getuser()
        event = access(
            job.case, (job.since_ms, job.until_ms), snapshots, by=by, purpose="models train"
        )
        with ControlLog(settings.kafka, job.case, (), writer=f"{job.case}.access.{by}") as control:
            control.publish(event)

    return reading


def listens(servers: str) -> bool:
    """Whether anybody does on one of these addresses: told in two seconds, where Kafka's client tries for ten."""
    return any(_listens(one) for one in servers.split(","))


def _listens(server: str) -> bool:
    import socket

    host, _, port = server.strip().rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), KAFKA_TIMEOUT_S):
            return True
    except (OSError, ValueError):
        return False
