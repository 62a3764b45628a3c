"""What people did with keys and signatures, on its way to the record: noted beside the key, then published once.

Keys are turned where no broker need be. So an act is noted on disk when it is done, and `control.keys` is made to hold what is
noted: by the act's own command, or else by any later one. What the topic holds already is known by its id.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import structlog
from pydantic import ValidationError

from schemas.control import KeyAct, KeyActKind
from schemas.control_log import ControlLog
from serving import line_file

if TYPE_CHECKING:
    from schemas.settings import KafkaSettings

TOPIC = "control.keys"
ACTS_FILE = "acts.jsonl"

log = structlog.get_logger()


@dataclass(frozen=True)
class KeyRecord:
    """The acts of one data folder. `path` is `acts.jsonl` beside the private key."""

    path: Path

    @classmethod
    def beside(cls, key: Path) -> KeyRecord:
        """The record of whoever has this private key."""
        return cls(key.with_name(ACTS_FILE))

    def note(self, act: KeyAct) -> None:
        """Keep an act that was done; it survives a crash."""
        line_file.append(self.path, act.encode())
        log.info("keys.noted", kind=act.kind, key_id=act.key_id, by=act.by)

    def acts(self) -> list[KeyAct]:
        """All that is noted, oldest first; a line that is none is passed over, and told."""
        found = []
        for line in self.path.read_bytes().splitlines() if self.path.exists() else []:
            try:
                found.append(KeyAct.model_validate_json(line))
            except ValidationError:
                log.warning(
                    "keys.unreadable", path=str(self.path), line=line.decode(errors="replace")
                )
        return found

    def send(self, kafka: KafkaSettings) -> int:
        """Publish what is noted and not on its topic. Returns how many acts that were.

        Raises:
            ControlLogUnavailable: Some may not be there yet; call it again.
        """
        acts = self.acts()
        return sum(_sent(kafka, case, acts) for case in dict.fromkeys(act.case for act in acts))


def key_act(
    case: str,
    kind: KeyActKind,
    key_id: str | None,
    *,
    by: str,
    reason: str,
    signs: str | None = None,
    signed: tuple[str, str, str] | None = None,
) -> KeyAct:
    """An act of now; `signed` is model, version and digest."""
    now_ms = time.time_ns() // 1_000_000
    model, version, digest = signed or (None, None, None)
    return KeyAct(
        event_id=f"key-{kind}-{uuid4().hex}",
        event_time_ms=now_ms,
        case=case,
        decided_at_ms=now_ms,
        kind=kind,
        key_id=key_id,
        signs=signs,
        model=model,
        version=version,
        digest=digest,
        by=by,
        reason=reason,
    )


def _sent(kafka: KafkaSettings, case: str, acts: list[KeyAct]) -> int:
    # Under one id a use case: two commands at a time fence each other, and neither publishes what the other does.
    with ControlLog(kafka, case, (TOPIC,), writer=f"{case}.keys") as control:
        known = {entry.event.event_id for entry in control.read_all()}
        missing = [act for act in acts if act.case == case and act.event_id not in known]
        if missing:
            control.publish(*missing)
    return len(missing)
