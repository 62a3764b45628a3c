"""Windows that are constant, empty, all null, or full of a category never seen.

Injected, a day each, into the results that a real drift worker reads: an input that stands still; one without a value; two days
in five of a category that the reference lacks; results without a vector; a day without results; and, last, a day on which inputs
have truly moved. Data drift takes three inputs, as in the use cases that ship; a broken one counts alone. Beside it, a canary that nobody asks for longer than a trial may last, until one result comes. Must hold: every window that has a result gets a page that says what was found, and its plots where it was
judged; the worker does not end; what looks broken is alerted and orders no retraining; the true shift after it orders exactly
one; the guard says nothing while there is nothing, and then rolls the canary back for want of outcomes. Does not show: inputs that break while they also drift truly, which order nothing until they are mended.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from monitoring import guard_worker
from monitoring.policy import DAY_MS
from monitoring.report_index import Line, lines_of
from schemas import topics
from schemas.control import Alert, RetrainingOrder, Verdict, VerdictKind
from schemas.results import Joined, Result, Status
from schemas.worker import WorkerContext
from tests.faults.stage import Stage, Worker
from tests.monitoring import rig

ROWS_A_DAY = 600
UNSEEN = 7.0
Change = Callable[[Result, int], Result]


def same(result: Result, _: int) -> Result:
    return result


def with_input(name: str, value: float | None, of_ten: int = 10) -> Change:
    """So many of ten results have this value instead."""

    def change(result: Result, index: int) -> Result:
        if index % 10 >= of_ten:
            return result
        return result.model_copy(update={"features": {**result.features, name: value}})

    return change


def unscored(result: Result, _: int) -> Result:
    changes: dict[str, object] = {
        "status": Status.EXPIRED,
        "score": None,
        "label": None,
        "features": {},
    }
    return result.model_copy(update=changes)


# What is done on a day, and what its page must say; the day after the empty one has no window before it.
DAYS: dict[int, tuple[Change, str]] = {
    0: (same, "quiet"),
    1: (with_input("weather__wind", 1.5), "constant in the window"),
    2: (with_input("weather__wind", None), "all null in the window"),
    3: (with_input("origin", UNSEEN, of_ten=4), "new categories: 7"),
    4: (unscored, "0 of 200 rows"),
    # Nothing on day 5.
    6: (same, "quiet"),
    7: (same, "retraining ordered"),
}
BROKEN, SHIFTED = (1, 2, 3), 7
# A trial lasts fourteen days, and a quarter more for outcomes that are behind.
SILENT_DAYS = 18
LOOKS = 3


def run(stage: Stage) -> None:
    """Publish the days, and read what the worker made of them."""
    case = rig.register(f"drift{stage.outcome.seed}")
    topics.apply(stage.rig.kafka, case)
    models, reports = stage.folder / "models", stage.folder / "reports"
    rig.write_model(models, "v1")
    rig.publish(stage.rig.kafka, "control.releases", rig.release(case))
    for number, (change, said) in DAYS.items():
        if change is not same:
            stage.inject(f"day {number}: {said}")
        _send(stage, case, list(_day(stage, number, change)))
    # The hours that close the last day.
    _send(stage, case, list(_day(stage, SHIFTED + 1, same))[: ROWS_A_DAY // 2])

    kafka = stage.rig.kafka.model_dump_json()
    command = ("tests.faults.drift_process", case, kafka, str(reports), str(models))
    worker = stage.run("drift", *command)
    folder = reports / case
    stage.recovers(
        "every window has a line", lambda: len(lines_of(folder)) == len(DAYS), lambda: worker.log
    )
    stage.recovers("plots are there", lambda: _plotted(folder), lambda: _left(folder))
    _pages(stage, folder)
    stage.outcome.check("the worker did not end", holds=not worker.restarts and worker.alive)
    stage.outcome.check("no page failed", holds=_last(worker)["pages_failed"] == 0)
    _orders(stage, case)
    rig.unregister(case)
    _silence(stage)


def _day(stage: Stage, number: int, change: Change) -> Iterator[tuple[Result, Joined]]:
    traffic = rig.traffic(
        seed=100 * stage.outcome.seed + number,
        start_ms=rig.T0_MS + number * DAY_MS,
        rows=ROWS_A_DAY,
        rows_a_day=ROWS_A_DAY,
        shift=0.8 if number == SHIFTED else 0.0,
    )
    for index, (result, joined) in enumerate(traffic):
        yield change(result, index), joined


def _send(stage: Stage, case: str, pairs: list[tuple[Result, Joined]]) -> None:
    kafka = stage.rig.kafka
    scored = [joined for result, joined in pairs if result.status is Status.SCORED]
    rig.produce(kafka, ((f"{case}.joined", j.key, j.encode()) for j in scored))
    rig.produce(kafka, ((f"{case}.results", r.key, r.encode()) for r, _ in pairs))


def _plotted(folder: Path) -> bool:
    return not _left(folder)


def _left(folder: Path) -> list[str]:
    named = [line.plots for line in lines_of(folder) if line.plots is not None]
    return [name for name in named if not (folder / name).exists()]


def _pages(stage: Stage, folder: Path) -> None:
    lines = {(line.window_start_ms - rig.T0_MS) // DAY_MS: line for line in lines_of(folder)}
    for number, (_, said) in DAYS.items():
        page = _page(folder, lines.get(number))
        stage.outcome.check("a page says what was found", holds=said in page, came=(number, said))
    judged = [number for number, line in lines.items() if line.plots is not None]
    expected = sorted(set(DAYS) - {4})
    stage.outcome.check("judged days have plots", holds=sorted(judged) == expected, came=judged)


def _page(folder: Path, line: Line | None) -> str:
    return "" if line is None or line.report is None else (folder / line.report).read_text()


def _orders(stage: Stage, case: str) -> None:
    kafka = stage.rig.kafka
    alerts = [Alert.model_validate_json(v) for v in rig.read_all(kafka, "control.alerts")]
    orders = [
        RetrainingOrder.model_validate_json(v) for v in rig.read_all(kafka, "control.retraining")
    ]
    mine = {(a.window_start_ms - rig.T0_MS) // DAY_MS: a for a in alerts if a.case == case}
    held = [str(mine[n].held_back_by) if n in mine else "no alert" for n in BROKEN]
    stage.outcome.check(
        "what looks broken is alerted, and held back",
        holds=all(one.startswith("broken inputs: ") for one in held),
        came=held,
    )
    quiet = sorted(set(mine) - {*BROKEN, SHIFTED})
    stage.outcome.check("quiet and empty windows are no alerts", holds=not quiet, came=quiet)
    ids = [order.alert_id for order in orders if order.case == case]
    expected = [mine[SHIFTED].event_id] if SHIFTED in mine else ["no alert of the true shift"]
    stage.outcome.check("one retraining, for the true shift", holds=ids == expected, came=ids)
    stage.outcome.counts |= {"windows": len(DAYS), "alerts": len(mine), "orders": len(ids)}


def _silence(stage: Stage) -> None:
    """A trial without a result has no time either: it ends with the first one that comes after its longest duration."""
    kafka, case = stage.rig.kafka, rig.register(f"silent{stage.outcome.seed}")
    topics.apply(kafka, case)
    rig.publish(kafka, "control.releases", rig.release(case, canary="v2"))

    def ruled() -> list[Verdict]:
        found = [Verdict.model_validate_json(v) for v in rig.read_all(kafka, "control.verdicts")]
        return [one for one in found if one.case == case]

    def guard(context: WorkerContext) -> None:
        guard_worker.run(context, kafka)

    with rig.running(case, guard) as reports:
        rig.wait_until(lambda: len(reports) > LOOKS)
        stage.outcome.check("no verdict without a result", holds=not ruled(), came=ruled())
        stage.inject(f"one result {SILENT_DAYS} days after the release of a canary")
        _send(stage, case, list(_day(stage, SILENT_DAYS, same))[:1])
        rig.wait_until(lambda: bool(ruled()))
    said = [(one.verdict, one.reason) for one in ruled()]
    held = len(said) == 1 and said[0][0] is VerdictKind.ROLL_BACK and "only 0" in said[0][1]
    stage.outcome.check("a canary that nobody asked is rolled back", holds=held, came=said)
    rig.unregister(case)


def _last(worker: Worker) -> dict[str, float]:
    lines = [
        line for line in worker.log.read_text("utf-8").splitlines() if line.startswith('{"windows"')
    ]
    found: dict[str, float] = json.loads(lines[-1])
    return found
