"""Where events move: the Flink session cluster, and the pace of the workers beside it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class FlinkSettings(BaseModel):
    """Address of the Flink session cluster and what every job submitted to it shares."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rest_address: str = "127.0.0.1"
    rest_port: int = 8081
    parallelism: int = Field(default=1, ge=1)
    checkpoint_interval_s: float = Field(default=10.0, gt=0)
    lateness_s: int = Field(default=86_400, ge=0)
    # What one entity of one view may keep, in Redis and in a job's state each, if it is never idle.
    entity_bytes_max: int = Field(default=1_048_576, ge=1)
    # `apply` then refuses a view that `headrace features certify` has not passed.
    require_certificate: bool = False
    connector_jar: str = ".headrace/jars/flink/flink-sql-connector-kafka-5.0.0-2.2.jar"


class PipelineSettings(BaseModel):
    """Pace of the archiver and of retraining."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    archive_interval_s: float = Field(default=5.0, gt=0)
    training_timeout_s: float = Field(default=600.0, gt=0)
    training_threads: int = Field(default=1, ge=1)
