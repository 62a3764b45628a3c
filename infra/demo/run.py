"""The demo, from an empty folder to a summary: history, champion, replay, audit.

Everything runs in a data folder of its own, `.headrace/demo/stack`, emptied first: the replay's request ids are those
of 2013, and a second replay over the first would only find them answered already.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.views import Plan
from infra.demo import history, lake_history
from infra.demo.answers import Answers
from infra.demo.audit import Audit
from infra.demo.barrier import Barrier
from infra.demo.chaos import Chaos
from infra.demo.live import LiveView
from infra.demo.malformed import malformed
from infra.demo.replayer import Replayer
from infra.demo.settling import settle
from infra.demo.slices import Sent, cut
from infra.local import stack
from infra.settings import Settings
from schemas.envelope import headers

if TYPE_CHECKING:
    from rich.console import Console

    from schemas.events import Event

CASE = "flights"
SOURCE = "headrace-demo"
# Windows reach back a day at most, so two days of events fill those of the first request.
WARM_UP = timedelta(days=2)
CHAMPION_TRAINED = (date(2013, 1, 1), date(2013, 2, 1))
SEED = 2013
# Recomputing what was served takes a second a day.
PARITY_DAYS = timedelta(days=30)

Json = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """What a demo is asked for.

    Attributes:
        since, until: The days replayed; everything of 2013 before them is history.
        slice_s: The most event time between the first request of a slice and its last.
        chaos: Kill a replica and each worker of the loop, at moments drawn from `seed`.
        year: Also tell what the loop was worth; parity is then of the newest `PARITY_DAYS` only.
    """

    since: date = date(2013, 6, 1)
    until: date = date(2013, 8, 1)
    slice_s: int = 600
    chaos: bool = False
    seed: int = SEED
    year: bool = False


# In slices of half an hour the year takes 27 minutes; a request misses at most a slice of what came before it.
YEAR = Options(since=date(2013, 2, 1), until=date(2014, 1, 1), slice_s=1_800, year=True)


@dataclass
class Stopwatch:
    """Seconds by phase, each announced as it begins."""

    console: Console
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def phase(self, name: str, words: str) -> Iterator[None]:
        """Time a phase; a phase that fails is timed as well."""
        self.console.print(f"[bold]{words}[/bold]", highlight=False)
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - began, 1)
            self.console.print(f"  [dim]{self.seconds[name]:.0f} s[/dim]", highlight=False)


def demo_settings(settings: Settings) -> Settings:
    """The same settings over the demo's own data folder; reports stay where people look for them."""
    data = settings.data
    own = Settings.load(data_dir=str(data / "demo" / "stack"), jars=settings.jars)
    stores = own.stores.model_copy(update={"clock": "stream"})
    monitoring = own.monitoring.model_copy(update={"reports_dir": str(data / "reports")})
    return own.model_copy(update={"case": CASE, "stores": stores, "monitoring": monitoring})


def run(settings: Settings, options: Options, console: Console, *, keep: bool = False) -> Json:
    """Run the demo; returns the summary, which is also written to `.headrace/demo/summary.json`.

    Whatever happens, Ctrl-C included, nothing is left running, unless `keep` and all went well.
    """
    own = demo_settings(settings)
    watch = Stopwatch(console)
    began = time.monotonic()
    stack.down(own)
    for folder in (own.data, Path(own.monitoring.reports_dir)):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        with watch.phase("up", "Starting Kafka, Redis, Flink, Ray and the workers"):
            own = stack.up(own, _phases(console))
        summary = _play(own, options, watch)
    except BaseException:
        keep = False
        raise
    finally:
        if not keep:
            with watch.phase("down", "Stopping everything"):
                stack.down(own)
    summary["seconds"] = {**watch.seconds, "total": round(time.monotonic() - began, 1)}
    path = settings.data / "demo" / "summary.json"
    path.write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def _play(settings: Settings, options: Options, watch: Stopwatch) -> Json:
    with watch.phase("history", f"Loading 2013 up to {options.since} into the lake"):
        lake_history.write_history(
            settings.stores, history.YEAR_START, options.since, streamed=WARM_UP
        )
    plan = Plan.load(settings.stores.plan_path)
    with watch.phase("champion", "Training the champion on January"):
        _train_champion(settings, plan, options, watch.console)
    barrier = Barrier(settings.stores)
    with Answers(settings.kafka, CASE) as answers:
        replayer = Replayer(
            settings.kafka, barrier, answers, busy=lambda: answers.open_order is not None
        )
        with watch.phase("warm_up", "Filling the windows with the two days before"):
            replayer.warm_up(list(_events(options.since - WARM_UP, options.since)))
        with watch.phase("replay", f"Replaying {options.since} to {options.until}"):
            killed = _replay(settings, replayer, answers, options, watch.console)
        with watch.phase("settle", "Waiting for the lake and the loop"):
            settle(settings, answers)
        with (
            watch.phase("audit", "Counting from the topics and the lake"),
            _worth(settings, options) as worth,
        ):
            audit = Audit(settings.kafka, CASE, settings.serving.models_dir)
            summary = _audit(settings, audit, replayer, answers, options) | worth()
    barrier.close()
    summary["chaos"] = {"seed": options.seed, "killed": killed}
    return summary


def _train_champion(settings: Settings, plan: Plan, options: Options, console: Console) -> None:
    from pipelines.training import build, training_set  # noqa: PLC0415 - scikit-learn
    from serving.admission import bootstrap  # noqa: PLC0415
    from serving.signer import Signer  # noqa: PLC0415

    since_ms, until_ms = (history.midnight_ms(day) for day in CHAMPION_TRAINED)
    training = training_set(CASE, plan, settings.stores, since_ms, until_ms)
    models = Path(settings.serving.models_dir)
    manifest = build(training, models, progress=lambda line: console.print(f"  {line}"))
    released_ms = history.midnight_ms(options.since)
    signer = Signer.of(settings.serving, settings.admission)
    bootstrap(settings.kafka, CASE, manifest.version, event_time_ms=released_ms, signer=signer)


def _replay(
    settings: Settings,
    replayer: Replayer,
    answers: Answers,
    options: Options,
    console: Console,
) -> list[str]:
    timeline = history.load(options.since, options.until)
    events = list(_events(options.since, options.until, timeline))
    requests = [_sent("requests", event) for event in timeline.events("requests")]
    events, requests = _with_malformed(events, requests, options.seed)
    slices = list(cut(events, requests, options.slice_s))
    state = stack.status(settings) or {}
    chaos = Chaos(options.seed, len(slices), int(state["supervisor_pid"]), wanted=options.chaos)
    if options.chaos:
        console.print(f"  chaos: seed {options.seed}, kills after slices {chaos.moments}")
    with LiveView(console, replayer.progress, answers, len(requests)) as view:

        def between() -> None:
            chaos.after_slice()
            view.update()

        replayer.replay(slices, between, chaos.while_held)
    return [f"{kill.victim} (pid {kill.pid})" for kill in chaos.killed]


def _events(since: date, until: date, timeline: history.Timeline | None = None) -> Iterator[Sent]:
    loaded = timeline or history.load(since, until)
    streams = ("departures", "weather", "outcomes") if timeline else ("departures", "weather")
    sent = [_sent(stream, event) for stream in streams for event in loaded.events(stream)]
    yield from sorted(sent, key=lambda s: s.time_ms)


def _sent(stream: str, event: Event) -> Sent:
    return Sent(
        topic=f"{CASE}.{stream}",
        time_ms=event.event_time_ms,
        id=event.id,
        key=event.key.encode(),
        value=event.encode(),
        headers=headers(event, source=SOURCE),
        fields=event.model_dump(),
    )


def _with_malformed(
    events: list[Sent], requests: list[Sent], seed: int
) -> tuple[list[Sent], list[Sent]]:
    """Mix malformed records in, among events and among requests as chance will have it."""
    spoilt = malformed([*events, *requests], random.Random(seed).randrange(2**32))
    asked = [s for s in spoilt if s.topic.endswith(".requests")]
    told = [s for s in spoilt if not s.topic.endswith(".requests")]

    def merged(good: list[Sent], bad: list[Sent]) -> list[Sent]:
        return sorted([*good, *bad], key=lambda s: s.time_ms)

    return merged(events, told), merged(requests, asked)


@contextlib.contextmanager
def _worth(settings: Settings, options: Options) -> Iterator[Callable[[], Json]]:
    """What the loop was worth, worked out meanwhile; nothing where nobody asked."""
    if not options.year:
        yield dict
        return
    from infra.demo import year  # noqa: PLC0415 - scikit-learn

    with year.asked_meanwhile(stack.settings_file(settings)) as answer:
        yield lambda: {"year": answer()}


def _audit(
    settings: Settings, audit: Audit, replayer: Replayer, answers: Answers, options: Options
) -> Json:
    from infra.demo.lake_audit import lake_rows, parity  # noqa: PLC0415 - DuckDB, PyIceberg

    # Of now: a new version of a view may have taken over meanwhile.
    plan = Plan.load(settings.stores.plan_path)
    progress = replayer.progress
    verdicts = audit.verdicts()
    compared_since_ms = history.midnight_ms(options.until - PARITY_DAYS) if options.year else None
    return {
        **audit.counts(),
        "latency_ms": audit.latency_ms(progress.sent_at, answers.arrivals),
        "readable_after_ms": _mean_ms(progress.barrier_s),
        "parity": parity(settings.stores, plan, CASE, compared_since_ms),
        "drift": audit.drift(),
        "retrainings": len(audit.retrainings()),
        "retraining": audit.retrainings(),
        "gate": [v for v in verdicts if v["verdict"] in ("admit", "refuse")],
        "guard": [v for v in verdicts if v["verdict"] in ("promote", "roll_back")],
        "releases": audit.releases(),
        "contradictions": audit.contradictions(),
        "auc": audit.auc(),
        "lake": lake_rows(settings.stores, CASE),
        "replay": {
            "slices": progress.slices,
            "held_s": round(progress.held_s, 1),
            "times_life": _times_life(progress.clock_ms, replayer),
        },
    }


def _times_life(clock_ms: int, replayer: Replayer) -> int:
    progress = replayer.progress
    return round((clock_ms - progress.began_ms) / 1000 / max(progress.replay_s, 1e-9))


def _mean_ms(seconds: list[float]) -> float:
    return round(1000 * sum(seconds) / max(len(seconds), 1), 1)


def _phases(console: Console) -> Callable[[Any], None]:
    told: dict[str, str] = {}

    def tell(state: Any) -> None:  # noqa: ANN401 - the supervisor's state is JSON
        for name, row in state["services"].items():
            if told.get(name) != row["phase"] and row["phase"] in ("ready", "backoff"):
                console.print(f"  {name} {row['phase']}", highlight=False)
            told[name] = row["phase"]

    return tell
