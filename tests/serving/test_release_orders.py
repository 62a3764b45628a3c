from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from schemas.control import CanaryRule, Release
from serving import release_log
from serving.release_log import ReleaseRefused
from serving.release_orders import Orders
from serving.release_watch import WrongRouting
from tests.serving import model_folders
from tests.serving.conftest import CASE, Bench


@pytest.fixture
def orders(bench: Bench) -> Orders:
    model_folders.write(bench.models, "v0002")
    model_folders.write(bench.models, "v0003")
    model_folders.write(bench.models, "v0004", definitions={"origin_departures": "other"})
    return Orders(bench.kafka, bench.stores, bench.serving, CASE, decided_by="ann")


def test_a_canary_is_tried_widened_and_ended(bench: Bench, orders: Orders) -> None:
    with pytest.raises(ReleaseRefused, match="there is no release yet"):
        orders.canary("v0002", 0.05, "?")
    bench.release_first()
    tried = orders.canary("v0002", 0.05, "new features")
    assert (tried.epoch, tried.canary, tried.canary_share) == (2, "v0002", 0.05)
    assert (tried.salt, tried.reason, tried.decided_by) == ("v0002", "new features", "ann")
    wider = orders.canary("v0002", 0.2, "more")
    assert (wider.epoch, wider.canary_share, wider.salt) == (3, 0.2, "v0002")
    with pytest.raises(ReleaseRefused, match="v0002 answers"):
        orders.canary("v0003", 0.05, "?")

    release_log.rollback(bench.kafka, CASE, reason="enough", decided_by="ann")
    past = release_log.history(bench.kafka, CASE, 10)
    epochs = [e.event.epoch for e in past if isinstance(e.event, Release)]
    assert epochs[-1] == 4
    assert epochs == sorted(epochs)
    assert len(release_log.history(bench.kafka, CASE, 1)) == 1


def test_what_no_replica_would_load_is_not_published(bench: Bench, orders: Orders) -> None:
    bench.release_first()
    refused: list[tuple[Callable[[], Release], str]] = [
        (lambda: orders.canary("v0009", 0.05, "?"), "no such folder"),
        (lambda: orders.canary("../v0002", 0.05, "?"), "no such folder"),
        (lambda: orders.canary("v0004", 0.05, "?"), "the model was made for"),
        (lambda: orders.canary("v0001", 0.05, "?"), "v0001 is the champion"),
        (lambda: orders.shadow("v0004", "?"), "the model was made for"),
        (lambda: orders.shadow(None, "?"), "a shadow in force"),
        (lambda: orders.pin("N1", "v0009", "?"), "no such folder"),
        (lambda: orders.pin("N1", None, "?"), "a pin of N1"),
        (lambda: orders.rule("origin", "EWR", None, "?"), "there is none"),
    ]
    for order, said in refused:
        with pytest.raises(ReleaseRefused, match=said):
            order()
    with pytest.raises(WrongRouting, match="a field of its requests"):
        orders.rule("tenant", "acme", CanaryRule.NEVER, "?")
    now = release_log.current(bench.kafka, CASE)
    assert now is not None
    assert now.epoch == 1


def test_a_canary_is_promoted_where_it_could_serve(bench: Bench, orders: Orders) -> None:
    with pytest.raises(ReleaseRefused, match="there is no release yet"):
        orders.promote("?")
    bench.release_first()
    with pytest.raises(ReleaseRefused, match="v0001 answers alone"):
        orders.promote("?")
    orders.canary("v0002", 0.05, "new features")
    shutil.move(bench.models / CASE / "v0002", bench.models / "aside")
    with pytest.raises(ReleaseRefused, match="no such folder") as refused:
        orders.promote("?")
    assert refused.value.mend.startswith("Nothing was published.")
    shutil.move(bench.models / "aside", bench.models / CASE / "v0002")
    promoted = orders.promote("enough seen")
    assert (promoted.epoch, promoted.champion, promoted.canary) == (3, "v0002", None)
    assert (promoted.reason, promoted.decided_by) == ("enough seen", "ann")


def test_shadow_pin_and_rule_come_and_go(bench: Bench, orders: Orders) -> None:
    bench.release_first()
    assert orders.shadow("v0002", "look").shadow == "v0002"
    assert orders.shadow(None, "seen").shadow is None
    assert orders.pin("N1", "v0003", "a complaint").pins == {"N1": "v0003"}
    assert orders.pin("N1", None, "settled").pins == {}
    [rule] = orders.rule("origin", "EWR", CanaryRule.ONLY, "Newark first").rules
    assert (rule.field, rule.value, rule.canary) == ("origin", "EWR", CanaryRule.ONLY)
    assert orders.rule("origin", "EWR", None, "all of them").rules == ()
