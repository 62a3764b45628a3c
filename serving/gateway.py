"""The front door: requests over HTTP in the Open Inference Protocol v2, answered exactly once like all others.

A request is judged by its contract, published with all acknowledgements, and its answer awaited from the results. What the
status says: 200 answered · 400 the body or a row breaks a rule, nothing was published · 409 the id stands for another payload ·
413 larger than its topic takes · 422 dead-lettered, with the reason · 429 as many on their way as the settings allow, or as are
likely to be answered within half the time that an answer is waited for · 503 Kafka did not acknowledge it · 504 acknowledged and
not answered in time: it will be answered, once, and asking again under the same id hands that answer over. 429 and 503 say
`Retry-After`.

On loopback only, and open to whoever is on this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
import uvicorn
from confluent_kafka import KafkaException
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from schemas import usecase
from schemas.decoding import Refusal
from schemas.envelope import TRACEPARENT, child_traceparent
from schemas.errors import HeadraceError
from serving import open_inference, request_body
from serving.correspondence import Correspondence, Full, IdReused, NotTaken, TooLarge
from serving.expected_wait import ExpectedWait
from serving.open_inference import DEAD_LETTERED, Answer, Asked, Refused

if TYPE_CHECKING:
    from schemas.events import Event
    from schemas.settings import KafkaSettings
    from schemas.worker import WorkerContext
    from serving.settings import ServingSettings

log = structlog.get_logger()

LOOPBACK = "127.0.0.1"
REPORT_S = 1.0
STOP_S = 10.0
RETRY_AFTER_S = 1
# A broker that does not answer must not be asked by every probe.
REACH_S = 1.0
STATUS_OF = {Full: 429, IdReused: 409, NotTaken: 503, TooLarge: 413}


class GatewayFailed(HeadraceError):
    """The door cannot open, or a part of it has ended."""


class Gateway:
    """The application of one use case; its correspondence begins and ends with the server's life."""

    def __init__(self, case: str, kafka: KafkaSettings, settings: ServingSettings) -> None:
        self._case, self._kafka, self._settings = case, kafka, settings
        self._contract: type[Event] = usecase.load("schemas", case).REQUEST
        self._metadata = open_inference.metadata(case, self._contract)
        self._post: Correspondence | None = None
        # With as much to spare: a call that is refused at once costs its caller less than one that is waited for in vain.
        self._wait = ExpectedWait(settings.door_answer_timeout_ms / 1000 / 2)
        self._reached = (0.0, False)
        self.failed = ""
        self.counts: Counter[str] = Counter()
        model = f"/v2/models/{case}"
        self.app = Starlette(
            lifespan=self._life,
            routes=[
                Route("/v2", self._server),
                Route("/v2/health/live", self._live),
                Route("/v2/health/ready", self._ready),
                Route(model, self._model),
                Route(f"{model}/ready", self._ready),
                Route(f"{model}/infer", self._infer, methods=["POST"]),
            ],
        )

    @property
    def open(self) -> bool:
        """Whether requests can be taken."""
        return self._post is not None and self._post.alive

    @property
    def on_their_way(self) -> int:
        """Requests in the log that are not answered."""
        return self._post.on_their_way if self._post is not None else 0

    @contextlib.asynccontextmanager
    async def _life(self, _: Starlette) -> AsyncIterator[None]:
        try:
            self._post = Correspondence(self._kafka, self._case, self._settings)
        except KafkaException as error:
            self.failed = str(error.args[0])
            raise
        try:
            yield
        finally:
            await asyncio.to_thread(self._post.close)

    async def _server(self, _: Request) -> Response:
        return _json(200, {"name": "headrace", "version": "2", "extensions": []})

    async def _live(self, _: Request) -> Response:
        return _json(200 if self.open else 503, {"live": self.open})

    async def _ready(self, _: Request) -> Response:
        """Whether the broker answers; looked up at most once a second."""
        looked_s, ready = self._reached
        if time.monotonic() - looked_s > REACH_S:
            self._reached = (time.monotonic(), ready)
            post = self._post
            ready = post is not None and post.alive and await asyncio.to_thread(post.reach)
            self._reached = (time.monotonic(), ready)
        return _json(200 if ready else 503, {"ready": ready})

    async def _model(self, _: Request) -> Response:
        return _json(200, self._metadata)

    async def _infer(self, request: Request) -> Response:
        self.counts["asked"] += 1
        # Before the body is read and its rows are judged, which is most of what a call costs.
        response = await self._in_time(request) if self._has_room() else _full()
        self.counts[f"status_{response.status_code}"] += 1
        return response

    def _has_room(self) -> bool:
        return self._wait.admits() and (self._post is None or self._post.room_for(1))

    async def _in_time(self, request: Request) -> Response:
        entered, began_s = self._wait.enter(), time.monotonic()
        try:
            return await self._answer(request)
        finally:
            self._wait.leave(entered, time.monotonic() - began_s)

    async def _answer(self, request: Request) -> Response:
        encoding = request.headers.get("content-encoding", "").lower()
        try:
            bound = self._settings.door_body_bytes_max
            body = await request_body.read(request.stream(), encoding, bound)
        except request_body.BodyTooLarge as error:
            return _error(413, f"the body is too large: {error}")
        except request_body.BodyUnreadable as error:
            return _error(400, f"the body cannot be read: {error}")
        except ClientDisconnect:
            return _error(400, "the caller went away")
        rows_max = self._settings.door_in_flight_max
        asked = open_inference.parse(self._contract, body, time.time_ns() // 1_000_000, rows_max)
        if isinstance(asked, Refused):
            return _refused(asked)
        if self._post is None:
            return _error(503, "the door is not open yet", RETRY_AFTER_S)
        return await self._ask(self._post, asked, request.headers.get("traceparent", ""))

    async def _ask(self, post: Correspondence, asked: Asked, parent: str) -> Response:
        # What is known already only waits for the answer to what it began.
        new = post.new(asked.events)
        if new and not post.room_for(new):
            return _full()
        trace = child_traceparent(parent) if TRACEPARENT.match(parent) else None
        published = await asyncio.gather(
            *(post.publish(event, trace, asked.timeout_ms) for event in asked.events),
            return_exceptions=True,
        )
        futures = [one for one in published if isinstance(one, asyncio.Future)]
        for one in published:
            if isinstance(one, HeadraceError):
                return _failed(one, asked, published)
            if isinstance(one, BaseException):
                raise one
        longest_ms = self._settings.door_answer_timeout_ms
        wait_ms = min(asked.timeout_ms or longest_ms, longest_ms)
        if futures:
            await asyncio.wait(futures, timeout=wait_ms / 1000)
        missing = [
            event.id
            for event, future in zip(asked.events, futures, strict=True)
            if not future.done()
        ]
        if missing:
            return self._late(missing, wait_ms)
        return self._answered(asked, [future.result() for future in futures])

    def _answered(self, asked: Asked, answers: list[Answer]) -> Response:
        body = open_inference.response(self._case, asked.id, answers)
        refused = [answer for answer in answers if answer.status == DEAD_LETTERED]
        if len(refused) < len(answers):
            return _json(200, body)
        known = {answer.reasons[0] for answer in refused} <= {"duplicate", "id_reused"}
        said = "; ".join(", ".join(answer.reasons) for answer in refused[:3])
        return _json(409 if known else 422, body | {"error": f"dead-lettered: {said}"})

    def _late(self, missing: list[str], wait_ms: int) -> Response:
        said = (
            f"acknowledged and not answered within {wait_ms} ms; each will be answered once, in "
            f"{self._case}.results or {self._case}.requests.dlq. Asking again under the same ids hands the answers over."
        )
        return _json(504, {"error": said, "request_ids": missing})


def run(ctx: WorkerContext, kafka: KafkaSettings, serving: ServingSettings) -> None:
    """Serve until `ctx.stop`; whoever waits then is told that the door closes.

    Raises:
        GatewayFailed: The port is taken, or the server or its correspondence has ended.
    """
    gateway = Gateway(ctx.case, kafka, serving)
    listening = _listen(serving.http_port)
    port = listening.getsockname()[1]
    config = uvicorn.Config(
        gateway.app,
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=int(STOP_S / 2),
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=_serve, args=(server, listening), name="door", daemon=True)
    thread.start()
    try:
        while not ctx.stop.wait(REPORT_S):
            if not thread.is_alive() or (server.started and not gateway.open):
                came = gateway.failed or "it has ended"
                raise GatewayFailed("door", wanted="a server that serves", came=came)
            counts = dict(gateway.counts)
            ready = int(server.started and gateway.open)
            ctx.report({"ready": ready, "port": port, "in_flight": gateway.on_their_way, **counts})
    finally:
        server.should_exit = True
        thread.join(STOP_S)
        listening.close()


def _serve(server: uvicorn.Server, listening: socket.socket) -> None:
    # Not in the main thread, whose signals are the worker's.
    # Where it cannot start it would end the process; the worker says why instead.
    with contextlib.suppress(SystemExit):
        asyncio.run(server.serve(sockets=[listening]))


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((LOOPBACK, port), backlog=1024)
    except OSError as error:
        raise GatewayFailed(
            f"setting serving.http_port, {port}",
            wanted=f"a free port on {LOOPBACK}",
            came=str(error),
            mend="Stop that program (`ss -ltnp` names it), or name another port, or 0 for a free one.",
        ) from error


def _failed(error: HeadraceError, asked: Asked, published: list[Any]) -> Response:
    """One row that was not taken speaks for all; those that were are named, for they will be answered."""
    taken = [
        event.id
        for event, one in zip(asked.events, published, strict=True)
        if not isinstance(one, BaseException)
    ]
    status = STATUS_OF[type(error)]
    retry_s = RETRY_AFTER_S if status in (429, 503) else None
    return _error(status, str(error), retry_s, acknowledged=taken)


def _full() -> Response:
    return _error(429, "as many requests are on their way as may be", RETRY_AFTER_S)


def _refused(refused: Refused) -> Response:
    refusal: Refusal = refused.refusal
    status = 413 if refusal.reason == "too_large" else 400
    said = f"{refusal.rule}: {refusal.detail}"
    return _error(status, said, reason=refusal.reason, rule=refusal.rule, row=refused.row)


def _error(status: int, said: str, retry_s: int | None = None, **more: object) -> Response:
    kept = {name: value for name, value in more.items() if value not in (None, [])}
    return _json(status, {"error": said, **kept}, retry_s)


def _json(status: int, body: dict[str, Any], retry_s: int | None = None) -> Response:
    said = {"retry-after": str(retry_s)} if retry_s is not None else None
    return Response(msgspec.json.encode(body), status, said, "application/json")
