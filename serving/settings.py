"""Where and how requests are scored."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ServingSettings(BaseModel):
    """Ray's addresses, the model folder, and the bounds of one scoring batch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ray_address: str = "127.0.0.1:6380"
    dashboard_port: int = 8265
    # Of the front door, on loopback.
    http_port: int = Field(default=8000, ge=0, le=65_535)
    models_dir: str = ".headrace/models"
    # Public keys: a replica loads only what one of them signed. The settings tree refuses None, which is for versions that
    # were made a moment ago by the code that loads them.
    trust_dir: str | None = None
    replicas: int = Field(default=1, ge=1)
    # Above 0, replicas follow the lag between these two instead of staying as many as `replicas`.
    replicas_min: int = Field(default=1, ge=1)
    replicas_max: int = Field(default=0, ge=0)
    # Requests behind that one replica is to bear; a few seconds of what it answers.
    scale_lag_each: int = Field(default=5_000, ge=1)
    # How long the lag must have asked for more, or fewer, and by how many at once. A new replica takes 13 s to start, so
    # that sending one away must be worth more than calling it back.
    scale_up_after_s: float = Field(default=5.0, ge=0)
    scale_down_after_s: float = Field(default=120.0, ge=0)
    scale_up_by: int = Field(default=2, ge=1)
    scale_down_by: int = Field(default=1, ge=1)
    num_cpus: float = Field(default=0.5, gt=0)
    # None reserves what the use case's tiers ask for, where Ray has it; 0 keeps replicas off the GPUs.
    num_gpus: float | None = Field(default=None, ge=0)
    # A version of a GPU tier on a machine without one: "prefer" runs it on the CPU, warns and counts; "require" does not start.
    gpu: Literal["prefer", "require"] = "prefer"
    batch_rows_max: int = Field(default=256, ge=2)
    batch_bytes_max: int = Field(default=4 * 1024 * 1024, ge=1)
    # For others to come, while the replica is idle. What comes during a transaction is the next batch anyway, so that
    # waiting pays only where a model is much cheaper by the batch.
    batch_linger_ms: int = Field(default=0, ge=0)
    # Of `batch_rows_max`, for bulk requests while interactive ones wait too: about 1 ms of work more for those.
    bulk_rows_max: int = Field(default=32, ge=1)
    poll_timeout_s: float = Field(default=0.05, gt=0)
    transaction_timeout_ms: int = Field(default=8_000, ge=1_000)
    session_timeout_ms: int = Field(default=6_000, ge=1_000)
    # Per partition, both lanes together; the window within which a repeated request is recognised. A takeover reads this many results back, about
    # 1.5 kB each: 20,000 take some 0.3 s a partition.
    recent_ids: int = Field(default=20_000, ge=0)
    # Where requests are feature events themselves. Read back from a partition that is taken over: at 250 requests a second
    # and partition, what came within the last eight seconds.
    own_events_back: int = Field(default=2_000, ge=0)
    # How long the first batch after a takeover waits for rings that lack what was not read back. It is taken out of the
    # time in which a payment must be decided, so it is about one decision's worth.
    settle_timeout_ms: int = Field(default=50, ge=0)
    # Where spans go, by OTLP over HTTP (`http://127.0.0.1:4318`); nobody traces without.
    otlp_endpoint: str | None = None
    # Of the traces that their publishers sample, the part whose requests get spans of their own. A span costs about
    # 50 µs, and every request of our own client is sampled: at 1,000/s all of them would be a twentieth of a core.
    trace_ratio: float = Field(default=0.01, ge=0, le=1)
    # The front door. Requests that are in the log and not answered; beyond it, 429.
    door_in_flight_max: int = Field(default=512, ge=1)
    # How long it waits for an answer, and before that for Kafka's acknowledgement.
    door_answer_timeout_ms: int = Field(default=2_000, ge=1)
    door_publish_timeout_ms: int = Field(default=2_000, ge=100)
    # Of a body, also of what a compressed one becomes; what Kafka takes of one record by default.
    door_body_bytes_max: int = Field(default=1024 * 1024, ge=1_024)

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if 0 < self.replicas_max < self.replicas_min:
            raise ValueError("replicas_max: 0, or at least replicas_min")
        return self


class AdmissionSettings(BaseModel):
    """What admission alone is told: the private key, and where the registry for people is kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    signing_key: str = ".headrace/keys/admission.pem"
    # MLflow's tables, by SQLAlchemy's address; they are rebuilt from the control topics where they are lost. Empty: none are kept.
    registry_uri: str = "sqlite:///.headrace/registry/mlflow.db"
