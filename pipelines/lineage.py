"""OpenLineage events: what a training read and made, what a feature job reads and writes.

They go to `<lineage_dir>/events.jsonl`, one a line, and to `lineage_url` where one is set; nowhere else, whatever an
`openlineage.yml` or the environment says. Lineage is told, not relied on: where it cannot be written the work goes on.
https://openlineage.io/docs/spec/object-model
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid4, uuid5

import structlog

if TYPE_CHECKING:
    from openlineage.client.event_v2 import RunEvent
    from openlineage.client.transport import Transport

    from features.settings import StoreSettings
    from features.views import View
    from pipelines.flink_sql import Job
    from schemas.manifest import Manifest
    from schemas.settings import KafkaSettings

NAMESPACE = "headrace"
PRODUCER = "urn:headrace"
FILE = "events.jsonl"
HTTP_TIMEOUT_S = 5.0

log = structlog.get_logger()


class Lineage:
    """Where events go, as the stores' settings say; to nobody where they name neither folder nor address."""

    def __init__(self, stores: StoreSettings) -> None:
        self._folder, self._url = stores.lineage_dir, stores.lineage_url

    def emit(self, event: RunEvent) -> None:
        """Tell; what goes wrong is logged, also where a transport cannot be set up."""
        for made in (self._to_file, self._to_url):
            try:
                if (transport := made()) is not None:
                    transport.emit(event)
            except Exception as error:  # noqa: BLE001 - a transport may raise anything of its own
                log.warning("lineage", to=made.__name__, error=str(error))

    @property
    def wanted(self) -> bool:
        """Whether anybody is told; the client takes a second to import."""
        return bool(self._folder or self._url)

    def _to_file(self) -> Transport | None:
        if not self._folder:
            return None
        from openlineage.client.transport.file import FileConfig, FileTransport  # noqa: PLC0415

        Path(self._folder).mkdir(parents=True, exist_ok=True)
        path = str(Path(self._folder) / FILE)
        return FileTransport(FileConfig(log_file_path=path, append=True))

    def _to_url(self) -> Transport | None:
        if not self._url:
            return None
        from openlineage.client.transport.http import HttpConfig, HttpTransport  # noqa: PLC0415

        # Nobody waits for a collector that is away: the file has it.
        given = {"url": self._url, "timeout": HTTP_TIMEOUT_S, "retry": {"total": 1}}
        return HttpTransport(HttpConfig.from_dict(given))


class TrainingRun:
    """One training: began with the snapshots that it read, ended with a version or a reason.

    All attempts at an order are one run: one that was killed is ended by the next, and by whoever sees it die. Of a training by
    hand, those who tell of it must agree on a `run_id`.
    """

    def __init__(
        self, stores: StoreSettings, case: str, order_id: str | None, run_id: str | None = None
    ) -> None:
        self._lineage = Lineage(stores)
        self._warehouse = stores.warehouse
        self._job = f"{case}.training"
        self._order_id = order_id
        self._run_id = _run_of(f"{self._job}.{order_id}") if order_id else run_id or str(uuid4())
        self._snapshots: Mapping[str, int] = {}

    def begin(self, snapshots: Mapping[str, int]) -> None:
        """It reads these snapshots: lake table → Iceberg's id."""
        self._snapshots = snapshots
        self._tell("START")

    def complete(self, made: Manifest, models_dir: Path) -> None:
        """It made a version."""
        self._tell("COMPLETE", made=made, models_dir=models_dir)

    def fail(self, why: str) -> None:
        """It made none."""
        self._tell("FAIL", why=why)

    def abort(self, why: str) -> None:
        """It was not let go on."""
        self._tell("ABORT", why=why)

    def _tell(
        self,
        kind: str,
        *,
        made: Manifest | None = None,
        models_dir: Path | None = None,
        why: str = "",
    ) -> None:
        if not self._lineage.wanted:
            return
        inputs = [(self._warehouse, table, str(at)) for table, at in self._snapshots.items()]
        outputs = []
        if made is not None and models_dir is not None:
            outputs.append((f"file://{models_dir.absolute()}", made.model, made.version))
        # A retraining belongs to its order, as a task does to its workflow.
        parent = f"{NAMESPACE}.{self._order_id}" if self._order_id else ""
        self._lineage.emit(
            _event(kind, self._job, self._run_id, inputs, outputs, why=why, parent=parent)
        )


def jobs_started(
    stores: StoreSettings, kafka: KafkaSettings, views: Iterable[View], jobs: Iterable[Job]
) -> None:
    """Each of these views' jobs was submitted: from its topic to that of its tiles."""
    lineage, names = Lineage(stores), {job.view: job.name for job in jobs}
    broker = f"kafka://{kafka.bootstrap_servers.partition(',')[0]}"
    for view in views if lineage.wanted else ():
        name = names[view.versioned]
        read, written = (broker, view.topic, ""), (broker, view.topic_out, "")
        lineage.emit(_event("START", name, _run_of(name), [read], [written], streaming=True))


def jobs_ended(stores: StoreSettings, names: Iterable[str]) -> None:
    """Jobs of these names were cancelled: others have taken over."""
    lineage = Lineage(stores)
    for name in names if lineage.wanted else ():
        lineage.emit(_event("COMPLETE", name, _run_of(name), [], [], streaming=True))


def _run_of(job: str) -> str:
    """A feature job's name holds its definition, a retraining's its order; whenever it is begun again it is the same run, which goes on."""
    return str(uuid5(NAMESPACE_URL, f"{NAMESPACE}/{job}"))


Named = tuple[str, str, str]


def _event(
    kind: str,
    job: str,
    run_id: str,
    inputs: Iterable[Named],
    outputs: Iterable[Named],
    *,
    why: str = "",
    parent: str = "",
    streaming: bool = False,
) -> RunEvent:
    from openlineage.client import event_v2 as spec  # noqa: PLC0415
    from openlineage.client import facet_v2 as facets  # noqa: PLC0415

    def version(at: str) -> dict[str, Any]:
        return (
            {"version": facets.dataset_version_dataset.DatasetVersionDatasetFacet(at)} if at else {}
        )

    about: dict[str, Any] = {}
    if why:
        about["errorMessage"] = facets.error_message_run.ErrorMessageRunFacet(why, "python")
    if parent:
        about["parent"] = facets.parent_run.ParentRunFacet(
            run=facets.parent_run.Run(_run_of(parent)),
            job=facets.parent_run.Job(NAMESPACE, parent.removeprefix(f"{NAMESPACE}.")),
        )
    processing = facets.job_type_job.JobTypeJobFacet(
        processingType="STREAMING" if streaming else "BATCH",
        integration="FLINK" if streaming else "HEADRACE",
        jobType="JOB",
    )
    return spec.RunEvent(
        eventTime=datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds"),
        producer=PRODUCER,
        eventType=spec.RunState[kind],
        run=spec.Run(runId=run_id, facets=about),
        job=spec.Job(namespace=NAMESPACE, name=job, facets={"jobType": processing}),
        inputs=[spec.InputDataset(of, name, facets=version(at)) for of, name, at in inputs],
        outputs=[spec.OutputDataset(of, name, facets=version(at)) for of, name, at in outputs],
    )
