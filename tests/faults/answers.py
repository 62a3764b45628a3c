"""Requests and what became of them: I1 to I5 and I8 of every case that scores."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path

from confluent_kafka import Message

from infra.exactly_once import Asked, History, Place, Wrong
from infra.exactly_once import check as judge_history
from infra.topic_history import asked_of, given_of, place_of, refused_of
from schemas.results import Result, Status
from serving import release_log
from serving.settings import ServingSettings
from tests.faults import scored
from tests.faults.invariants import REL, Truth
from tests.faults.ledger import Sent
from tests.faults.meanwhile import Meanwhile
from tests.faults.stage import Stage, Worker
from tests.pipelines import toy
from tests.pipelines.records import committed
from tests.serving import model_folders

VERSION = "v0001"
RELEASED_MS = 1_700_000_000_000


def scorer(stage: Stage) -> Worker:
    """A released model, and a replica that answers with it."""
    models = release(stage)
    serving = ServingSettings(models_dir=str(models), session_timeout_ms=6_000)
    sections = [s.model_dump_json() for s in (stage.rig.kafka, stage.stores, serving)]
    return stage.run("scorer", "tests.faults.scored", stage.case, *sections)


def release(stage: Stage) -> Path:
    """A model that is released; returns the models' folder."""
    scored.register(stage.case)
    models = stage.folder / "models"
    model_folders.write(models, VERSION, of=stage.case, given=stage.plan)
    first = release_log.first(
        stage.case, stage.case, VERSION, event_time_ms=RELEASED_MS, decided_by="fault"
    )
    release_log.publish(stage.rig.kafka, first)
    return models


class Asking(Meanwhile):
    """Asks about stations by turns until its block ends. It alone uses the ledger then."""

    def __init__(
        self, stage: Stage, stations: Sequence[str], as_of_ms: int, first: int = 0
    ) -> None:
        super().__init__(self._ask, pause_s=0.05)
        self.asked = first
        self._stage, self._stations, self._as_of_ms = stage, stations, as_of_ms

    def _ask(self) -> None:
        ask(self._stage, self._stations, self._as_of_ms, self.asked, 20)
        self.asked += 20


def ask(stage: Stage, stations: Sequence[str], as_of_ms: int, first: int, count: int) -> None:
    """Requests `q<first>` … , acknowledged."""
    sent = []
    for n in range(first, first + count):
        station = stations[n % len(stations)]
        asked = toy.Question(event_time_ms=as_of_ms, request_id=f"q{n}", station=station)
        sent.append(Sent(asked.id, asked.key, asked.encode()))
    stage.ledger.produce(stage.rig.kafka, f"{stage.case}.requests", sent)


def request_id(message: Message) -> str:
    """Of a request, a result or a dead letter."""
    return str(json.loads(message.value() or b"{}").get("request_id"))


def results(stage: Stage) -> list[Result]:
    """Every committed result, in the order of its partition."""
    found = committed(stage.rig.kafka, f"{stage.case}.results")
    return [Result.model_validate_json(m.value() or b"") for m in found]


def results_from(stage: Stage, first: int) -> list[Result]:
    """Those of the requests from `q<first>` on."""
    return [r for r in results(stage) if int(r.request_id.removeprefix("q")) >= first]


def answered(stage: Stage) -> bool:
    """Whether as many results as requests are there."""
    asked = len(stage.ledger.acknowledged[f"{stage.case}.requests"])
    return len(committed(stage.rig.kafka, f"{stage.case}.results")) >= asked


def check(stage: Stage, versions: Collection[str] = (VERSION,)) -> list[Result]:
    """I1 to I5 and I8; `versions` are those that may answer."""
    check_that = stage.outcome.check
    requests = f"{stage.case}.requests"
    messages = committed(stage.rig.kafka, f"{stage.case}.results")
    letters = [refused_of(m) for m in committed(stage.rig.kafka, f"{requests}.dlq")]
    judged = judge_history(History(_asked(stage, requests), list(map(given_of, messages)), letters))
    lost, twice = judged.of(Wrong.LOST), judged.of(Wrong.TWICE)
    check_that("acknowledged are in results or dead letters", holds=not lost, came=lost[:5])
    again = judged.again
    check_that("no id twice", holds=not twice and not again, came=[*twice[:5], again])
    both = judged.of(Wrong.BOTH)
    check_that("no id in both results and dead letters", holds=not both, came=both[:5])
    unasked = judged.of(Wrong.UNASKED)
    check_that("no id that was never sent", holds=not unasked, came=unasked[:5])
    wrong = judged.of(Wrong.DISORDERED)
    check_that("order kept per key", holds=not wrong, came=wrong[:3])
    found = [Result.model_validate_json(m.value() or b"") for m in messages]
    whole = all(r.version in versions and r.traceparent for r in found)
    check_that("each result names version and trace", holds=whole)
    stage.outcome.counts |= {
        "results": len(messages),
        "dead letters": len(letters),
        "duplicates": len(twice) + again,
        "lost": len(lost),
    }
    return found


def judge(stage: Stage, found: Sequence[Result], wanted: Truth) -> tuple[int, int]:
    """Every result is right, or says that it may not be. Returns how many were marked, and how many fell back."""
    marked = fallen = 0
    silent = []
    for result in found:
        if result.status is Status.FALLBACK:
            fallen += 1
            if not any(reason.startswith("features_unavailable") for reason in result.reasons):
                silent.append(result.request_id)
        elif stage.view.name in result.unsettled:
            marked += 1
        elif not _right(result, wanted):
            silent.append(result.request_id)
    came = (len(silent), silent[:5])
    stage.outcome.check("no result is wrong and silent about it", holds=not silent, came=came)
    stage.outcome.counts |= {"marked": marked, "fallbacks": fallen}
    return marked, fallen


def _right(result: Result, wanted: Truth) -> bool:
    mine = wanted.values[result.entity]
    for name, value in result.features.items():
        held = mine[name.rpartition("__")[2]]
        if (value is None) != math.isnan(held):
            return False
        if value is not None and not math.isclose(value, held, rel_tol=REL):
            return False
    return result.ages_ms == dict.fromkeys(result.ages_ms, wanted.ages_ms[result.entity])


def _asked(stage: Stage, topic: str) -> list[Asked]:
    """What the ledger says was acknowledged; the topic is asked for the keys only."""
    keys = {place_of(m): asked_of(m).key for m in committed(stage.rig.kafka, topic)}
    places = {Place(topic, *at): one for at, one in stage.ledger.acknowledged[topic].items()}
    return [Asked(place, keys.get(place, b""), one) for place, one in places.items()]


def log_of(worker: Worker) -> str:
    """What a worker said, over all its lives."""
    return Path(worker.log).read_text("utf-8", "replace") if worker.log.exists() else ""
