"""The page of the loop over real HTTP, with a real broker: what its forms say is on the control topics."""

from __future__ import annotations

import http.client
import re
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

import pytest
import structlog.testing

from infra.loop_desk import Desk
from infra.report_server import FORM_BYTES_MAX, FORM_TYPE, report_server
from infra.settings import Settings
from monitoring.loop import order_id
from monitoring.policy import DAY_MS
from monitoring.report_index import Line, record, window_name
from schemas import topics
from schemas.control import Alert, AlertKind, Brake, BrakeKind, Release, RetrainingOrder
from schemas.settings import KafkaSettings
from tests.monitoring import rig

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

ALERT = Alert(
    event_time_ms=rig.T0_MS + DAY_MS,
    event_id="alert-1",
    case="c",
    decided_at_ms=1,
    kinds=(AlertKind.DATA_DRIFT,),
    window_start_ms=rig.T0_MS,
    window_end_ms=rig.T0_MS + DAY_MS,
    rows=900,
    version="v1",
    drifted=("temp",),
    statistics={"temp": 0.3},
    metrics={},
    report="",
    acted_on=True,
)
ORDER = RetrainingOrder(
    event_time_ms=rig.T0_MS + DAY_MS,
    event_id=order_id("alert-1"),
    case="c",
    decided_at_ms=1,
    alert_id="alert-1",
    since_ms=0,
    until_ms=rig.T0_MS,
    reason="data_drift",
    approve_by_ms=rig.T0_MS + 3 * DAY_MS,
)


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str


class Browser:
    """What a browser sends to one server."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.host = f"127.0.0.1:{port}"

    def ask(self, method: str, path: str, body: str | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        found = Answer(answer.status, dict(answer.getheaders()), answer.read().decode())
        connection.close()
        return found

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def token(self) -> str:
        found = re.search(r'name="token" value="([^"]+)"', self.get("/loop").text)
        assert found is not None
        return found[1]

    def post(self, form: dict[str, str], **headers: str) -> Answer:
        sent = {"Origin": f"http://{self.host}", "Content-Type": FORM_TYPE} | headers
        return self.ask("POST", "/loop", urlencode(form), **sent)

    def say(self, word: str, **about: str) -> str:
        """Press a button and follow where it leads."""
        form = {"token": self.token(), "word": word, "reason": "looked", "by": "ann", **about}
        answer = self.post(form)
        assert (answer.status, answer.text) == (303, "")
        return self.get(answer.headers["Location"]).text


@contextmanager
def served(kafka: KafkaSettings, case: str, folder: Path, user: str | None) -> Iterator[Browser]:
    settings = Settings(data_dir=str(folder), case=case, kafka=kafka)
    server = report_server(folder, 0, None, desk=Desk(settings, folder), user=user)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Browser(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def case(request: pytest.FixtureRequest, kafka: KafkaSettings) -> Iterator[str]:
    """A use case of this test's own, with an order that waits for approval."""
    name = rig.register(request.node.name)
    topics.apply(kafka, name)
    rig.publish(kafka, "control.releases", rig.release(name, canary="v2"))
    rig.publish(kafka, "control.alerts", ALERT.model_copy(update={"case": name}))
    rig.publish(kafka, "control.retraining", ORDER.model_copy(update={"case": name}))
    yield name
    rig.unregister(name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One judged window."""
    start_ms = rig.T0_MS
    name = f"{window_name(start_ms)}.html"
    line = Line(
        start_ms, start_ms + DAY_MS, "v1", 900, ("data_drift",), {"temp": 0.3}, None, None, "alert", name
    )  # fmt: skip
    record(tmp_path, "c", line)
    (tmp_path / name.replace(".html", ".plots.html")).write_text("<script>1</script>")
    return tmp_path


def brakes(kafka: KafkaSettings, case: str) -> list[Brake]:
    found = [Brake.model_validate_json(v) for v in rig.read_all(kafka, "control.brake")]
    return [word for word in found if word.case == case]


def releases(kafka: KafkaSettings, case: str) -> list[Release]:
    found = [Release.model_validate_json(v) for v in rig.read_all(kafka, "control.releases")]
    return [release for release in found if release.case == case]


def test_forms_do_what_the_commands_do(kafka: KafkaSettings, case: str, folder: Path) -> None:
    with served(kafka, case, folder, "ann") as browser:
        page = browser.get("/loop")
        assert page.status == 200
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        assert f'href="{window_name(rig.T0_MS)}.html"' in page.text
        assert "proposed" in page.text
        approved = browser.say("approve", order=ORDER.event_id)
        assert f"1: approve {ORDER.event_id} (ann: looked)" in approved
        assert f"headrace loop approve {ORDER.event_id} --reason looked --by ann" in approved
        again = browser.say("approve", order=ORDER.event_id)
        assert "wanted an order that waits for approval, but it is approved" in again
        assert "it is not paused" in browser.say("resume")
        assert "until 2013-06-05 00:00" in browser.say("pause", until="2d")
        assert "wanted a time like" in browser.say("pause", until="soon")
        assert "2: pause" in browser.get("/loop?told=4").text
        words = brakes(kafka, case)
        assert [(w.kind, w.by, w.reason) for w in words] == [
            (BrakeKind.APPROVE, "ann", "looked"),
            (BrakeKind.PAUSE, "ann", "looked"),
        ]

        assert "wanted the canary v3 in force" in browser.say("rollback", canary="v3")
        assert "epoch 2: champion v1 (ann: looked)" in browser.say("rollback", canary="v2")
        assert "v1 answers alone" in browser.say("rollback", canary="v2")
        assert [(r.epoch, r.canary, r.decided_by) for r in releases(kafka, case)] == [
            (1, "v2", "test"),
            (2, None, "ann"),
        ]


def test_a_pause_without_end_in_the_calendar_is_refused_and_anothers_can_be_ended(
    kafka: KafkaSettings, case: str, folder: Path
) -> None:
    with served(kafka, case, folder, "ann") as browser:
        for until in ("3000000d", "99999999999999d", "9999-12-31T23:59-01:00"):
            refused = "Refused: --until: wanted a time between the years 1 and 9999"
            assert refused in browser.say("pause", until=until)
        assert not brakes(kafka, case)
        pause = Brake(
            event_time_ms=rig.T0_MS + DAY_MS,
            event_id="brake-by-others",
            case=case,
            decided_at_ms=1,
            sequence=1,
            kind=BrakeKind.PAUSE,
            until_ms=10**16,
            by="eve",
            reason="?",
        )
        rig.publish(kafka, "control.brake", pause)
        page = browser.get("/loop")
        assert (page.status, "until 10000000000000000 ms after 1970" in page.text) == (200, True)
        assert "2: resume (ann: looked)" in browser.say("resume")


class Broken(Desk):
    """A desk with a fault of its own."""

    def _say(self, form: Mapping[str, str]) -> str:
        raise ZeroDivisionError(form["word"])


def test_whatever_goes_wrong_is_told_to_whoever_waits(tmp_path: Path) -> None:
    away = KafkaSettings(bootstrap_servers="127.0.0.1:9")
    desk = Broken(Settings(data_dir=str(tmp_path), case="flights", kafka=away), tmp_path)
    with structlog.testing.capture_logs() as logged:
        number = desk.say({"word": "pause", "reason": "x"})
    assert "Refused: ZeroDivisionError: pause" in desk.page(None, number)
    assert [line["event"] for line in logged] == ["loop_desk.failed"]
    assert logged[0]["exc_info"] is True


def test_what_is_no_form_of_ours_is_refused(kafka: KafkaSettings, case: str, folder: Path) -> None:
    form = {"word": "approve", "order": ORDER.event_id, "reason": "x", "by": "eve"}
    with served(kafka, case, folder, "ann") as browser:
        ours = form | {"token": browser.token()}
        assert browser.post(form | {"token": "guessed"}).status == 403
        assert browser.post(form).status == 403
        for origin in ("http://evil.example", "null", f"http://127.0.0.1:{browser.port + 1}", ""):
            assert browser.post(ours, Origin=origin).status == 403, origin
        assert browser.post(ours, Host="evil.example:80").status == 403
        assert browser.post(ours, Content_Type="text/plain").status == 415
        assert browser.post(ours | {"reason": "x" * FORM_BYTES_MAX}).status == 413
        assert browser.get("/loop", Host="evil.example:80").status == 403
        assert browser.ask("POST", "/", "x", Origin=f"http://{browser.host}").status == 415
        for bad in ({"word": "lapse"}, {"reason": " "}, {"reason": "a\nb"}, {"by": "x" * 101}):
            answer = browser.post(ours | bad)
            assert "Refused: " in browser.get(answer.headers["Location"]).text
        assert not brakes(kafka, case)
    with served(kafka, case, folder, None) as browser:
        assert "<form" not in browser.get("/loop").text
        assert browser.post(ours).status == 405
        assert not brakes(kafka, case)


def test_pages_lead_to_the_loop_and_plots_run_as_of_no_origin(folder: Path) -> None:
    away = KafkaSettings(bootstrap_servers="127.0.0.1:9")
    with served(away, "flights", folder, "ann") as browser:
        name = window_name(rig.T0_MS)
        for path in ("/", f"/{name}.html"):
            page = browser.get(path)
            assert '<a href="loop">' in page.text
            assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        plots = browser.get(f"/{name}.plots.html")
        assert plots.headers["Content-Security-Policy"] == "sandbox allow-scripts"


def test_without_a_broker_the_page_says_so_in_time(folder: Path) -> None:
    away = KafkaSettings(bootstrap_servers="127.0.0.1:9")
    with served(away, "flights", folder, "ann") as browser:
        began_s = time.monotonic()
        page = browser.get("/loop")
        assert time.monotonic() - began_s < 5
        assert "The loop cannot be asked now: Kafka on 127.0.0.1:9" in page.text
        assert page.status == browser.get("/").status == 200
