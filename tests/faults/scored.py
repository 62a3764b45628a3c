"""The toy use case as one that is scored, and its scorer as a process: `python -m tests.faults.scored CASE SECTION… [SLOT]`."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType

# Before anything imports numpy, as in every worker.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from features.settings import StoreSettings
from schemas.settings import KafkaSettings
from serving.scorer import STUCK_S, Scorer
from serving.settings import ServingSettings
from tests.faults.stage import SERVICE
from tests.pipelines import toy

RULE_SCORE = 0.125
# How old features may be before a result calls them stale.
FRESH_S = 3_600


def register(case: str) -> str:
    """Make `schemas.<case>` and `serving.<case>` loadable."""
    toy.register(case)
    contracts = sys.modules[f"schemas.{case}"]
    contracts.REQUEST = toy.Question  # type: ignore[attr-defined]
    contracts.SERVICE = SERVICE  # type: ignore[attr-defined]
    contracts.INPUTS = ()  # type: ignore[attr-defined]
    rules = ModuleType(f"serving.{case}")
    rules.__spec__ = ModuleSpec(rules.__name__, loader=None)
    rules.fallback = lambda _request, _features: RULE_SCORE  # type: ignore[attr-defined]
    rules.FALLBACK_THRESHOLD = 0.5  # type: ignore[attr-defined]
    rules.GATE = ()  # type: ignore[attr-defined]
    rules.FRESH_S = {f"{case}_levels": FRESH_S}  # type: ignore[attr-defined]
    sys.modules[rules.__name__] = rules
    return case


def main(known: Callable[[str], object] = register) -> None:
    """A replica, until SIGTERM."""
    case, *sections = sys.argv[1:]
    known(case)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    kafka, stores, serving, *slot = sections
    scorer = Scorer(
        case,
        KafkaSettings.model_validate_json(kafka),
        StoreSettings.model_validate_json(stores),
        ServingSettings.model_validate_json(serving),
        slot=int(slot[0]) if slot else 0,
    )
    threading.Thread(target=_end_if_stuck, args=(scorer,), daemon=True).start()
    try:
        scorer.run(stop)
    except BaseException:  # noqa: BLE001 - whatever it is, the process must end
        # Serve kills a replica whose loop has ended. An ordinary end would first destroy the producer, and with an offset
        # commit on its way librdkafka may spin in there for ever (seen in case 6).
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _end_if_stuck(scorer: Scorer) -> None:
    """What Serve does with a replica whose loop hangs."""
    while scorer.stuck_s() < STUCK_S:
        time.sleep(1.0)
    os._exit(1)


if __name__ == "__main__":
    main()
