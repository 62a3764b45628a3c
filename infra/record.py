"""The record of decisions and what it must agree with, read in the order that lets both grow meanwhile."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from confluent_kafka import KafkaException

from infra.topic_scan import scan
from monitoring.audit_chain import TOPIC, Judgement, sha256, verify
from schemas.control import AuditRecord
from schemas.control_log import CONTRACTS, ControlLog
from schemas.errors import HeadraceError

if TYPE_CHECKING:
    from features.settings import StoreSettings
    from schemas.settings import KafkaSettings


class RecordUnreadable(HeadraceError):
    """The broker did not let the record be read."""


def judge(
    kafka: KafkaSettings, stores: StoreSettings, case: str, noted: tuple[int, str] | None = None
) -> Judgement:
    """Verify the record of a use case against the control topics and the lake's copy.

    The copy is read before the links, and they before the events: what comes meanwhile is then too young, never missing.

    Raises:
        RecordUnreadable: The broker is away, or refuses.
        ControlLogUnavailable: The same, of the control topics.
    """
    copies = _copies(stores, case)
    try:
        values = [m.value() or b"" for m in scan(kafka, TOPIC) if m.key() == case.encode()]
    except KafkaException as error:
        raise RecordUnreadable(
            f"{TOPIC} on {kafka.bootstrap_servers}",
            wanted="the record",
            came=error.args[0].str(),
            mend="Is the broker up (`headrace status`)?",
        ) from error
    topics = tuple(name for name in CONTRACTS if name != TOPIC)
    with ControlLog(kafka, case, topics) as control:
        events = control.read_all()
    now_ms = time.time_ns() // 1_000_000
    return verify(values, events, now_ms, copies=copies, noted=noted)


def _copies(stores: StoreSettings, case: str) -> dict[int, str]:
    """Sequence → hash of every link that the archiver has put into the lake."""
    from features.lake import Lake, NoSuchLakeTable  # noqa: PLC0415 - pyiceberg takes its time
    from schemas.topics import table_of  # noqa: PLC0415

    names = list(AuditRecord.model_fields)
    try:
        rows = Lake(stores).scan(table_of(case)[TOPIC].table, columns=tuple(names))
    except NoSuchLakeTable:
        return {}
    links = (AuditRecord.model_construct(**row) for row in rows.to_pylist() if row["case"] == case)
    return {record.sequence: sha256(record.encode()) for record in links}
