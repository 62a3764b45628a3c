"""Follows the control topics and chains every event to the record, `control.audit`. It decides nothing.

The record is its only memory: it says how far each topic has been recorded, and a start goes on from there. Links go out in
transactions under one id, so that a restart neither loses one nor writes one twice, and a second auditor fences the first.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog

from monitoring.audit_chain import Chain
from schemas.control_log import CONTRACTS, ControlLog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.control_log import Entry
    from schemas.settings import KafkaSettings
    from schemas.worker import WorkerContext

POLL_S = 0.5
REPORT_INTERVAL_S = 1.0
# Links of one transaction: a history of years is recorded in seconds, and a transaction stays short.
LINKS_MAX = 500

log = structlog.get_logger()


def run(ctx: WorkerContext, kafka: KafkaSettings) -> None:
    """Record control events until `ctx.stop` is set.

    Raises:
        ControlLogUnavailable: The broker is out of reach, or another auditor of this use case has taken over.
    """
    chain = Chain()
    with ControlLog(kafka, ctx.case, tuple(CONTRACTS), writer=f"{ctx.case}-auditor") as control:
        unlinked = chain.fold(control.read_all())
        log.info("auditor.starts", links=chain.sequence, head=chain.head, unlinked=len(unlinked))
        reported_s = 0.0
        while not ctx.stop.is_set():
            _record(control, chain, unlinked)
            if time.monotonic() - reported_s >= REPORT_INTERVAL_S:
                reported_s = time.monotonic()
                ctx.report({"links": chain.sequence, "head": chain.head})
            unlinked = chain.fold(control.poll(POLL_S))


def _record(control: ControlLog, chain: Chain, entries: Sequence[Entry]) -> None:
    for begin in range(0, len(entries), LINKS_MAX):
        control.publish(*chain.extend(entries[begin : begin + LINKS_MAX]))
