"""Feature jobs on the Flink session cluster: submitted, listed, cancelled.

Listing and cancelling speak Flink's REST interface
(https://nightlies.apache.org/flink/flink-docs-release-2.2/docs/ops/rest_api/). Submitting needs PyFlink and thereby a
JVM that takes eight seconds to start and does not end before its process: so all jobs are submitted by one child
process (`python -m pipelines.flink_jobs`), which reads them from its standard input, since they may hold credentials.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

import httpx
import msgspec

from pipelines import distinct_function
from pipelines.flink_sql import Job, job_prefix, view_prefix
from pipelines.recovery import RESTORED_FROM, Recovery
from pipelines.settings import FlinkSettings
from schemas.errors import HeadraceError

ALIVE = frozenset({"INITIALIZING", "CREATED", "RUNNING", "RESTARTING", "RECONCILING", "FAILING"})
CANCEL_TIMEOUT_S = 30.0
# 8 s for the JVM and 2–3 s a view, three times over for a machine that starts everything else meanwhile.
SUBMIT_TIMEOUT_S = 240.0
ERROR_CHARS_MAX = 1_500
# What the lines of the child begin with that are for whoever waits.
CANNOT_RESTORE = "cannot restore "
TOLD = ("submitted ", CANNOT_RESTORE)
PROJECT = Path(__file__).parents[1]

Progress = Callable[[str], None]


class FlinkUnavailable(HeadraceError):
    """The session cluster did not answer, or refused."""


class SubmissionFailed(HeadraceError):
    """Flink did not accept a view's job."""


class TooFewSlots(HeadraceError):
    """The session cluster has no room for one more job."""


class RunningJob(msgspec.Struct, frozen=True):
    """A job of the cluster, as its overview tells."""

    jid: str
    name: str
    state: str


class FlinkJobs:
    """The jobs of one session cluster, over REST. A context manager."""

    def __init__(self, flink: FlinkSettings) -> None:
        self._where = f"Flink at {flink.rest_address}:{flink.rest_port}"
        self._http = httpx.Client(
            base_url=f"http://{flink.rest_address}:{flink.rest_port}",
            timeout=10.0,
            # A proxy of the environment has no business between a cluster and its tools.
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def alive(self) -> list[RunningJob]:
        """Jobs that run or are about to.

        Raises:
            FlinkUnavailable: No answer, or an answer that says no.
        """
        answer = self._asked("GET", "/jobs/overview")
        overview = msgspec.json.decode(answer.content, type=dict[str, list[RunningJob]])
        return [job for job in overview["jobs"] if job.state in ALIVE]

    def of_view(self, view: str) -> list[RunningJob]:
        """The live jobs of a view, whatever its version."""
        return [job for job in self.alive() if job.name.startswith(view_prefix(view))]

    def slots_free(self) -> int:
        """Task slots that no job holds; a job beyond them would wait for ever."""
        overview = msgspec.json.decode(self._asked("GET", "/overview").content)
        return int(overview["slots-available"])

    def recovery(self) -> Recovery | None:
        """Where jobs leave their state; None where that is not on this machine."""
        answer = self._asked("GET", "/jobmanager/config")
        settings = msgspec.json.decode(answer.content, type=list[dict[str, str]])
        held = {one["key"]: one["value"] for one in settings}
        return Recovery.of(held.get("execution.checkpointing.dir"))

    def cancel(self, jobs: Iterable[RunningJob]) -> None:
        """Cancel and wait until they are gone; those already gone are no error."""
        ids = {job.jid for job in jobs}
        for jid in ids:
            self._asked("PATCH", f"/jobs/{jid}?mode=cancel", also_ok=(404, 409))
        deadline = time.monotonic() + CANCEL_TIMEOUT_S
        while left := ids & {job.jid for job in self.alive()}:
            if time.monotonic() > deadline:
                raise FlinkUnavailable(
                    self._where,
                    wanted=f"jobs {', '.join(sorted(left))} cancelled within {CANCEL_TIMEOUT_S} s",
                    came="they still run",
                    mend="Look at the cluster's page, and cancel them there.",
                )
            time.sleep(0.1)

    def _asked(self, method: str, path: str, also_ok: tuple[int, ...] = ()) -> httpx.Response:
        try:
            answer = self._http.request(method, path)
            if answer.status_code not in also_ok:
                answer.raise_for_status()
        except httpx.HTTPError as error:
            raise FlinkUnavailable(
                self._where,
                wanted=f"an answer to {method} {path}",
                came=f"{type(error).__name__}: {error}",
                mend="Is the session cluster up (`headrace status`)?",
            ) from error
        return answer


class Order(msgspec.Struct, frozen=True):
    """What the child process is told."""

    rest_address: str
    rest_port: int
    connector_jar: str
    jobs: tuple[Job, ...]
    # More of Flink's configuration, by the job's name.
    options: Mapping[str, Mapping[str, str]] = {}


def submit(
    jobs: Sequence[Job],
    flink: FlinkSettings,
    progress: Progress = lambda _: None,
    *,
    lasting: bool = False,
    fresh: Collection[str] = (),
) -> list[Job]:
    """Make the cluster run exactly these definitions of their views.

    A view whose job runs with the same fingerprint is left alone, another definition of it is cancelled first.

    Args:
        jobs: The definitions.
        flink: The cluster.
        progress: Told what happens.
        lasting: Jobs leave their state when they end, and start from the state that they left. One whose state cannot be
            read starts from the beginning of its topic, as all do without this.
        fresh: Views that start from the beginning nevertheless.

    Returns:
        Those that were submitted.

    Raises:
        FlinkUnavailable: The cluster does not answer.
        SubmissionFailed: Flink refused a job, or took longer than `SUBMIT_TIMEOUT_S`.
    """
    with FlinkJobs(flink) as cluster:
        alive = cluster.alive()
        missing = [job for job in jobs if job.name not in {running.name for running in alive}]
        prefixes = tuple(job_prefix(job.view) for job in missing)
        outdated = [running for running in alive if running.name.startswith(prefixes)]
        if missing and outdated:
            progress(f"cancelling {len(outdated)} outdated feature jobs")
            cluster.cancel(outdated)
        recovery = cluster.recovery() if missing and lasting else None
    options: dict[str, Mapping[str, str]] = {}
    if recovery:
        recovery.forget([job for job in missing if job.view in fresh])
        for job in missing:
            recovery.prune(job)
            options[job.name] = recovery.options(job)
    if missing:
        _submit_in_child(missing, options, flink, progress)
    return missing


def _submit_in_child(
    jobs: Sequence[Job],
    options: Mapping[str, Mapping[str, str]],
    flink: FlinkSettings,
    progress: Progress,
) -> None:
    order = Order(
        flink.rest_address,
        flink.rest_port,
        str(Path(flink.connector_jar).absolute()),
        tuple(jobs),
        options,
    )
    child = subprocess.Popen(
        [sys.executable, "-m", "pipelines.flink_jobs"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=PROJECT,
        env=_environment(),
        text=True,
    )
    said, code = _converse(child, msgspec.json.encode(order).decode(), progress)
    if code != 0:
        raise SubmissionFailed(
            f"submitting {', '.join(job.view for job in jobs)}",
            wanted="Flink to accept the jobs",
            came=f"it said: {said[-ERROR_CHARS_MAX:]}",
            mend="Has the cluster free task slots, and does the connector's jar exist?",
        )


def _converse(child: subprocess.Popen[str], order: str, progress: Progress) -> tuple[str, int]:
    if child.stdin is None or child.stdout is None:
        raise ValueError("the child was started without pipes")
    deadline = time.monotonic() + SUBMIT_TIMEOUT_S
    said: list[str] = []
    try:
        child.stdin.write(order)
        child.stdin.close()
        for line in child.stdout:
            if line.startswith(TOLD):
                progress(line.strip())
            else:
                said.append(line)
            if time.monotonic() > deadline:
                said.append(f"nothing for {SUBMIT_TIMEOUT_S} s\n")
                break
        return "".join(said).strip(), child.wait(max(1.0, deadline - time.monotonic()))
    except (subprocess.TimeoutExpired, BrokenPipeError) as error:
        return "".join([*said, str(error)]), 1
    finally:
        child.kill()
        child.wait()


def _environment() -> Mapping[str, str]:
    return os.environ | {
        # Without Beam, PyFlink's own mode of running Python workers fails at the start, although nothing here needs one.
        "_python_worker_execution_mode": "process",
        # The planner runs for seconds only: without the second compiler five views take 13 s instead of 20.
        "JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        "PYTHONUNBUFFERED": "1",
    }


def main() -> None:
    """The child process: submit every job of the order, detached."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    for job in order.jobs:
        options = order.options.get(job.name, {})
        jid = _restore(order, job, options) if RESTORED_FROM in options else None
        how = ", from its checkpoint" if jid else ""
        jid = jid or _execute(order, job, {k: v for k, v in options.items() if k != RESTORED_FROM})
        sys.stdout.write(f"submitted {job.name} as {jid}{how}\n")


def _restore(order: Order, job: Job, options: Mapping[str, str]) -> str | None:
    """The job's id, or None where Flink cannot read or use the state: a job must not stand still over it."""
    from py4j.protocol import Py4JJavaError  # noqa: PLC0415 - the child alone pays for it
    from pyflink.util.exceptions import JavaException  # noqa: PLC0415

    try:
        return _execute(order, job, options)
    except (Py4JJavaError, JavaException) as error:
        # The last cause of a Java stack trace is the first one in time.
        causes = [line for line in str(error).splitlines() if line.startswith("Caused by: ")]
        reason = causes[-1] if causes else str(error).partition("\n")[0]
        sys.stdout.write(f"{CANNOT_RESTORE}{job.name}, starts from the beginning: {reason}\n")
        return None


def _execute(order: Order, job: Job, more: Mapping[str, str]) -> str:
    from pyflink.common import Configuration  # noqa: PLC0415 - the child alone pays for it
    from pyflink.table import EnvironmentSettings, TableEnvironment  # noqa: PLC0415

    configuration = Configuration()
    options = {
        **job.options,
        **more,
        "pipeline.name": job.name,
        "pipeline.jars": ";".join(
            f"file://{jar}" for jar in distinct_function.jars(Path(order.connector_jar), job.tables)
        ),
        "execution.target": "remote",
        "execution.attached": "false",
        "rest.address": order.rest_address,
        "rest.port": str(order.rest_port),
    }
    for key, value in options.items():
        configuration.set_string(key, value)
    mode = EnvironmentSettings.new_instance().in_streaming_mode()
    environment = TableEnvironment.create(mode.with_configuration(configuration).build())
    for statement in job.tables:
        environment.execute_sql(statement)
    statements = environment.create_statement_set()
    for statement in job.inserts:
        statements.add_insert_sql(statement)
    client = statements.execute().get_job_client()
    return str(client.get_job_id())


if __name__ == "__main__":
    main()
