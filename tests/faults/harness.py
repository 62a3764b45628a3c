"""The rig: a real broker and Redis in a temporary folder, started when a case first asks.

Engines are the local stack's own (`infra.local`); workers are processes that a case may kill. Every process carries the
folder's mark, so that whatever happens nothing outlives the run.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.local import process
from infra.local.kafka import KafkaServer
from infra.local.redis_server import RedisServer
from schemas.settings import KafkaSettings
from tests.conftest import jars_folder


class Rig:
    """The engines of one run. A context manager; engines start on first use and stop with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        # Inherited by every child, and by theirs: `sweep` finds them by it.
        os.environ[process.STACK_MARK] = str(self.folder)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._stack.close()
        finally:
            process.sweep(str(self.folder))
            del os.environ[process.STACK_MARK]

    @cached_property
    def broker(self) -> KafkaServer:
        """A real broker, which a case may hurt if it brings it back."""
        server = KafkaServer(self.folder / "kafka", jars_folder() / "kafka")
        return self._stack.enter_context(server)

    @cached_property
    def kafka(self) -> KafkaSettings:
        """How to reach the broker."""
        return KafkaSettings(bootstrap_servers=self.broker.bootstrap_servers)

    @cached_property
    def redis(self) -> RedisServer:
        """A real Redis."""
        return self._stack.enter_context(RedisServer(self.folder / "redis"))
