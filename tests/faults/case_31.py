"""A canary that errs, is slow, or shifts its scores.

Injected, while payments come at 500 a second in bursts of a tenth of a second: three canaries of 5 % one after another, on the
real scorer, guard and admission – one answers NaN, one takes 200 ms longer, one scores near 1. Must hold: the guard rolls each back,
nobody else does; from its first answer to its last no more than 30 s; it answers only keys that a hash of key and version, computed
here, draws for it, and no card that a rule keeps from canaries; a key is answered by one version throughout; I1 to I8. Does not
show: harm that only outcomes reveal (none come), windows of many events (nothing fills the rings, own events apart), more than one
replica.
"""

from __future__ import annotations

import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import xxhash
from confluent_kafka.admin import AdminClient

from features.compiled_plan import compiled_plan
from features.views import Plan
from pipelines import payments_generator
from schemas import topics
from schemas.control import Release, Verdict, VerdictKind
from schemas.control_log import ControlLog
from schemas.payments import PaymentRequest
from schemas.results import Result, Route, Status
from serving import release_log
from serving.release_orders import Orders
from serving.settings import ServingSettings
from tests.faults import answers, bad_models
from tests.faults import invariants as must
from tests.faults.ledger import Sent, idempotent
from tests.faults.meanwhile import Meanwhile
from tests.faults.stage import Stage
from tests.pipelines.records import committed

CASE = "payments"
REQUESTS, RESULTS = f"{CASE}.requests", f"{CASE}.results"
CHAMPION = "v0001"
HARM = {"errs": "v0002", "is slow": "v0003", "shifts its scores": "v0004"}
SLOW_BY_MS = 200.0
RATE_PER_S = 500
SHARE = 0.05
WITHIN_S = 30.0
GIVEN_UP_S = 90.0
BURST_S = 0.1
BEFORE_S = 3.0
CARDS = 20_000
HASHES = 1 << 64


class Answered(NamedTuple):
    """A result and when the broker took it."""

    result: Result
    at_ms: int


def run(stage: Stage) -> None:
    """Three canaries, one after another."""
    stage.case = CASE
    _empty(stage)
    serving = ServingSettings(models_dir=str(_models(stage)), session_timeout_ms=6_000)
    sections = [s.model_dump_json() for s in (stage.rig.kafka, stage.stores, serving)]
    for name in ("scorer", "admission", "guard"):
        stage.run(name, "tests.faults.release_worker", name, CASE, *sections)
    orders = Orders(stage.rig.kafka, stage.stores, serving, CASE, decided_by="fault")
    with Paying(stage) as paying:
        stage.until(lambda: must.lag(stage, f"{CASE}.scorer", REQUESTS) < RATE_PER_S)
        for harm, version in HARM.items():
            time.sleep(BEFORE_S)
            stage.inject(f"a canary of {SHARE:.0%} that {harm}")
            began = orders.canary(version, SHARE, harm)
            ended = stage.until(partial(_is_over, stage, began), GIVEN_UP_S)
            _check_release(stage, began, harm, in_time=ended is not None)
        time.sleep(BEFORE_S)
        paying.finish()
    done = stage.until(lambda: must.lag(stage, f"{CASE}.scorer", REQUESTS) == 0)
    stage.outcome.check("all answered", holds=done is not None)
    answers.check(stage, versions=(CHAMPION, *HARM.values()))
    held = must.no_hanging_transaction(stage, REQUESTS, RESULTS)
    stage.outcome.check("no hanging transaction", holds=held)
    _check_answers(stage)


class Paying(Meanwhile):
    """Payments at the rate, in bursts: what is due since the last one, however long that took."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(self._pay, pause_s=BURST_S)
        self._stage = stage
        # For as long as the case waits at most, the start included.
        rows = int(RATE_PER_S * GIVEN_UP_S * (len(HARM) + 2))
        world = payments_generator.World(
            seed=stage.outcome.seed,
            since_ms=time.time_ns() // 1_000_000,
            rows=rows,
            rate_per_s=RATE_PER_S,
            cards=CARDS,
        )
        self._payments = payments_generator.generate(world).requests()
        # One for all: to begin one each time takes longer than a burst.
        self._producer = idempotent(stage.rig.kafka)
        self._began_s = time.monotonic()
        self._sent = 0

    def _pay(self) -> None:
        owed = int((time.monotonic() - self._began_s) * RATE_PER_S) - self._sent
        # After a stall of the machine the rate goes on; what it missed is not made good at once.
        payments = [next(self._payments) for _ in range(min(owed, RATE_PER_S))]
        sent = [Sent(p.id, p.key, p.encode()) for p in payments]
        self._stage.ledger.produce(self._stage.rig.kafka, REQUESTS, sent, self._producer)
        self._sent += owed


def _empty(stage: Stage) -> None:
    """Topics of payments with nothing in them, and a champion that answers alone."""
    kafka = stage.rig.kafka
    admin = AdminClient(kafka.client_config())
    mine = [n for n in admin.list_topics(timeout=10).topics if n.startswith(f"{CASE}.")]
    if mine:
        for future in admin.delete_topics(mine, operation_timeout=20).values():
            future.result(20)
        stage.until(lambda: not set(mine) & set(admin.list_topics(timeout=10).topics))
        for future in admin.delete_consumer_groups([f"{CASE}.scorer", f"{CASE}-guard"]).values():
            future.result(10)
    topics.apply(kafka, CASE)
    _plan(stage)


def _plan(stage: Stage) -> Plan:
    plan = compiled_plan(CASE, stage.rig.folder / "plans" / "plan.json")
    plan.save(stage.stores.plan_path)
    return plan


def _models(stage: Stage) -> Path:
    folder, plan = stage.folder / "models", _plan(stage)
    bad_models.good(folder, CHAMPION, CASE, plan)
    bad_models.erring(folder, HARM["errs"], CASE, plan)
    bad_models.slow(folder, HARM["is slow"], CASE, plan, SLOW_BY_MS)
    bad_models.shifted(folder, HARM["shifts its scores"], CASE, plan)
    if release_log.current(stage.rig.kafka, CASE) is None:
        first = release_log.first(
            CASE, CASE, CHAMPION, event_time_ms=time.time_ns() // 1_000_000, decided_by="fault"
        )
        release_log.publish(stage.rig.kafka, first)
    return folder


def _now(stage: Stage) -> Release:
    now = release_log.current(stage.rig.kafka, CASE)
    assert now is not None, "there was a first release"
    return now


def _is_over(stage: Stage, began: Release) -> bool:
    return _now(stage).epoch > began.epoch


def _check_release(stage: Stage, began: Release, harm: str, *, in_time: bool) -> None:
    now = _now(stage)
    alone = (now.epoch, now.champion, now.canary) == (began.epoch + 1, CHAMPION, None)
    stage.outcome.check(
        f"the canary that {harm} is rolled back by the guard alone",
        holds=in_time and alone and now.decided_by == "guard",
        came=now,
    )
    if not in_time:
        release_log.rollback(stage.rig.kafka, CASE, reason="the case gave up")
    with ControlLog(stage.rig.kafka, CASE, ("control.verdicts",)) as log:
        verdicts = [e.event for e in log.read_all() if isinstance(e.event, Verdict)]
    mine = [v for v in verdicts if (v.candidate, v.epoch) == (began.canary, began.epoch)]
    one = [v.verdict for v in mine] == [VerdictKind.ROLL_BACK]
    stage.outcome.check("one verdict a canary, with its evidence", holds=one, came=mine)
    stage.inject(f"rolled back: {mine[0].reason}" if mine else "never judged")


def _check_answers(stage: Stage) -> None:
    found = [
        Answered(Result.model_validate_json(m.value() or b""), m.timestamp()[1])
        for m in committed(stage.rig.kafka, RESULTS)
    ]
    high = _high_tier(stage)
    for harm, version in HARM.items():
        mine = [one for one in found if _is_of(one.result, version)]
        stage.outcome.check(f"the canary that {harm} answered", holds=bool(mine))
        if not mine:
            continue
        epochs = {one.result.epoch for one in mine}
        during = [one for one in found if one.result.epoch in epochs]
        took_s = (max(o.at_ms for o in mine) - min(o.at_ms for o in mine)) / 1_000
        stage.outcome.recovery_s[f"first to last answer of the one that {harm}"] = round(took_s, 1)
        stage.outcome.check(f"the one that {harm} ends in time", holds=took_s <= WITHIN_S)
        drawn = {o.result.entity for o in during if _drawn(o.result.entity, version)}
        answered = {o.result.entity for o in mine}
        strangers = answered - drawn | answered & high
        stage.outcome.check(
            "a canary answers only keys that are drawn and allowed",
            holds=not strangers,
            came=sorted(strangers)[:5],
        )
        torn = drawn - high - answered
        stage.outcome.check("sticky by key", holds=not torn | _torn(during), came=sorted(torn)[:5])
        stage.outcome.counts[f"canary answers: {harm}"] = len(mine)
        share = round(1_000 * len(mine) / len(during))
        stage.outcome.counts[f"per mille of answers meanwhile: {harm}"] = share


def _is_of(result: Result, version: str) -> bool:
    """Whether the split asked this version, whoever answered then."""
    if result.route is Route.ASSIGNED:
        return False
    return (*result.failed, result.version)[0] == version


def _drawn(key: str, version: str) -> bool:
    return xxhash.xxh64_intdigest(f"{key}{version}".encode()) < int(SHARE * HASHES)


def _torn(during: list[Answered]) -> set[str]:
    """Keys that more than one version scored in one epoch."""
    versions: dict[tuple[str, int], set[str]] = defaultdict(set)
    for one in during:
        if one.result.status is Status.SCORED:
            versions[one.result.entity, one.result.epoch].add(one.result.version)
    return {key for (key, _), mine in versions.items() if len(mine) > 1}


def _high_tier(stage: Stage) -> set[str]:
    """Cards of the tier that payments keep from canaries."""
    found = set()
    for message in committed(stage.rig.kafka, REQUESTS):
        request = PaymentRequest.model_validate_json(message.value() or b"")
        if request.risk_tier == "high":
            found.add(request.card_id)
    return found
