"""Where features are kept: the online store, the lake, and Feast's registry."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, SecretStr


class StoreSettings(BaseModel):
    """Addresses of the online store (Redis), the lake (an Iceberg catalog) and the Feast registry."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    redis_url: str = "redis://127.0.0.1:6379/0"
    redis_user: str | None = None
    redis_password: SecretStr | None = None
    # Whose certificates count for `rediss://`: a PEM file; the machine's own by default.
    redis_ca_path: str | None = None
    # The URL names one node of a Redis Cluster; the others are learnt from it.
    redis_cluster: bool = False
    redis_timeout_ms: int = 2_000
    catalog_uri: str = "sqlite:///.headrace/lake/catalog.db"
    catalog_type: str = "sql"
    warehouse: str = "file://.headrace/lake/warehouse"
    namespace: str = "headrace"
    registry_uri: str = "sqlite:///.headrace/features/registry.db"
    plan_path: str = ".headrace/features/plan.json"
    project: str = "headrace"
    # How often views over lake tables are brought up to their tables; 0 leaves that to `materialize`.
    materialize_every_s: float = 60.0
    # A plain online read is as of the wall clock, or of the latest event time seen: replays of the past need "stream".
    clock: Literal["wall", "stream"] = "wall"

    # Where OpenLineage events of trainings and feature jobs go: a folder, an address; to nobody where neither is set.
    lineage_dir: str | None = None
    lineage_url: str | None = None

    @property
    def redis_shown(self) -> str:
        """The address for people's eyes: without a user or a password that the URL may hold."""
        scheme, separator, rest = self.redis_url.partition("://")
        return scheme + separator + rest.rpartition("@")[2]
