"""Secrets and personal fields, looked for in all that the platform says about itself.

Injected: a password in Redis' address, which then stops being the right one; requests of a station that is a person's name, good ones
and four kinds that break the contract around that name; every request traced. Must hold: no log, no span and no header of a dead
letter holds the password or the name; nothing is lost. What may hold the name is what must: results, by their contract, and dead
letters' own key and value, which are the refused record whole. A field that nobody knows is named in the reason, its value is not.
Does not show: the front door (its tokens are tested there), other logs than those of scorer, materializer and intake.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import redis
from confluent_kafka import Message, Producer

from schemas.envelope import headers_of
from tests.faults import answers
from tests.faults.replicas import AS_OF_MS, Replicas
from tests.faults.stage import Stage, sent_row
from tests.pipelines import toy
from tests.pipelines.records import committed

PASSWORD, OTHER = "hush-hush-8d1f", "hush-hush-2c77"
PERSON = "Ada.Lovelace.1815"
SECRETS = (PASSWORD, OTHER, PERSON)
GOOD = 200


def run(stage: Stage) -> None:
    """Provoke every message there is, and read them all."""
    server = stage.own_redis()
    admin = redis.Redis.from_url(server.url)
    admin.config_set("requirepass", PASSWORD)
    stage.store_changes["redis_url"] = server.url.replace("://", f"://:{PASSWORD}@")
    with Collector() as collector:
        replicas = Replicas(stage, otlp_endpoint=collector.address, trace_ratio=1.0)
        replicas.start()
        stage.start("materializer")
        stage.start("intake")
        refused = _ask(stage, replicas.requests, first=0)
        stage.recovers("all answered", lambda: not replicas.lag(), lambda: "requests are left")
        admin.config_set("requirepass", OTHER)
        _tiles(stage)
        refused += _ask(stage, replicas.requests, first=GOOD)
        stage.recovers("and without Redis", lambda: not replicas.lag(), lambda: "requests are left")
        noticed = stage.until(lambda: any(w.restarts for w in stage.workers))
        stage.outcome.check("the wrong password is noticed", holds=noticed is not None)
        for worker in stage.workers:
            worker.stop()
        stage.inject(
            f"{refused} requests that break their contract around a name; a wrong password"
        )
    letters = committed(stage.rig.kafka, f"{replicas.requests}.dlq")
    stage.outcome.check("every refused one is a dead letter", holds=len(letters) == refused)
    given = sorted(r.request_id for r in answers.results(stage))
    stage.outcome.check("every good one has one result", holds=given == _ids(2 * GOOD))
    stage.outcome.check("spans came", holds=bool(collector.bodies))
    said = [*_logs(stage), *_headers(letters), *(("a span", body) for body in collector.bodies)]
    leaks = [
        (place, secret) for place, text in said for secret in SECRETS if secret.encode() in text
    ]
    stage.outcome.check("nobody tells", holds=not leaks, came=leaks[:5])
    stage.outcome.counts |= {"texts read": len(said), "spans": len(collector.bodies)}


class Collector:
    """An OpenTelemetry collector that keeps what it is sent."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                bodies.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing: the bodies are what counts."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _ask(stage: Stage, topic: str, first: int) -> int:
    """Good requests, which the ledger knows, and others; returns how many others."""
    answers.ask(stage, (PERSON,), AS_OF_MS, first, GOOD)
    good = toy.Question(event_time_ms=AS_OF_MS, request_id="never", station=PERSON).encode()
    bad = [
        good.replace(f'"{PERSON}"'.encode(), f'["{PERSON}"]'.encode()),
        good.replace(str(AS_OF_MS).encode(), f'"{PERSON}"'.encode()),
        good.replace(b"}", f',"note":"{PERSON}"}}'.encode()),
        PERSON.encode(),
    ]
    producer = Producer(stage.rig.kafka.client_config())
    for value in bad:
        producer.produce(topic, value, PERSON)
    producer.flush(30)
    return len(bad)


def _ids(count: int) -> list[str]:
    return sorted(f"q{n}" for n in range(count))


def _tiles(stage: Stage) -> None:
    """Something to write, for the materializer to find that it may not."""
    rows = [sent_row(stage.view, emitted) for emitted in stage.tile_rows(stage.events(50))]
    stage.ledger.produce(stage.rig.kafka, stage.view.topic_out, rows)


def _logs(stage: Stage) -> Iterator[tuple[str, bytes]]:
    for path in sorted(Path(stage.folder).glob("*.log")):
        yield path.name, path.read_bytes()


def _headers(letters: list[Message]) -> Iterator[tuple[str, bytes]]:
    for letter in letters:
        for name, value in headers_of(letter):
            yield f"header {name}", value if isinstance(value, bytes) else str(value).encode()
