"""Views over lake tables, kept up by the clock: every so often what has come into their tables goes into the online store."""

from __future__ import annotations

import threading
import time
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Self

import structlog

from features import plan_files
from features.rows import Rows
from schemas.errors import HeadraceError

if TYPE_CHECKING:
    from features.settings import StoreSettings

log = structlog.get_logger()


class RowSchedule:
    """A thread that loads the plan's batch views, each `materialize_every_s`, for as long as it is entered.

    A load that fails is told, counted, and tried again at its next time: the rows that are there stay.
    """

    def __init__(self, stores: StoreSettings) -> None:
        self._stores = stores
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="row-schedule", daemon=True)
        self._counters: dict[str, int] = {}
        self._loaded_s: float | None = None

    def __enter__(self) -> Self:
        if self._stores.materialize_every_s:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    @property
    def counters(self) -> dict[str, int]:
        """Loads, rows and failures since the start, and seconds since all views were last looked at; none without views."""
        if self._loaded_s is None:
            return {}
        return self._counters | {"loaded_ago_s": int(time.monotonic() - self._loaded_s)}

    def _run(self) -> None:
        rows = Rows(self._stores)
        while not self._stop.is_set():
            self._load_all(rows)
            self._stop.wait(self._stores.materialize_every_s)
        rows.close()

    def _load_all(self, rows: Rows) -> None:
        plan = plan_files.applied(self._stores.plan_path)
        if not any(not view.topic for view in plan.row_views):
            return
        # The lake takes two seconds to import, which a use case without such views need not wait for.
        row_load, lake = import_module("features.row_load"), import_module("features.lake")
        tables = lake.Lake(self._stores)
        counted = {"loads": 0, "loaded_rows": 0, "load_failures": 0} | self._counters
        for view in filter(row_load.scheduled, plan.row_views):
            try:
                loaded = row_load.load(view, tables, rows)
            except HeadraceError as error:
                counted["load_failures"] += 1
                log.warning("view not loaded", view=view.name, cause=str(error))
                continue
            counted["loads"] += loaded is not None
            counted["loaded_rows"] += loaded or 0
        self._counters, self._loaded_s = counted, time.monotonic()
