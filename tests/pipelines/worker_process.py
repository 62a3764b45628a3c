"""`python -m tests.pipelines.worker_process NAME CASE SECTION…`: a worker, until SIGTERM."""

from __future__ import annotations

import signal
import sys
from importlib import import_module
from importlib.util import find_spec
from threading import Event

from pydantic import BaseModel

from features.settings import StoreSettings
from pipelines.settings import PipelineSettings
from schemas.settings import KafkaSettings
from schemas.worker import WorkerContext
from tests.pipelines import paid, toy

SECTIONS: tuple[type[BaseModel], ...] = (KafkaSettings, StoreSettings, PipelineSettings)


def main() -> None:
    name, case, *sections = sys.argv[1:]
    _register(case)
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    given = [
        model.model_validate_json(text) for model, text in zip(SECTIONS, sections, strict=False)
    ]
    context = WorkerContext(case, stop, lambda _: None)
    import_module(f"pipelines.{name}").run(context, *given)


def _register(case: str) -> None:
    """Make a use case of the tests loadable; one that ships is."""
    if find_spec(f"schemas.{case}") is not None:
        return
    if case == paid.CASE:
        paid.register()
    else:
        toy.register(case)


if __name__ == "__main__":
    main()
