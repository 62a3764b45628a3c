"""Where a Feast feature server logs what it served: a lake table, named by the service's logging configuration."""

from __future__ import annotations

from feast.data_source import DataSource
from feast.feature_logging import LOG_TIMESTAMP_FIELD, LoggingDestination
from feast.protos.feast.core.FeatureService_pb2 import LoggingConfig as LoggingConfigProto

from features.lake_source import LakeSource


class LakeLoggingDestination(LoggingDestination):
    """A lake table of served features; made when the first are written."""

    _proto_kind = "headrace_lake"

    def __init__(self, table: str) -> None:
        self.table = table

    @classmethod
    def from_proto(cls, config_proto: LoggingConfigProto) -> LakeLoggingDestination:
        """The destination as the registry keeps it."""
        return cls(config_proto.custom_destination.config["table"])

    def to_proto(self) -> LoggingConfigProto:
        """The destination as the registry keeps it."""
        proto = LoggingConfigProto()
        proto.custom_destination.kind = self._proto_kind
        proto.custom_destination.config["table"] = self.table
        return proto

    def to_data_source(self) -> DataSource:
        """The table as a source."""
        return LakeSource(self.table, timestamp_field=LOG_TIMESTAMP_FIELD)
