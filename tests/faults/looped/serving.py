"""How its candidates are judged before traffic, and who answers where no model can."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from serving.gate import Requirement

if TYPE_CHECKING:
    from collections.abc import Mapping

CANARY_SHARE = 0.3
GATE = (Requirement("auc", better="higher"), Requirement("log_loss", better="lower"))
FALLBACK_THRESHOLD = 0.5


def fallback(_request: Any, _features: Mapping[str, float | None]) -> float:
    """How often the water is high."""
    return 0.25
