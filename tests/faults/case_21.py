"""A model that has no memory for a large batch, and for one kind of request no memory at all.

Injected: onto a backlog, so that batches are full, a model for which ONNX Runtime's allocator refuses a batch of more than 16
rows, and any batch with a row of one station; the use case's rule cannot answer for that station either. Must hold:
batches are halved until they fit; every request of the other stations is scored; those of that station alone are dead
letters, with the reason; the scorer is not restarted; I1 to I8. Does not show: the kernel's own killer, which leaves no
process to halve anything (case 1 is what then holds), or the memory of a GPU.
"""

from __future__ import annotations

from schemas.results import Status
from tests.faults import answers, hurt_model
from tests.faults.replicas import AS_OF_MS, Replicas, assigned_within
from tests.faults.stage import Stage

BACKLOG, MORE = 2_000, 500


def run(stage: Stage) -> None:
    """A backlog, and some more."""
    stations = [*hurt_model.WELL, *hurt_model.WELL, hurt_model.MEMORY]
    stage.dice.shuffle(stations)
    replicas = Replicas(stage, hurt_model.release)
    answers.ask(stage, stations, AS_OF_MS, 0, BACKLOG)
    scorer = replicas.start("tests.faults.hurt_model")
    stage.inject(
        f"no memory for more than {hurt_model.ROWS_IN_MEMORY} rows, none for {hurt_model.MEMORY}"
    )
    stage.outcome.check("it came to work", holds=assigned_within(scorer))
    stage.until(lambda: not replicas.lag())
    answers.ask(stage, stations, AS_OF_MS, BACKLOG, MORE)
    replicas.finish(within=lambda: not replicas.lag())

    found = answers.results(stage)
    scored = all(r.status is Status.SCORED and r.entity in hurt_model.WELL for r in found)
    stage.outcome.check("all others are scored", holds=scored)
    wanted = (BACKLOG + MORE) - len(found)
    dead = hurt_model.dead(stage)
    named = all(reason == "unanswerable" for _, reason in dead)
    only = {station for station, _ in dead} == {hurt_model.MEMORY}
    held = only and named and len(dead) == wanted > 0
    stage.outcome.check(
        "only the culprit is a dead letter, with the reason", holds=held, came=dead[:3]
    )
    stage.outcome.check("no restart", holds=not scorer.restarts, came=scorer.restarts)
    halved = hurt_model.counted(scorer, "batch_halved")
    stage.outcome.check("batches were halved", holds=halved > 0, came=halved)
    stage.outcome.counts["halved"] = halved
