"""The page of the loop, made of the control topics at each request, and what its forms say, said as the commands say it."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from infra import loop_words
from infra.by_option import said_by
from monitoring import brake, loop_html
from monitoring.loop_status import loop_status
from monitoring.report_index import window_name
from schemas.control import BrakeKind, Release
from schemas.control_log import ControlLog, Entry
from schemas.errors import HeadraceError
from serving import release_log

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from infra.settings import Settings
    from monitoring.loop_html import Forms, Outcome

# Together under the five seconds after which nobody waits for a page.
PROBE_S, READ_S, WORD_S = 1.5, 3.0, 3.0
ALERTS_MAX, RELEASES_MAX, OUTCOMES_MAX = 20, 20, 50
LENGTHS = {
    "reason": loop_html.REASON_MAX,
    "by": loop_html.NAME_MAX,
    "until": loop_html.UNTIL_MAX,
    "order": 300,
    "canary": 300,
}
PULLS = {kind.value: kind for kind in BrakeKind if kind is not BrakeKind.LAPSE}
ROLLBACK = "rollback"

log = structlog.get_logger()


class FormRefused(HeadraceError):
    """A form that says nothing."""


class KafkaAway(HeadraceError):
    """No broker answers."""


class Desk:
    """Shows one use case's loop and takes words to it. Safe to use from several threads; keeps the last outcomes only.

    Args:
        settings: Of the use case.
        folder: Where its reports are.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self._lock = threading.Lock()
        self._outcomes: OrderedDict[int, Outcome] = OrderedDict()
        self._count = 0

    def page(self, forms: Forms | None, outcome: int | None = None) -> str:
        """The page as of now, with the outcome of that number; never raises because of Kafka, and takes 5 s at most."""
        case, told = self._settings.case, self._outcomes.get(outcome or 0)
        try:
            entries = self._read()
            policy = loop_words.policy_of(self._settings)
        except HeadraceError as error:
            return loop_html.away(case, str(error), told)
        now_ms = brake.clock_ms(entries, loop_words.clock_ms(self._settings))
        status = loop_status(case, entries, policy, now_ms, ALERTS_MAX)
        return loop_html.page(
            status,
            _newest_first(entries),
            pages=self._pages([alert.window_start_ms for alert in status.alerts]),
            doing=loop_words.training(self._settings),
            forms=forms,
            outcome=told,
        )

    def say(self, form: Mapping[str, str]) -> int:
        """Say what a form says; the number of its outcome, which may be that nothing is known yet."""
        number = self._keep(
            None, _outcome(form, "Kafka has not answered yet. Look again.", refused=False)
        )
        done = threading.Thread(target=self._finish, args=(number, dict(form)), daemon=True)
        done.start()
        done.join(PROBE_S + WORD_S)
        return number

    def _finish(self, number: int, form: Mapping[str, str]) -> None:
        try:
            outcome = _outcome(form, self._say(form), refused=False)
        except (HeadraceError, KafkaException) as error:
            outcome = _outcome(form, str(error), refused=True)
        except Exception as error:
            # Whatever it is: somebody waits for the outcome.
            log.exception("loop_desk.failed", word=form.get("word"))
            outcome = _outcome(form, f"{type(error).__name__}: {error}", refused=True)
        self._keep(number, outcome)

    def _say(self, form: Mapping[str, str]) -> str:
        _check(form)
        self._probe()
        settings, word = self._settings, form["word"]
        reason, by = form["reason"].strip(), form.get("by", "").strip()
        if word == ROLLBACK:
            ended = release_log.rollback(
                settings.kafka,
                settings.case,
                reason=reason,
                decided_by=said_by(by),
                canary=form.get("canary"),
            )
            return f"epoch {ended.epoch}: champion {ended.champion} ({ended.decided_by}: {ended.reason})"
        until = form.get("until", "").strip() if word == BrakeKind.PAUSE else ""
        order = form.get("order")
        said = loop_words.pull(
            settings, PULLS[word], reason=reason, by=by, order=order, until=until
        )
        return loop_words.said(said)

    def _keep(self, number: int | None, outcome: Outcome) -> int:
        with self._lock:
            if number is None:
                self._count = number = self._count + 1
            self._outcomes[number] = outcome
            while len(self._outcomes) > OUTCOMES_MAX:
                self._outcomes.popitem(last=False)
        return number

    def _read(self) -> list[Entry]:
        left_s = PROBE_S + READ_S - self._probe()
        with ControlLog(self._settings.kafka, self._settings.case, brake.TOPICS) as control:
            return control.read_all(left_s)

    def _probe(self) -> float:
        """How long a broker took to answer, in seconds: clients that wait for one wait longer than a reader of a page."""
        kafka, began_s = self._settings.kafka, time.monotonic()
        try:
            AdminClient(kafka.client_config() | {"log_level": 0}).list_topics(timeout=PROBE_S)
        except KafkaException as error:
            raise KafkaAway(
                f"Kafka on {kafka.bootstrap_servers}",
                wanted=f"an answer within {PROBE_S:g} s",
                came="there is none",
                mend="Is the stack up (`headrace status`)?",
            ) from error
        return time.monotonic() - began_s

    def _pages(self, windows: Sequence[int]) -> dict[int, str]:
        names = {start_ms: f"{window_name(start_ms)}.html" for start_ms in windows}
        return {
            start_ms: name for start_ms, name in names.items() if (self._folder / name).exists()
        }


def _check(form: Mapping[str, str]) -> None:
    """Whether a form says something.

    Raises:
        FormRefused: It does not.
    """
    word = form.get("word", "")
    if word not in PULLS and word != ROLLBACK:
        known = ", ".join([*PULLS, ROLLBACK])
        raise FormRefused("the form", wanted=f"one of {known}", came=f"it is {word!r}")
    if not form.get("reason", "").strip():
        raise FormRefused("the form", wanted="a reason", came="there is none")
    for name, length_max in LENGTHS.items():
        text = form.get(name, "")
        if len(text) > length_max or not text.isprintable():
            wanted = f"{length_max} characters at most, on one line, all of them printable"
            raise FormRefused(f"{name} in the form", wanted=wanted, came="it is something else")


def _outcome(form: Mapping[str, str], said: str, *, refused: bool) -> Outcome:
    about = {"order": form["order"]} if form.get("order") else {}
    same = loop_html.command(
        form.get("word", ""),
        about,
        reason=form.get("reason", ""),
        by=form.get("by", ""),
        until=form.get("until", ""),
    )
    return loop_html.Outcome(same, said, refused)


def _newest_first(entries: Sequence[Entry]) -> list[Entry]:
    """Releases that were in force, as replicas fold them: an epoch that is not above the one before changes nothing."""
    kept: list[Entry] = []
    epoch = 0
    for entry in entries:
        if isinstance(entry.event, Release) and entry.event.epoch > epoch:
            epoch = entry.event.epoch
            kept.append(entry)
    return kept[: -RELEASES_MAX - 1 : -1]
