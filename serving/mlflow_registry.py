"""The registry for people and their tools: MLflow's tables, made to show what the control log says.

Admission alone writes them, in a thread of its own: nothing that MLflow does holds up a verdict, and what it cannot do now it is
asked again. No file is copied and no server asked; telemetry is off.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import structlog

from serving.catalogue import Alias, Picture
from serving.manifest import ModelRefused
from serving.registry import Registry, UnknownVersion

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from schemas.manifest import Manifest

SQLITE = "sqlite:///"
RETRY_S = 10.0
VERSION_TAG, DIGEST_TAG, STAGE_TAG = "headrace.version", "headrace.digest", "headrace.stage"
ORDER_TAG = "headrace.order_id"
# What MLflow takes of a parameter.
_PARAM_CHARS_MAX = 500
_ERROR_CHARS_MAX = 200

log = structlog.get_logger()


class MlflowRegistry:
    """MLflow's tables at `uri`; the first call imports MLflow and, where there are none, makes them: some ten seconds.

    Every call may be made again, and mends what a crash left half done.
    """

    def __init__(self, uri: str, registry: Registry) -> None:
        self._uri, self._registry = uri, registry
        self._client: MlflowClient | None = None

    def show(self, picture: Picture) -> int:
        """Make the tables show `picture`; returns how many versions they hold then.

        A version whose folder is gone is left as it is, or out.
        """
        client = self._connected()
        model = picture.model
        if not client.search_registered_models(filter_string=f"name = '{model}'"):
            client.create_registered_model(model)
        for version, stage in picture.stages.items():
            number = self._registered(client, model, version, picture.gate.get(version, {}))
            if number is not None:
                found = client.get_model_version(model, number)
                if found.tags.get(STAGE_TAG) != stage:
                    client.set_model_version_tag(model, number, STAGE_TAG, stage)
        self._alias(client, picture)
        return len(client.search_model_versions(f"name = '{model}'"))

    @property
    def lost(self) -> bool:
        """Whether the file that is written to is gone. MLflow goes on writing to what it has open, and nobody will read that."""
        return self._client is not None and not self._there

    @property
    def _there(self) -> bool:
        return not self._uri.startswith(SQLITE) or Path(self._uri.removeprefix(SQLITE)).exists()

    def rows(self, model: str) -> list[dict[str, Any]]:
        """What the tables show of a model, the oldest version first; without making any."""
        if not self._there:
            return []
        client = self._connected()
        [*known] = client.search_registered_models(filter_string=f"name = '{model}'")
        aliases: dict[int, list[str]] = {}
        for one in known:
            for alias, number in client.get_registered_model(one.name).aliases.items():
                aliases.setdefault(int(number), []).append(alias)
        found = client.search_model_versions(f"name = '{model}'")
        return [
            {
                "model": model,
                "version": one.tags.get(VERSION_TAG),
                "number": int(one.version),
                "stage": one.tags.get(STAGE_TAG),
                "aliases": sorted(aliases.get(int(one.version), [])),
                "digest": one.tags.get(DIGEST_TAG),
                "run_id": one.run_id,
            }
            for one in sorted(found, key=lambda one: str(one.tags.get(VERSION_TAG)))
        ]

    def _connected(self) -> MlflowClient:
        if self._client is None:
            # Read when it is imported.
            os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"
            from mlflow.tracking import MlflowClient  # noqa: PLC0415 - takes six seconds

            if self._uri.startswith(SQLITE):
                Path(self._uri.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
            self._client = MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
        return self._client

    def _registered(
        self, client: MlflowClient, model: str, version: str, gate: Mapping[str, float]
    ) -> str | None:
        """MLflow's number of the version, which is registered where it was not; None where its folder is gone."""
        found = client.search_model_versions(
            f"name = '{model}' and tags.`{VERSION_TAG}` = '{version}'"
        )
        try:
            digest = self._registry.digest(model, version)
            said = self._registry.manifest(model, version)
        except (UnknownVersion, ModelRefused, OSError) as error:
            log.warning("registry.no_folder", model=model, version=version, error=str(error))
            return str(found[0].version) if found else None
        if found:
            if found[0].tags.get(DIGEST_TAG) != digest:
                # What was admitted stays on record; replicas refuse the folder by its signature.
                log.warning("registry.folder_changed", model=model, version=version, digest=digest)
            return str(found[0].version)
        made = client.create_model_version(
            model,
            source=str(self._registry.path(model, version)),
            run_id=self._run(client, said, digest, gate),
            tags={VERSION_TAG: version, DIGEST_TAG: digest},
            await_creation_for=0,
        )
        return str(made.version)

    def _run(
        self, client: MlflowClient, said: Manifest, digest: str, gate: Mapping[str, float]
    ) -> str:
        """The run that stands for the training: found by its digest where a crash came before its version."""
        from mlflow.entities import Metric, Param  # noqa: PLC0415 - as above

        experiment = self._experiment(client, said.model)
        past = client.search_runs([experiment], f"tags.`{DIGEST_TAG}` = '{digest}'")
        if past:
            run_id = str(past[0].info.run_id)
        else:
            tags = {VERSION_TAG: said.version, DIGEST_TAG: digest}
            if said.order_id:
                tags[ORDER_TAG] = said.order_id
            made = client.create_run(experiment, said.created_ms, tags, run_name=said.version)
            run_id = str(made.info.run_id)
        measured = {**said.metrics, **{f"gate_{name}": value for name, value in gate.items()}}
        client.log_batch(
            run_id,
            metrics=[Metric(name, value, said.created_ms, 0) for name, value in measured.items()],
            params=[Param(name, text) for name, text in _parameters(said).items()],
        )
        client.set_terminated(run_id, end_time=said.created_ms)
        return run_id

    def _experiment(self, client: MlflowClient, model: str) -> str:
        """Its artifacts are the version folders; MLflow would make an `mlruns` folder where the process runs."""
        found = client.get_experiment_by_name(model)
        if found is not None:
            return str(found.experiment_id)
        where = (self._registry.models_dir / model).absolute().as_uri()
        return str(client.create_experiment(model, artifact_location=where))

    def _alias(self, client: MlflowClient, picture: Picture) -> None:
        held = {
            alias: str(v) for alias, v in client.get_registered_model(picture.model).aliases.items()
        }
        for alias in Alias:
            version = picture.aliases.get(alias)
            [*found] = (
                client.search_model_versions(
                    f"name = '{picture.model}' and tags.`{VERSION_TAG}` = '{version}'"
                )
                if version
                else []
            )
            if found:
                if held.get(alias) != str(found[0].version):
                    client.set_registered_model_alias(picture.model, alias, str(found[0].version))
            elif alias in held:
                client.delete_registered_model_alias(picture.model, alias)


def _parameters(said: Manifest) -> dict[str, str]:
    own = {
        "estimator": said.estimator,
        "precision": said.precision,
        "service": said.service,
        "threshold": said.threshold,
        "seed": said.seed,
        "trained_rows": said.trained.rows,
        "trained_since_ms": said.trained.since_ms,
        "trained_until_ms": said.trained.until_ms,
        "code": said.code,
        "lock": said.lock,
    }
    snapshots = {f"snapshot.{table}": value for table, value in said.snapshots.items()}
    fitted = {f"fit.{name}": value for name, value in said.parameters.items()}
    return {k: str(v)[:_PARAM_CHARS_MAX] for k, v in {**own, **snapshots, **fitted}.items()}


class Showing:
    """The thread that keeps the tables as the newest picture wants them. Only the newest counts."""

    def __init__(self, mlflow: MlflowRegistry) -> None:
        self._mlflow = mlflow
        self._wanted: Picture | None = None
        self._shown: Picture | None = None
        self._woken, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="registry", daemon=True)
        self.versions = 0
        self.failed = ""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._woken.set()
        self._thread.join(RETRY_S)

    @property
    def behind(self) -> bool:
        """Whether the tables do not show yet what they should."""
        return self._wanted != self._shown

    def want(self, picture: Picture | None) -> None:
        """Show this from now on."""
        if picture != self._wanted:
            self._wanted = picture
            self._woken.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._woken.wait(RETRY_S)
            self._woken.clear()
            picture = self._wanted
            if self._mlflow.lost:
                self._shown = None
                self._fail("its file is gone; admission fills a new one when it starts anew")
                continue
            if self._stop.is_set() or picture is None or picture == self._shown:
                continue
            try:
                self.versions = self._mlflow.show(picture)
            except Exception as error:  # noqa: BLE001 - MLflow's and SQLAlchemy's share no base
                self._fail(str(error)[:_ERROR_CHARS_MAX])
            else:
                self._shown, self.failed = picture, ""

    def _fail(self, why: str) -> None:
        if not self.failed:
            log.warning("registry.behind", error=why)
        self.failed = why
