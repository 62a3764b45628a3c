"""The checker finds out a scorer that is wrong, and is content with one that is not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.harness import Rig
from tests.faults.outcome import Outcome
from tests.faults.replicas import Replicas, assigned_within, dead_within
from tests.faults.stage import Stage


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(tmp_path_factory.mktemp("checker")) as rig:
        yield rig


def played(rig: Rig, number: int, how: str) -> Outcome:
    """Killed once in its fifth batch; what comes after it is a scorer as it should be, that remembers nothing."""
    outcome = Outcome(number, seed=1)
    with Stage(rig, outcome) as stage:
        # Without a memory of what was answered: else the scorer itself would find the repeats.
        replicas = Replicas(stage, recent_ids=0, batch_rows_max=20)
        replicas.ask(200, first=0)
        if how:
            first = replicas.start("tests.faults.broken_scorer", how, "5", supervised=False)
            assert dead_within(first), first.log.read_text()[-2_000:]
        else:
            first = replicas.start(supervised=False)
            assert assigned_within(first)
            first.kill()
        replicas.start()
        stage.until(lambda: replicas.lag() == 0, within_s=60)
        replicas.check()
    return outcome


def test_commit_before_produce_is_found_out(rig: Rig) -> None:
    outcome = played(rig, 901, "commit_first")
    assert not outcome.invariants["acknowledged are in results or dead letters"]
    assert outcome.counts["lost"] > 0
    assert outcome.counts["duplicates"] == 0
    assert outcome.verdict == "FAILED"


def test_auto_commit_without_a_transaction_is_found_out(rig: Rig) -> None:
    outcome = played(rig, 902, "auto_commit")
    assert not outcome.invariants["no id twice"]
    assert outcome.counts["duplicates"] > 0
    assert outcome.verdict == "FAILED"


def test_the_scorer_as_it_is_passes_the_same(rig: Rig) -> None:
    outcome = played(rig, 903, "")
    assert outcome.held, outcome.line()
