"""`headrace status`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from infra.settings import Settings
    from pipelines.job_health import JobHealth

app = typer.Typer()

_COLOURS = {"ready": "green", "starting": "yellow", "waiting": "dim", "backoff": "red"}
# Of a job's health, what is worth a word only where there was any.
_TROUBLES = {
    "restarts": "restarts",
    "checkpoints_failed": "checkpoints failed",
    "late_events": "late",
    "too_late_events": "too late",
}
# Of what the intake reports, the part that is told beside a view's job.
_LATENESS = {"late_events": "late", "too_late_events": "too_late"}
# Of a worker's report the first are told, and of the others these; what ends in `_error`, and what is behind, only where it is.
FIRST_TOLD = 4
_ALWAYS_TOLD = frozenset({"waiting", "evicted"})
BEHIND = "registry_behind"
KIB = 1024


@app.command("status")
def status(*, as_json: bool = typer.Option(False, "--json", help="As JSON.")) -> None:
    """Engines, workers, ports, Flink jobs. Exit code 1 when something is not healthy."""
    import json

    from rich.console import Console

    from infra.local import stack
    from infra.settings import Settings

    settings = Settings.load()
    state = stack.status(settings)
    report = summary(settings, state)
    if as_json:
        typer.echo(json.dumps(report, indent=1))
    elif state is None:
        typer.echo(f"nothing runs on {settings.data}; start it with `headrace up`")
    else:
        console = Console()
        console.print(table(state))
        for job in report["flink_jobs"]:
            console.print(job_line(job), highlight=False, markup=False)
        console.print(addresses(settings))
    raise typer.Exit(0 if report["healthy"] else 1)


def summary(settings: Settings, state: Mapping[str, Any] | None) -> dict[str, Any]:
    """What `--json` prints: `healthy`, `services`, `flink_jobs`, `endpoints`, `data_dir`."""
    services = dict(state["services"]) if state else {}
    intake = (services.get("intake") or {}).get("report") or {}
    jobs = flink_jobs(settings, intake) if state else []
    answers = all(row["phase"] == "ready" and row["answers"] for row in services.values())
    return {
        "healthy": bool(services) and answers and all(job["state"] == "RUNNING" for job in jobs),
        "data_dir": settings.data_dir,
        "supervisor_pid": state["supervisor_pid"] if state else None,
        "endpoints": endpoints(settings),
        "services": services,
        "flink_jobs": jobs,
    }


def flink_jobs(settings: Settings, intake: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every job that Flink still runs or retries, and how it is doing; empty where it does not answer.

    Late events are counted by the intake, before the job: `late_events` and, of those, `too_late_events` are None where it
    has not said.
    """
    import msgspec

    from pipelines.job_health import job_health

    return [
        msgspec.structs.asdict(_with_lag(settings, job))
        | {field: intake.get(f"{count}.{job.view}") for field, count in _LATENESS.items()}
        for job in job_health(settings.flink)
    ]


def _with_lag(settings: Settings, job: JobHealth) -> JobHealth:
    """The job with its lag by committed offsets, where Flink has not told it."""
    import msgspec

    from features import plan_files
    from pipelines.job_lag import committed_lag_events

    views = {view.name: view for view in plan_files.applied(settings.stores.plan_path).views}
    if job.lag_events is not None or job.view not in views:
        return job
    topic = views[job.view].topic
    lag_events = committed_lag_events(settings.kafka, job.group, topic)
    return msgspec.structs.replace(job, lag_events=lag_events)


def job_line(job: Mapping[str, Any]) -> str:
    """A job in a line: state, name, and of its newest checkpoint what is known."""
    words = [f"flink job {job['state']:9} {job['name']}"]
    if job["state_bytes"] is not None:
        words.append(f"state {job['state_bytes'] / KIB:,.0f} KiB")
    if job["checkpoint_age_s"] is not None:
        words.append(f"checkpoint {job['checkpoint_age_s']:.0f} s ago")
    if job["lag_events"] is not None:
        words.append(f"{job['lag_events']:,} events behind")
    words += [f"{job[one]:,} {word}" for one, word in _TROUBLES.items() if job.get(one)]
    return ", ".join(words)


def endpoints(settings: Settings) -> dict[str, str]:
    """Addresses that people and clients use."""
    flink, serving = settings.flink, settings.serving
    return {
        "kafka": settings.kafka.bootstrap_servers,
        "redis": settings.stores.redis_shown,
        "flink": f"http://{flink.rest_address}:{flink.rest_port}",
        "ray": serving.ray_address,
        "ray_dashboard": f"http://127.0.0.1:{serving.dashboard_port}",
    }


def addresses(settings: Settings) -> str:
    """The addresses as lines."""
    return "\n".join(f"{name:14}{address}" for name, address in endpoints(settings).items())


def table(state: Mapping[str, Any]) -> Table:
    """The services as a table: phase, process, restarts, and the last report in a few words."""
    from rich.table import Table

    view = Table(box=None, pad_edge=False)
    for column in ("service", "phase", "pid", "restarts", "last report"):
        view.add_column(column)
    for name, row in state["services"].items():
        phase = row["phase"] if row["answers"] else "silent"
        colour = _COLOURS.get(phase, "red")
        pid = str(row["pid"] or "")
        view.add_row(name, f"[{colour}]{phase}[/]", pid, str(row["restarts"] or ""), _words(row))
    return view


def _words(row: Mapping[str, Any]) -> str:
    report = dict(row.get("report") or {})
    reported_ms = report.pop("reported_ms", None)
    if row["phase"] == "backoff":
        return str(row["error"]).partition("\n")[0]
    if reported_ms is None:
        return ""
    age_s = max(0.0, time.time() - reported_ms / 1_000)
    # What is counted by view is told beside the view's job.
    told = [(key, value) for key, value in report.items() if "." not in key]
    rest = [(key, value) for key, value in told[FIRST_TOLD:] if _matters(key, value)]
    words = ", ".join(f"{key} {value}" for key, value in (*told[:FIRST_TOLD], *rest))
    if "refused" in report:
        words += f"; refused: {report['refused']}"
    return f"{words} ({age_s:.0f} s ago)"


def _matters(key: str, value: object) -> bool:
    return key in _ALWAYS_TOLD or bool(value and (key.endswith("_error") or key == BEHIND))
