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
    connector_jar: str = ".headrace/jars/flink/flink-sql-connector-kafka-5.0.0-2.2.jar"


class PipelineSettings(BaseModel):
    """Pace of the archiver and of retraining."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    archive_interval_s: float = Field(default=5.0, gt=0)
    training_timeout_s: float = Field(default=600.0, gt=0)
    training_threads: int = Field(default=1, ge=1)
