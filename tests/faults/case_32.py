"""Versions that were tampered with after they were signed.

Injected, while requests go on: sixteen versions, each tampered with in its own way (a flipped bit, a file too many, an empty
folder, a pickle, links, no signature, a stranger's, a revoked one, …) and one that is signed and made for other features. Each
whose bytes changed is offered to admission as the candidate that it was; each is ordered as an operator would, then released behind admission's back, by lot as the champion or as a canary that answers everybody;
once the replica is killed with `kill -9` while a champion in force is one of them; then the signer of a canary that answers
is revoked, and a version that is whole takes over. Must
hold: the verdict refuses it with the reason; no order of them is published; the replica refuses each with the reason, and the old model answers on; a replica that starts
with nothing to go on answers nothing, and everything once a release names a model that it loads; a whole canary answers until
its signer is revoked, and nobody after; the whole one is loaded; I1 to I8. Does not show: a file beside the graph that is changed between its verification and its load.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from schemas.control import Candidate, Release, VerdictKind
from schemas.results import Result
from serving import admission, release_log
from serving.registry import Registry
from serving.release_log import ReleaseRefused
from serving.release_orders import Orders
from serving.releases import with_canary
from serving.signer import Signer
from tests.faults import answers
from tests.faults.replicas import assigned_within
from tests.faults.signed import signed
from tests.faults.stage import Stage, Worker
from tests.serving import model_folders
from tests.serving.tampering import TAMPERINGS, Tampering

WHOLE, TRUSTED_ONCE = "v0099", "v0098"
OTHER_FEATURES = Tampering("other features", lambda *_: None, "the model was made for")
# A candidate bears no signature yet.
OF_THE_SIGNATURE = {
    "no signature",
    "another's signature",
    "a signature that is none",
    "an unknown signer",
    "a revoked signer",
}
KILLED_AFTER = 5
# Answers that must come after a refusal, as a sign that traffic goes on.
MORE = 40
APPLIED_S = 0.5
WAITED_S = 1.0


def run(stage: Stage) -> None:
    """One after another, in an order of the seed's."""
    replicas, signer = signed(stage)
    broken = _versions(stage, signer)
    scorer = replicas.start()
    stage.outcome.check("it came to work", holds=assigned_within(scorer))
    orders = Orders(stage.rig.kafka, stage.stores, replicas.serving, stage.case, decided_by="fault")
    with replicas.asking() as asking:
        for number, (version, tampering) in enumerate(broken.items()):
            digest = signer.registry.digest(stage.case, version)
            _tamper(stage, signer, version, tampering)
            if tampering.name not in OF_THE_SIGNATURE:
                _check_verdict(stage, signer.registry, version, tampering, digest)
            _check_order(stage, orders, version, tampering)
            _check_release(stage, scorer, asking, version, tampering)
            if number == KILLED_AFTER:
                _check_start(stage, scorer, asking, version)
        _check_revoked(stage, signer, asking)
        _publish(stage, champion=WHOLE)
        first = asking.asked
        stage.recovers(
            "a version that is whole takes over",
            lambda: any(r.version == WHOLE for r in answers.results_from(stage, first)),
            lambda: answers.log_of(scorer)[-500:],
        )
    stage.recovers(
        "all answered", lambda: answers.answered(stage), lambda: f"{replicas.lag()} are left"
    )
    answers.check(stage, versions=(answers.VERSION, TRUSTED_ONCE, WHOLE))
    replicas.check_log()
    stage.outcome.counts["tampered with"] = len(broken)


def _versions(stage: Stage, signer: Signer) -> dict[str, Tampering]:
    """A signed version for every tampering, in an order of the seed's; and two that nobody touches."""
    tamperings = [*TAMPERINGS, OTHER_FEATURES]
    stage.dice.shuffle(tamperings)
    broken = {f"v{number:04d}": one for number, one in enumerate(tamperings, 2)}
    for version in (*broken, TRUSTED_ONCE, WHOLE):
        changes: dict[str, Any] = {}
        if broken.get(version) is OTHER_FEATURES:
            changes["definitions"] = {stage.view.name: "of another time"}
        model_folders.write(
            stage.folder / "models", version, of=stage.case, given=stage.plan, **changes
        )
        signer.sign(stage.case, version, by="fault", reason="a version to be")
    return broken


def _tamper(stage: Stage, signer: Signer, version: str, tampering: Tampering) -> None:
    models = stage.folder / "models" / stage.case
    tampering.do(signer, models / version, models / answers.VERSION)
    stage.inject(tampering.name)


def _check_verdict(
    stage: Stage, registry: Registry, version: str, tampering: Tampering, digest: str
) -> None:
    """Between its training and its trial."""
    candidate = Candidate(
        event_id=f"candidate-{version}",
        event_time_ms=answers.RELEASED_MS,
        case=stage.case,
        decided_at_ms=1,
        order_id=f"order-{version}",
        model=stage.case,
        version=version,
        folder=str(registry.path(stage.case, version)),
        digest=digest,
    )
    verdict = admission.judge(candidate, _now(stage), registry, stage.stores)
    said = verdict.reason
    held = verdict.verdict is VerdictKind.REFUSE and (tampering.said in said or digest in said)
    stage.outcome.check(
        "admission's verdict says why it refuses", holds=held, came=(tampering.name, said)
    )


def _check_order(stage: Stage, orders: Orders, version: str, tampering: Tampering) -> None:
    before = _now(stage)
    said = "it was published"
    try:
        orders.canary(version, 1.0, "an operator does not know")
    except ReleaseRefused as refused:
        said = str(refused)
    held = tampering.said in said and "Nothing was published" in said and _now(stage) == before
    stage.outcome.check("no order of a broken version is published", holds=held, came=said)


def _check_release(
    stage: Stage, scorer: Worker, asking: answers.Asking, version: str, tampering: Tampering
) -> None:
    """Behind admission's back; then the release that was in force before, once more."""
    as_champion = stage.dice.random() < 0.5
    if as_champion:
        _publish(stage, champion=version)
    else:
        _publish(stage, canary=version)
    refused = stage.until(lambda: bool(_refusals(scorer, version)))
    said = "".join(_refusals(scorer, version))
    held = refused is not None and tampering.said in said and "wanted" in said
    stage.outcome.check("the replica says why it refuses", holds=held, came=(tampering.name, said))
    # A refused canary's release goes into force a moment after the refusal is told.
    time.sleep(APPLIED_S)
    first = asking.asked
    found: list[Result] = []
    more = stage.until(partial(_came, stage, first, found))
    mine = {(r.version, r.reasons) for r in found}
    reasons = () if as_champion else (f"canary_refused: {version}",)
    goes_on = more is not None and mine == {(answers.VERSION, reasons)}
    stage.outcome.check(
        "the old model answers meanwhile, and says so", holds=goes_on, came=(tampering.name, mine)
    )
    _publish(stage, champion=answers.VERSION)


def _check_start(stage: Stage, scorer: Worker, asking: answers.Asking, version: str) -> None:
    """A new replica has no old model: requests wait in the log for a release that names one that it loads."""
    _publish(stage, champion=version)
    before = len(_refusals(scorer, version))
    stage.inject("kill -9 of the replica, while the champion in force is one of them")
    scorer.restart()
    stage.until(lambda: len(_refusals(scorer, version)) > before)
    first = asking.asked
    time.sleep(WAITED_S)
    came = answers.results_from(stage, first)
    stage.outcome.check("with nothing to go on it answers nothing", holds=not came, came=came[:1])
    _publish(stage, champion=answers.VERSION)
    found: list[Result] = []
    stage.recovers(
        "what waited is answered", partial(_came, stage, first, found), lambda: len(found)
    )


def _check_revoked(stage: Stage, signer: Signer, asking: answers.Asking) -> None:
    """What is in memory is let go when its signer is not trusted any more; but for a champion, which this is not."""
    key_id = signer.key.rotate()
    signer.sign(stage.case, TRUSTED_ONCE, by="fault", reason="a canary to be")
    signer.key.rotate()
    _publish(stage, canary=TRUSTED_ONCE)
    first = asking.asked
    stage.recovers(
        "a whole canary answers",
        lambda: any(r.version == TRUSTED_ONCE for r in answers.results_from(stage, first)),
        lambda: "nothing of it came",
    )
    stage.inject("the signer of the canary in force is revoked")
    signer.key.revoke(key_id, by="fault", reason="a laptop was lost")
    told = (f"canary_refused: {TRUSTED_ONCE}",)
    stage.recovers(
        "the canary of a revoked signer is let go",
        lambda: _said_of(stage, asking.asked - MORE) == {(answers.VERSION, told)},
        lambda: _said_of(stage, asking.asked - MORE),
    )


def _said_of(stage: Stage, first: int) -> set[tuple[str, tuple[str, ...]]]:
    """Who answered from a request on, and what they said of it."""
    return {(r.version, r.reasons) for r in answers.results_from(stage, first)}


def _came(stage: Stage, first: int, found: list[Result]) -> bool:
    """Whether enough was answered since; `found` holds what was."""
    found[:] = answers.results_from(stage, first)
    return len(found) >= MORE


def _refusals(scorer: Worker, version: str) -> list[str]:
    """What the replica logged when it did not load a version, over all its lives."""
    lines = answers.log_of(scorer).splitlines()
    return [one for one in lines if "releases.refused" in one and f"version={version}" in one]


def _publish(stage: Stage, *, champion: str = answers.VERSION, canary: str | None = None) -> None:
    now = _now(stage)
    stamp: dict[str, Any] = {
        "event_id": f"release-{now.epoch + 1}",
        "event_time_ms": answers.RELEASED_MS,
        "decided_at_ms": time.time_ns() // 1_000_000,
        "reason": "behind admission's back",
        "decided_by": "fault",
    }
    if canary:
        after = with_canary(now, candidate=canary, share=1.0, salt=canary, **stamp)
    else:
        alone = {"epoch": now.epoch + 1, "champion": champion, "canary": None, "canary_share": 0.0}
        after = now.model_copy(update={**alone, **stamp})
    release_log.publish(stage.rig.kafka, after)


def _now(stage: Stage) -> Release:
    now = release_log.current(stage.rig.kafka, stage.case)
    assert now is not None, "there was a first release"
    return now
