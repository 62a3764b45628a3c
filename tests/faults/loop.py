"""The whole loop without Flink and Ray: every worker a process of its own, traffic and outcomes all along, one retraining.

The use case is `looped/`, put into a copy of the source, because the trainer's own child must find it too. What comes of a
request is decided by `level`; the champion was trained when `slope` decided it, so a retraining pays. The lake holds the
past and what will be sent, as if an archiver were quick.
"""

from __future__ import annotations

import json
import signal
from collections import defaultdict
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, Self

from msgspec.structs import replace

from features.views import ColumnType, Plan, Service
from infra import record
from infra.demo.control_audit import contradictions
from infra.local import process
from infra.settings import Settings
from monitoring.audit_chain import Judgement
from pipelines import training
from schemas.control import RetrainingOrder
from schemas.control_log import CONTRACTS, ControlLog
from schemas.results import Joined, Result
from serving import admission
from serving.mlflow_registry import MlflowRegistry
from serving.registry import Registry
from serving.signer import Signer
from tests.faults import answers
from tests.faults import invariants as must
from tests.faults.loop_world import (
    BEGIN_MS,
    BURST,
    HERE,
    LAYERS,
    PAST_ROWS,
    Traffic,
    World,
    register,
)
from tests.faults.sources import Sources
from tests.faults.stage import SERVICE, Stage, Worker
from tests.pipelines.records import committed

Json = dict[str, Any]
WORKERS = ("scorer", "outcomes", "trainer", "admission", "guard", "auditor")
CHAMPION = "v0001"
SETTLED_WITHIN_S = 240.0


class Loop:
    """The workers, from a start with a champion until one of them has been replaced. A context manager."""

    def __init__(self, stage: Stage, *, drift: bool = False, registry: bool = False) -> None:
        self.stage = stage
        self.contracts = register(stage.case)
        self.world = World(stage.outcome.seed)
        self._plan()
        stage.topics()
        self.settings = self._settings(registry=registry)
        self.world.fill(self.settings.stores, stage.case, self.contracts)
        self._release_champion()
        sources = Sources(stage.folder / "source", stage.case, compiled=True)
        for layer in LAYERS:
            sources.write(layer, (HERE / "looped" / f"{layer}.py").read_text("utf-8"))
        (sources.folder / "tests").symlink_to(HERE.parent)
        self._told_settings = stage.folder / "settings.json"
        self.settings.write(self._told_settings)
        names = (*WORKERS, "drift") if drift else WORKERS
        self.workers = {
            name: stage.run(
                name,
                "tests.faults.loop_worker",
                name,
                str(self._told_settings),
                folder=sources.folder,
            )
            for name in names
        }
        self.traffic = Traffic(stage, self.world, self.contracts)
        self._control = ControlLog(stage.rig.kafka, stage.case, tuple(CONTRACTS))
        # Where the log of a worker's newest life begins.
        self._began: dict[str, int] = {}
        self._said: dict[str, list[Json]] = {topic: [] for topic in CONTRACTS}

    def __enter__(self) -> Self:
        self._control.__enter__()
        self.traffic.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self.traffic.__exit__(*raised)
        self._control.__exit__(None, None, None)
        # All at once; the stage then waits for one after the other.
        for worker in self.workers.values():
            worker.wanted = False
            process.signal_group(worker.process, signal.SIGTERM)

    def order(self) -> None:
        """What the drift worker would order, once the champion answers."""
        self.stage.until(lambda: len(answers.results(self.stage)) > BURST)
        now_ms = self.world.at_ms(self.traffic.sent)
        order = RetrainingOrder(
            event_id=f"order-{self.stage.case}",
            event_time_ms=now_ms,
            case=self.stage.case,
            decided_at_ms=1,
            alert_id="alert",
            since_ms=BEGIN_MS,
            until_ms=now_ms,
            reason="the world has moved",
        )
        with ControlLog(self.stage.rig.kafka, self.stage.case, (), "fault.orders") as log:
            log.publish(order)

    def said(self) -> dict[str, list[Json]]:
        """All control events of the use case so far, by topic."""
        while entries := self._control.poll(0.05):
            for entry in entries:
                self._said[entry.topic].append(json.loads(entry.value))
        return self._said

    @property
    def release(self) -> Json:
        """The newest."""
        return self.said()["control.releases"][-1]

    def is_over(self) -> bool:
        """Whether the retraining has come to its end."""
        ended = any(v["verdict"] != "admit" for v in self.said()["control.verdicts"])
        failed = any(c["error"] for c in self.said()["control.candidates"])
        return failed or (ended and self.release["canary"] is None)

    def aliases(self) -> dict[str, str]:
        """Alias → version, of the registry for people."""
        settings = self.settings
        registry = Registry(Path(settings.serving.models_dir))
        rows = MlflowRegistry(settings.admission.registry_uri, registry).rows(self.stage.case)
        return {alias: str(row["version"]) for row in rows for alias in row["aliases"]}

    def kill(
        self,
        name: str,
        when: Callable[[str], bool],
        most_s: float,
        *,
        after: str,
        dies_at: str = "",
    ) -> None:
        """Kill -9 a drawn time after the worker's newest life has told `when`, or after the loop is over.

        With `dies_at`, a control topic, its next life dies in the transaction in which it writes there.
        """
        stage, worker = self.stage, self.workers[name]
        began = self._began.get(name, 0)
        stage.until(lambda: when(_told(worker, began)) or self.is_over(), SETTLED_WITHIN_S)
        pause_s = stage.dice.uniform(0.0, most_s)
        stage.until(lambda: False, pause_s)
        if dies_at:
            point = f"{stage.dice.choice(('produced', 'committed'))} {dies_at}"
            Path(f"{self._told_settings}.{name}").write_text(point, encoding="utf-8")
            stage.inject(f"the next life of {name} dies when it has {point}")
        self._began[name] = worker.log.stat().st_size
        worker.kill()
        stage.inject(f"kill -9 of {name} {pause_s:.1f} s after {after}")

    def settle(self) -> None:
        """Wait for the end of the retraining, of the traffic, and of all that follows from them."""
        stage = self.stage
        stage.recovers("one retraining comes to its end", self.is_over, self.said)
        champion = self.release
        asked = self.traffic.sent
        stage.recovers(
            "the scorer answers with the champion of the release",
            lambda: self._answered_by(asked) == {(champion["champion"], champion["epoch"])},
            lambda: self._answered_by(asked),
        )
        self.traffic.finish()
        stage.recovers("all answered", lambda: answers.answered(stage), lambda: "some are left")
        stage.recovers("all joined", lambda: not self._unjoined(), self._unjoined)
        stage.recovers("all on record", self._all_on_record, lambda: self._record)

    def check(self) -> None:
        """One story, told alike by every topic, folder and answer."""
        stage, said = self.stage, self._all_said()
        wrong = contradictions(said)
        stage.outcome.check("the loop's events tell one story", holds=not wrong, came=wrong)
        orders, candidates = said["control.retraining"], said["control.candidates"]
        stage.outcome.check("one order", holds=len(orders) == 1, came=orders)
        stage.outcome.check("one candidate", holds=len(candidates) == 1, came=candidates)
        verdicts = [v["verdict"] for v in said["control.verdicts"]]
        stage.outcome.check(
            "one verdict after the other", holds=verdicts == ["admit", "promote"], came=verdicts
        )
        made = [c["version"] for c in candidates]
        story = [(r["champion"], r["canary"]) for r in said["control.releases"]]
        told = [(CHAMPION, None), *((CHAMPION, v) for v in made), *((v, None) for v in made)]
        stage.outcome.check("one release after the other", holds=story == told, came=story)
        there = sorted(p.name for p in self._models.iterdir() if p.is_dir() and any(p.iterdir()))
        held = there == sorted([CHAMPION, *made])
        stage.outcome.check("one version, and nothing half done", holds=held, came=there)
        findings = self._record.findings
        stage.outcome.check("the record is whole", holds=not findings, came=findings)
        answers.check(stage, versions=(CHAMPION, *made))
        self._check_joined()
        aimed = sum(worker.said('"dies"') for worker in self.workers.values())
        stage.outcome.counts["died in a transaction"] = aimed
        lag = must.lag(stage, f"{stage.case}.scorer", f"{stage.case}.requests")
        stage.outcome.check("lag returns to 0", holds=not lag, came=lag)

    def _all_said(self) -> dict[str, list[Json]]:
        """To the end of every topic, as `said` need not be."""
        said: dict[str, list[Json]] = {topic: [] for topic in CONTRACTS}
        with ControlLog(self.stage.rig.kafka, self.stage.case, tuple(CONTRACTS)) as log:
            for entry in log.read_all():
                said[entry.topic].append(json.loads(entry.value))
        return said

    @property
    def _models(self) -> Path:
        return Path(self.settings.serving.models_dir) / self.stage.case

    @property
    def _record(self) -> Judgement:
        return record.judge(self.stage.rig.kafka, self.settings.stores, self.stage.case)

    def _all_on_record(self) -> bool:
        return not self._record.waiting

    def _answered_by(self, first: int) -> set[tuple[str, int]]:
        """Versions and epochs of the newest bursts, none before enough of them."""
        newest = answers.results_from(self.stage, first)[-2 * BURST :]
        return {(r.version, r.epoch) for r in newest if len(newest) == 2 * BURST}

    def _joined(self) -> dict[str, list[Joined]]:
        found = defaultdict(list)
        for message in committed(self.stage.rig.kafka, f"{self.stage.case}.joined"):
            row = Joined.model_validate_json(message.value() or b"")
            found[row.request_id].append(row)
        return found

    def _unjoined(self) -> list[str]:
        asked = self.stage.ledger.acknowledged[f"{self.stage.case}.requests"].values()
        return list(islice(set(asked) - self._joined().keys(), 5))

    def _check_joined(self) -> None:
        joined = self._joined()
        given = {r.request_id: r for r in answers.results(self.stage)}
        strangers = sorted(joined.keys() - given.keys())
        check = self.stage.outcome.check
        check("nothing is joined that nobody asked", holds=not strangers, came=strangers[:5])
        torn = [rows for rows in joined.values() if any(r != rows[0] for r in rows)]
        check("no joined row contradicts another", holds=not torn, came=torn[:2])
        wrong = [
            rows[0]
            for name, rows in joined.items()
            if name in given and not self._fits(rows[0], given[name])
        ]
        check("joined rows are of their result and outcome", holds=not wrong, came=wrong[:2])
        repeats = sum(len(rows) - 1 for rows in joined.values())
        self.stage.outcome.counts |= {"joined": len(joined), "joined again": repeats}

    def _fits(self, row: Joined, result: Result) -> bool:
        n = int(row.request_id.removeprefix("q"))
        same = ("score", "version", "epoch", "status", "route", "event_time_ms", "entity")
        return bool(row.late == self.world.now[n]) and all(
            getattr(row, name) == getattr(result, name) for name in same
        )

    def _plan(self) -> None:
        """A view that nobody fills: models see what is asked, and a count of nothing."""
        columns: dict[str, ColumnType] = {"event_id": "string", "station": "string"}
        view = replace(self.stage.view, columns=columns | self.stage.view.columns)
        self.stage.view = view
        self.stage.plan = Plan((view,), (Service(SERVICE, ((view.name, "count_level"),)),))

    def _settings(self, *, registry: bool) -> Settings:
        stage = self.stage
        data = stage.folder / "data"
        return Settings.load(
            data_dir=str(data),
            case=stage.case,
            kafka=stage.rig.kafka.model_dump(),
            stores=stage.stores.model_dump(),
            serving={"session_timeout_ms": 6_000},
            admission={} if registry else {"registry_uri": ""},
        )

    def _release_champion(self) -> None:
        """Trained, signed and released."""
        stage, settings = self.stage, self.settings
        models = Path(settings.serving.models_dir)
        training.build(self.world.as_it_was(stage, self.contracts), models)
        admission.bootstrap(
            stage.rig.kafka,
            stage.case,
            CHAMPION,
            event_time_ms=self.world.at_ms(PAST_ROWS),
            signer=Signer.of(settings.serving, settings.admission),
        )


def _told(worker: Worker, began: int) -> str:
    """What its newest life has said."""
    with worker.log.open("rb") as log:
        log.seek(began)
        return log.read().decode("utf-8", "replace")
