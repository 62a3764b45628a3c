"""One stream through the whole loop, from the history that its first champion is trained on to the windows after the last one.

The sender keeps pace with the loop: after each chunk all is answered, joined and in the lake; after a row that ends a
window's time the window is judged; after an order its candidate is tried, and in force if it was admitted. So "rows until" is a
property of the loop, and not of how fast this machine is. Only the guard, whose verdict depends on when it looks, may lag by a
chunk.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog
from confluent_kafka.admin import AdminClient
from numpy.typing import NDArray

from features.lake import Lake
from features.lake_schema import Coordinate, event_table, lake_schema
from features.views import Plan, Service
from infra.settings import Settings
from monitoring.accuracy import accuracy
from monitoring.report_index import Line, lines_of
from schemas import topics, usecase
from schemas.control import RetrainingOrder, VerdictKind
from schemas.results import Route
from schemas.settings import KafkaSettings
from tests.loop.crew import Crew
from tests.loop.follower import Follower
from tests.loop.known_case import (
    CHUNK_ROWS,
    HELD_OUT_ROWS,
    OUTCOME_AFTER_ROWS,
    ROW_MS,
    SERVICE,
    SINCE_ROWS,
    KnownCase,
)
from tests.loop.sender import Sender
from tests.loop.story import Story, Worth

if TYPE_CHECKING:
    from schemas.events import Event

Floats = NDArray[np.float64]
log = structlog.get_logger()

# A drift that was not answered by then will not be; of a benign change so many windows are judged.
WINDOWS_MAX, BENIGN_WINDOWS = 12, 3
WINDOWS_AFTER = 2
# Rows that train nobody, because their outcome came after the first of those held out.
BETWEEN_ROWS = 2 * OUTCOME_AFTER_ROWS


class KnownRun:
    """One run. Its case, topics and folders are its own; the broker and the workers' processes serve all runs."""

    def __init__(
        self,
        crew: Crew,
        kafka: KafkaSettings,
        case: KnownCase,
        seed: int,
        *,
        drift_at: int | None = None,
    ) -> None:
        self._crew, self._kafka, self._case, self._seed = crew, kafka, case, seed
        self._folder = crew.folder / case.name
        self.settings = Settings(
            case=case.name,
            data_dir=str(self._folder),
            kafka=kafka,
            pipelines={"archive_interval_s": 0.25},
            admission={"registry_uri": ""},
        )
        known = case.known
        within = int(np.random.default_rng(seed).integers(known.rows))
        self.drift_at = known.quiet * known.rows + within if drift_at is None else drift_at
        self.promoted_at: int | None = None
        self._verdicts = 0

    def play(self) -> Story:
        """The whole run."""
        began = time.monotonic()
        self.prepare()
        self._crew.start(self.settings)
        with Follower(self._kafka, self._case.name) as self.follower:
            self.await_release(1)
            while self.sender.sent < self._end():
                self.advance()
            story = self._story()
        self._crew.stop()
        self._forget()
        story.wall_s = round(time.monotonic() - began, 1)
        return story

    def prepare(self) -> None:
        """The use case, its topics, a lake with history, and the first champion."""
        case, settings = self._case, self.settings
        case.register()
        case.write(self._crew.sources)
        topics.apply(self._kafka, case.name)
        for path in (settings.stores.plan_path, settings.stores.registry_uri[10:]):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        plan = Plan(services=(Service(SERVICE, ()),))
        plan.save(settings.stores.plan_path)
        self._sow()
        self._write_history()
        self.first = self._train_first(plan)

    def _sow(self) -> None:
        """Inputs and labels of everything that could be sent; each part of the stream has a seed of its own, as in the kernel."""
        known, seed = self._case.known, 3 * self._seed
        trained = known.trained + HELD_OUT_ROWS + BETWEEN_ROWS
        self._history = known.before(seed, trained)
        rows = known.rows * (WINDOWS_MAX + known.quiet + 8) + 2 * SINCE_ROWS + 10_000
        first = [part[: self.drift_at] for part in known.before(seed + 1, self.drift_at + 1)]
        then = known.after(seed + 2, rows - self.drift_at)
        inputs, labels = (np.concatenate(pair) for pair in zip(first, then, strict=True))
        self.sender = Sender(self._kafka, self._case, inputs, labels)

    def _write_history(self) -> None:
        case, lake = self._case, Lake(self.settings.stores)
        inputs, labels = self._history
        first = -len(labels)
        asked = [case.request(f"h{n}", first + n, values) for n, values in enumerate(inputs)]
        told = [case.outcome(f"h{n}", first + n, label) for n, label in enumerate(labels.tolist())]
        for stream, rows in (("requests", asked), ("outcomes", told)):
            topic = topics.table_of(case.name)[f"{case.name}.{stream}"]
            contract: type[Event] = topic.contract  # type: ignore[assignment] # both have one
            lake.create(topic.table, lake_schema(contract))
            received = [Coordinate(row["event_time_ms"]) for row in rows]
            lake.append(topic.table, event_table(contract, rows, received))
        self._history_rows = len(labels)

    def _train_first(self, plan: Plan) -> str:
        # Here, where scikit-learn is needed at all.
        from pipelines.training import build, training_set  # noqa: PLC0415
        from serving.admission import bootstrap  # noqa: PLC0415
        from serving.signer import Signer  # noqa: PLC0415

        case, settings = self._case, self.settings
        since_ms, until_ms = case.at_ms(-self._history_rows), case.at_ms(OUTCOME_AFTER_ROWS)
        rows = training_set(case.name, plan, settings.stores, since_ms, until_ms)
        version = build(rows, Path(settings.serving.models_dir)).version
        signer = Signer.of(settings.serving, settings.admission)
        bootstrap(self._kafka, case.name, version, event_time_ms=case.start_ms, signer=signer)
        return version

    def advance(self) -> None:
        """Send a chunk, and let the loop come to rest."""
        until = self.sender.sent + CHUNK_ROWS
        judged = self._judged_by(until)
        self.sender.send(until)
        self._await_answers()
        self._crew.until(f"{judged} windows judged", lambda: len(self._windows()) >= judged)
        self._await_orders(sum("retraining ordered" in line.action for line in self._windows()))
        # What closes a window may order a training, which reads the lake.
        if self._judged_by(until + 1) > judged:
            self.await_lake()
        log.info("run.sent", case=self._case.name, rows=self.sender.sent, windows=judged)

    def _await_answers(self) -> None:
        def all_in() -> bool:
            self.follower.look()
            return (
                len(self.follower.answers) >= self.sender.sent
                and len(self.follower.joined) >= self.sender.told
            )

        self._crew.until("all answered and joined", all_in, pause_s=0)

    def await_lake(self) -> None:
        """Until the lake has all that was sent."""
        lake = Lake(self.settings.stores)
        wanted = {"requests": self.sender.sent, "outcomes": self.sender.told}

        def all_in() -> bool:
            return all(
                lake.rows(f"{self._case.name}_{stream}") - self._history_rows >= rows
                for stream, rows in wanted.items()
            )

        self._crew.until("all in the lake", all_in, pause_s=0.05)

    def _await_orders(self, ordered: int) -> None:
        """Until none of the orders waits for anything but traffic, and what was released is in force."""

        def settled() -> bool:
            control = self.follower.look_at_control()
            answered = {c.order_id for c in control.candidates if c.error is not None}
            answered |= {str(v.order_id) for v in control.verdicts}
            # A commit returns some milliseconds before it can be read.
            orders = control.orders
            return len(orders) >= ordered and all(order.event_id in answered for order in orders)

        self._crew.until("every order tried", settled)
        obeyed = (VerdictKind.ADMIT, VerdictKind.PROMOTE, VerdictKind.ROLL_BACK)
        verdicts = self.follower.control.verdicts
        self.await_release(1 + sum(v.verdict in obeyed for v in verdicts))
        for verdict in verdicts[self._verdicts :]:
            log.info(
                "run.verdict", of=verdict.candidate, verdict=verdict.verdict, why=verdict.reason
            )
        self._verdicts = len(verdicts)
        if self.promoted_at is None and any(v.verdict is VerdictKind.PROMOTE for v in verdicts):
            self.promoted_at = self.sender.sent

    def await_release(self, epoch: int) -> None:
        """Until the scorer goes by it."""

        def in_force() -> bool:
            self.follower.look_at_control()
            return int(self._crew.said("scorer").get("epoch", 0)) >= epoch

        self._crew.until(f"epoch {epoch} in force", in_force)

    def _judged_by(self, sent: int) -> int:
        """How many windows have had their time once so many rows were sent."""
        return max(0, (sent - 1 - SINCE_ROWS) // self._case.known.rows)

    def _windows(self) -> list[Line]:
        """Those judged, oldest first."""
        folder = Path(self.settings.monitoring.reports_dir) / self._case.name
        return lines_of(folder)[::-1]

    def _end(self) -> int:
        """How many rows are sent, as things are."""
        rows, quiet = self._case.known.rows, self._case.known.quiet
        if not self._case.known.expected:
            return (quiet + 1 + BENIGN_WINDOWS) * rows + SINCE_ROWS + CHUNK_ROWS
        if self.promoted_at is None:
            return (quiet + WINDOWS_MAX) * rows + 2 * SINCE_ROWS
        whole = -(-self.promoted_at // rows) + WINDOWS_AFTER
        return whole * rows + SINCE_ROWS + CHUNK_ROWS

    def _story(self) -> Story:
        case, control = self._case, self.follower.look_at_control(0.2)
        story = Story(case.stream, self._seed, self.drift_at, rows=self.sender.sent)
        self._tell_windows(story)
        story.alerts = len(control.alerts)
        story.orders = len(control.orders)
        quiet_ms = case.at_ms(self.drift_at)
        found = {a.event_id: a for a in control.alerts}
        story.orders_false = sum(_is_false(order, found, quiet_ms) for order in control.orders)
        story.candidates = sum(c.error is None for c in control.candidates)
        kinds = [v.verdict for v in control.verdicts]
        story.refused, story.promoted = (
            kinds.count(VerdictKind.REFUSE),
            kinds.count(VerdictKind.PROMOTE),
        )
        story.rolled_back = kinds.count(VerdictKind.ROLL_BACK)
        story.said = [f"{v.verdict}: {v.reason}" for v in control.verdicts]
        story.said += [f"failed: {c.error}" for c in control.candidates if c.error]
        story.lost = self.follower.twice + self.sender.sent - len(self.follower.answers)
        since = self.promoted_at
        if since is not None:
            story.promoted_rows = since - self.drift_at
            story.after, story.never = self._worth(since, self.sender.told), self._never(since)
        story.before = self._worth(0, self.drift_at)
        story.between = self._worth(self.drift_at, self.sender.told if since is None else since)
        return story

    def _tell_windows(self, story: Story) -> None:
        case, since = self._case, self.promoted_at
        for line in self._windows():
            end = (line.window_end_ms - case.start_ms) // ROW_MS
            if end <= self.drift_at:
                story.quiet += 1
                story.false += line.kinds
            elif line.kinds and story.found_rows is None:
                story.found_rows, story.found = end - self.drift_at, list(line.kinds)
            if line.kinds and since is not None and end - case.known.rows >= since:
                story.alerts_after += 1

    def _worth(self, since: int, until: int) -> Worth:
        rows = (self.follower.joined.get(f"r{row}") for row in range(since, until))
        mine = [
            (row.score, float(row.late))
            for row in rows
            if row is not None and row.score is not None and row.route == Route.CHAMPION
        ]
        scores, labels = np.array(mine, dtype=np.float64).reshape(-1, 2).T
        return _measured(scores, labels)

    def _never(self, since: int) -> Worth:
        """The rows that the champion has answered since, asked of the first one."""
        from serving.runtime import load  # noqa: PLC0415 - ONNX Runtime

        answered = [
            row
            for row in range(since, self.sender.told)
            if self.follower.joined[f"r{row}"].route == Route.CHAMPION
        ]
        model = load(Path(self.settings.serving.models_dir) / self._case.name / self.first)
        scores = model.predict(self.sender.inputs[answered].astype(np.float32))
        return _measured(
            np.asarray(scores, dtype=np.float64),
            (self.sender.labels[answered] > 0).astype(np.float64),
        )

    def _forget(self) -> None:
        """Make room for the next run."""
        names = list(usecase.load("schemas", self._case.name).TOPICS)
        AdminClient(self._kafka.client_config()).delete_topics([t.name for t in names])
        shutil.rmtree(self._folder, ignore_errors=True)


def _is_false(order: RetrainingOrder, alerts: dict[str, Any], quiet_ms: int) -> bool:
    return bool(alerts[order.alert_id].window_end_ms <= quiet_ms)


def _measured(scores: Floats, labels: Floats) -> Worth:
    found = accuracy(scores, labels)
    return Worth(found.rows, found.auc, found.log_loss)
