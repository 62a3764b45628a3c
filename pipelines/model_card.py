"""What a person should know of a version before trusting it, as Markdown: pure, from its manifest and what was measured.

After Mitchell et al.: Model Cards for Model Reporting, 2019. The machine's words are in `manifest.json`; these are people's.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from schemas.manifest import Manifest

INPUTS_SHOWN = 12


def card(described: Manifest, reliance: Mapping[str, float], chosen: str = "") -> str:
    """The card.

    Args:
        described: The manifest.
        reliance: Input → the held-out AUC that is lost where its values are shuffled among the rows.
        chosen: Why this estimator was fitted, where somebody had to choose.
    """
    trained = described.trained
    lines = [
        f"# {described.model}, fitted as `{described.estimator}`",
        "",
        f"Answers requests of `{described.case}` with the probability of the label; at {described.threshold:g} or above it says yes.",
        "",
        *((f"{chosen[0].upper()}{chosen[1:]}.", "") if chosen else ()),
        "## Trained on",
        f"- requests from {_day(trained.since_ms)} to {_day(trained.until_ms)}",
        f"- {trained.rows:,} rows, {trained.label_rate:.1%} of them positive",
        f"- features of the service `{described.service}` as of each request, {len(described.inputs)} inputs",
        *(
            f"- table `{name}`, snapshot {snapshot}"
            for name, snapshot in described.snapshots.items()
        ),
        f"- code {described.code[:12]}, lock {described.lock[:12]}, seed {described.seed}",
        "",
        "## Measured on the newest week, which it has not seen",
        "| metric | value |",
        "|---|---|",
        *(f"| {name} | {value:,.4g} |" for name, value in described.metrics.items()),
        "",
        "## What it leans on",
        "Held-out AUC that is lost where the input's values are shuffled among the rows:",
        "",
        *_reliance(reliance),
        "",
        "## Not for",
        f"- requests that break the contract of `{described.case}` (they are dead letters), and other populations than the rows above",
        "- decisions without the declared fallback: a score may be missing, and the result then says who answered",
        "- causes: an input that it leans on need not be why something happens",
        "",
    ]
    return "\n".join(lines)


def _reliance(reliance: Mapping[str, float]) -> list[str]:
    ranked = sorted(reliance.items(), key=lambda item: -item[1])
    lines = [f"- `{name}` {lost:+.4f}" for name, lost in ranked[:INPUTS_SHOWN]]
    rest = len(ranked) - INPUTS_SHOWN
    return [*lines, f"- and {rest} others, each less"] if rest > 0 else lines


def _day(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M}"
