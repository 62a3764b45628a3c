"""A Ray Serve replica around one scorer: Serve places it, counts it, watches its health, and replaces it.

No event crosses an actor boundary: the replica's loop takes its requests from Kafka itself. Serve calls only `status`,
`check_health` and `reconfigure`.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from ray import serve
from ray.serve import Application

from features.settings import StoreSettings
from schemas.errors import HeadraceError
from schemas.settings import KafkaSettings
from serving.scaling import LAG
from serving.scorer import STUCK_S, Scorer
from serving.settings import ServingSettings

DEPLOYMENT = "scorer"
STOP_TIMEOUT_S = 15.0
# Secrets are read from a node's own environment; what is deployed can be read on Ray's dashboard.
SECRETS = {
    "kafka": ("sasl_password", "HEADRACE_KAFKA__SASL_PASSWORD"),
    "stores": ("redis_password", "HEADRACE_STORES__REDIS_PASSWORD"),
}


class ReplicaUnhealthy(HeadraceError):
    """The loop of a replica has ended or hangs; Serve starts another in its place."""


@serve.deployment(
    name=DEPLOYMENT,
    max_ongoing_requests=8,
    health_check_period_s=2.0,
    health_check_timeout_s=10.0,
    graceful_shutdown_wait_loop_s=0.1,
    graceful_shutdown_timeout_s=STOP_TIMEOUT_S + 5.0,
)
class Replica:
    """Owns a scorer and the thread it runs in."""

    def __init__(self, told: dict[str, Any]) -> None:
        kafka, stores, settings = (
            _with_secret(told, name) for name in ("kafka", "stores", "serving")
        )
        self._stop = threading.Event()
        self._failed: BaseException | None = None
        self._scorer = Scorer(
            told["case"],
            KafkaSettings.model_validate(kafka),
            StoreSettings.model_validate(stores),
            ServingSettings.model_validate(settings),
            slot=serve.get_replica_context().rank.rank,
        )
        self._thread = threading.Thread(target=self._run, name="scorer", daemon=True)
        self._thread.start()

    def reconfigure(self, _: object, rank: serve.schema.ReplicaRank) -> None:
        """Serve closes gaps in the ranks when replicas go; the slot follows, or two would come to share one."""
        self._scorer.move_to(rank.rank)

    def check_health(self) -> None:
        """Called by Serve; raising three times in a row means replacement."""
        if self._failed is not None:
            raise ReplicaUnhealthy("scorer", wanted="a running loop", came=str(self._failed))
        if not self._thread.is_alive() or self._scorer.stuck_s() > STUCK_S:
            raise ReplicaUnhealthy(
                "scorer",
                wanted=f"a turn at least every {STUCK_S} s",
                came=f"the last one began {self._scorer.stuck_s():.0f} s ago",
            )

    def status(self) -> dict[str, Any]:
        """Counters and stages since this replica started, what it refused to load, and its process."""
        told = {"refused": self._scorer.refused(), "stages": self._scorer.stages()}
        return {"pid": os.getpid(), **self._scorer.counters(), **told}

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What `serving.scaling` decides by; called by Serve where replicas follow the lag."""
        return {LAG: float(self._scorer.lag)}

    def __del__(self) -> None:
        """Called by Serve when the replica is to go: leave the group, so that the others take over at once."""
        self._stop.set()
        self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        try:
            self._scorer.run(self._stop)
        except BaseException as error:
            self._failed = error
            raise


def build(told: dict[str, Any]) -> Application:
    """The application that Serve imports; `told` holds `case` and the settings sections without secrets."""
    serving = told["serving"]
    actor = {"num_cpus": serving["num_cpus"], "num_gpus": serving["num_gpus"] or 0.0}
    deployment: Any = Replica
    bound: Application = deployment.options(ray_actor_options=actor).bind(told)
    return bound


def _with_secret(told: dict[str, Any], section: str) -> dict[str, Any]:
    values = dict(told[section])
    if section in SECRETS:
        name, variable = SECRETS[section]
        values[name] = os.environ.get(variable)
    return values
