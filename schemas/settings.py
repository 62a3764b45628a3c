"""Where Kafka is, and how a client must speak to it.

Every layer keeps the settings of its own engines in its own `settings.py`; `infra.settings` composes them into the
one tree that is read from `HEADRACE_…` variables and the TOML file.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, SecretStr

ClientConfig = dict[str, str | int | float | bool]

# A fetch that finds nothing is parked at the broker and answered with the first byte that comes: a long wait delays no record.
# What it holds up is the consumer's next fetch, of partitions that it has just been given; hence not Kafka's 500.
FETCH_WAIT_MS = 100


class KafkaSettings(BaseModel):
    """Address and security of the Kafka cluster, embedded or external."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bootstrap_servers: str = "127.0.0.1:9092"
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_ca_location: str | None = None
    replication_factor: int = Field(default=1, ge=1)

    def client_config(self, **extra: str | float | bool) -> ClientConfig:
        """The librdkafka properties shared by every client; `extra` uses `_` where librdkafka has `.`."""
        config: ClientConfig = {
            "bootstrap.servers": self.bootstrap_servers,
            "security.protocol": self.security_protocol,
            # Nagle's algorithm and delayed acknowledgements together hold a small request back for 40 ms.
            "socket.nagle.disable": True,
            # New topics and partitions are found within seconds instead of five minutes.
            "topic.metadata.refresh.interval.ms": 3_000,
        }
        if self.sasl_mechanism:
            config["sasl.mechanism"] = self.sasl_mechanism
        if self.sasl_username:
            config["sasl.username"] = self.sasl_username
        if self.sasl_password:
            config["sasl.password"] = self.sasl_password.get_secret_value()
        if self.ssl_ca_location:
            config["ssl.ca.location"] = self.ssl_ca_location
        return config | {name.replace("_", "."): value for name, value in extra.items()}
