"""The worker that keeps the scorer deployed on Ray Serve, and says how it does."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import structlog
from confluent_kafka import Consumer, KafkaException, TopicPartition
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException
from ray.serve.schema import (
    ApplicationStatus,
    DeploymentSchema,
    ServeApplicationSchema,
    ServeDeploySchema,
)

from schemas import topics
from schemas.errors import HeadraceError
from serving.declared import tiers
from serving.replica import DEPLOYMENT, SECRETS
from serving.settings import ServingSettings
from serving.stages import merged
from serving.tiers import gpus_of_replica

if TYPE_CHECKING:
    from ray.serve.schema import ApplicationStatusOverview

    from features.settings import StoreSettings
    from schemas.settings import KafkaSettings
    from schemas.worker import WorkerContext

log = structlog.get_logger()

ROOT = Path(__file__).parents[1]
LOOK_S = 1.0
CALL_TIMEOUT_S = 5.0
# What Serve averages a replica's reports over; it has one every ten seconds.
LOOK_BACK_S = 15.0
POLICY = "serving.scaling:LagPolicy"
# `replicas` is not among what a replica is told: a changed argument restarts every replica, a changed count none.
_NOT_TOLD = {
    *("replicas", "replicas_min", "replicas_max", "ray_address", "dashboard_port", "http_port"),
    *(name for name in ServingSettings.model_fields if name.startswith(("door_", "scale_"))),
}
_SUMMED = (
    *("scored", "fallback", "expired", "dead_lettered", "shadow", "ahead", "unsettled", "stale"),
    *("batches", "transactions_given_up"),
    # Versions loaded, by where they run, and of those the ones that were meant for a GPU and have none.
    *("placed_on_cpu", "placed_on_gpu", "gpu_missing"),
)


class DeploymentFailed(HeadraceError):
    """Ray cannot be reached, or Serve gave up starting replicas."""


def run(
    ctx: WorkerContext, kafka: KafkaSettings, stores: StoreSettings, serving: ServingSettings
) -> None:
    """Deploy the scorer, watch it until `ctx.stop`, and take it down.

    A worker that starts anew finds its application and leaves its replicas alone unless the settings changed.

    Raises:
        DeploymentFailed: Whoever started this worker starts it again.
        GpuMissing: A tier needs a GPU, one is required, and Ray has none.
    """
    app = f"{ctx.case}-scorer"
    _connect(serving)
    try:
        # The proxy would open a port for requests that nobody sends: they come through Kafka.
        serve.start(proxy_location="Disabled")
        _deploy(app, ctx.case, kafka, stores, serving)
        _watch(ctx, app, _Lag(kafka, ctx.case))
        serve.delete(app)
    finally:
        ray.shutdown()


def _connect(serving: ServingSettings) -> None:
    try:
        ray.init(
            address=serving.ray_address,
            namespace="headrace",
            log_to_driver=False,
            logging_level="warning",
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise DeploymentFailed(
            f"Ray at {serving.ray_address}",
            wanted="a running head that lets this driver in",
            came=str(error),
            mend="`headrace status` shows the engine, `headrace logs ray` its output.",
        ) from error


def _deploy(
    app: str,
    case: str,
    kafka: KafkaSettings,
    stores: StoreSettings,
    serving: ServingSettings,
) -> None:
    """Deploy declaratively: Serve compares with what runs and changes only what differs."""
    sections = {"kafka": kafka, "stores": stores, "serving": serving}
    told: dict[str, Any] = {"case": case}
    for name, section in sections.items():
        hidden = {SECRETS[name][0]} if name in SECRETS else set(_NOT_TOLD)
        told[name] = json.loads(section.model_dump_json(exclude=hidden))
    told["serving"]["num_gpus"] = _gpus(case, serving)
    config = ServeDeploySchema(
        proxy_location="Disabled",
        applications=[
            ServeApplicationSchema(
                name=app,
                route_prefix=None,
                import_path="serving.replica:build",
                runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}},
                args=told,
                deployments=[DeploymentSchema(name=DEPLOYMENT, **_count(case, serving))],
            )
        ],
    )
    _get_global_client().deploy_apps(config)


def _gpus(case: str, serving: ServingSettings) -> float:
    """What a replica reserves. A GPU that comes to the cluster later is taken when this worker starts again.

    Raises:
        GpuMissing: One is required, and Ray has none.
    """
    there = float(ray.cluster_resources().get("GPU", 0.0))
    found = gpus_of_replica(tiers(case), serving.num_gpus, serving.gpu, there)
    log.info("deployment.gpus", num_gpus=found, in_cluster=there, gpu=serving.gpu)
    return found


def _count(case: str, serving: ServingSettings) -> dict[str, Any]:
    """How many replicas: a number, or bounds within which they follow the lag."""
    if not serving.replicas_max:
        return {"num_replicas": serving.replicas}
    [requests] = topics.stage(case, "requests")
    high = min(serving.replicas_max, requests.partitions)
    low = min(serving.replicas_min, high)
    bounds = {
        "low": low,
        "high": high,
        "lag_each": serving.scale_lag_each,
        "up": serving.scale_up_by,
        "down": serving.scale_down_by,
    }
    return {
        "autoscaling_config": {
            "min_replicas": low,
            "max_replicas": high,
            "upscale_delay_s": serving.scale_up_after_s,
            "downscale_delay_s": serving.scale_down_after_s,
            "look_back_period_s": LOOK_BACK_S,
            "policy": {"policy_function": POLICY, "policy_kwargs": bounds},
        }
    }


def _watch(ctx: WorkerContext, app: str, lag: _Lag) -> None:
    replicas: dict[int, dict[str, Any]] = {}
    while not ctx.stop.wait(LOOK_S):
        seen = serve.status().applications.get(app)
        if seen is not None and seen.status is ApplicationStatus.DEPLOY_FAILED:
            serve.delete(app)
            raise DeploymentFailed(
                f"Serve application {app}",
                wanted="replicas that start",
                came=seen.message,
                mend="`headrace logs ray` and Ray's dashboard show the replica's output.",
            )
        running = _running(seen)
        live = _ask(app) if running else []
        replicas.update({status["pid"]: status for status in live})
        told = _summary(replicas, running, lag(), str(seen.status.value) if seen else "ABSENT")
        ctx.report({**told, **_refused(live)})


def _running(seen: ApplicationStatusOverview | None) -> int:
    if seen is None or DEPLOYMENT not in seen.deployments:
        return 0
    return int(seen.deployments[DEPLOYMENT].replica_states.get("RUNNING", 0))


def _ask(app: str) -> list[dict[str, Any]]:
    """The counters of every running replica; none where one is just going."""
    handle = serve.get_deployment_handle(DEPLOYMENT, app)
    try:
        return list(handle.broadcast("status").results(timeout_s=CALL_TIMEOUT_S))
    except (ray.exceptions.RayError, RayServeException, TimeoutError, RuntimeError) as error:
        log.info("deployment.status", error=str(error)[:200])
        return []


def _summary(
    replicas: dict[int, dict[str, Any]], running: int, lag: int, status: str
) -> dict[str, float | int | str]:
    """Sums over all replicas ever seen, so that a total does not fall when one is replaced."""
    total: Counter[str] = Counter()
    for counters in replicas.values():
        total.update({name: counters.get(name, 0) for name in _SUMMED})
    epoch = max((counters["epoch"] for counters in replicas.values()), default=0)
    stages = json.dumps(merged(counters.get("stages", {}) for counters in replicas.values()))
    told = {"status": status, "replicas": running, "lag": lag, "epoch": epoch}
    return {**told, **dict(total), "stages": stages}


def _refused(live: list[dict[str, Any]]) -> dict[str, float | int | str]:
    """The versions of the newest release that a live replica does not load, and why; nothing where there are none."""
    why: dict[str, str] = {}
    for counters in live:
        why.update(counters.get("refused", {}))
    told = "; ".join(why[version] for version in sorted(why))
    return {"refused_versions": len(why), **({"refused": told} if why else {})}


class _Lag:
    """Requests of both lanes that are in the log and not yet answered; -1 while the broker does not answer."""

    def __init__(self, kafka: KafkaSettings, case: str) -> None:
        self._topics = [t.name for t in topics.lanes(case)]
        self._consumer = Consumer(
            kafka.client_config(group_id=f"{case}.scorer", enable_auto_commit=False)
        )

    def __call__(self) -> int:
        try:
            known = self._consumer.list_topics(timeout=CALL_TIMEOUT_S).topics
            asked = [TopicPartition(t, p) for t in self._topics for p in known[t].partitions]
            return sum(self._behind(at) for at in self._consumer.committed(asked, CALL_TIMEOUT_S))
        except KafkaException as error:
            log.info("deployment.lag", error=str(error.args[0]))
            return -1

    def _behind(self, at: TopicPartition) -> int:
        low, high = self._consumer.get_watermark_offsets(at, CALL_TIMEOUT_S)
        return int(high - (at.offset if at.offset >= 0 else low))
