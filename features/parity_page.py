"""A parity report as one small HTML page that needs nothing else: a bar a feature, and the worst examples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

from features.causes import CAUSES
from features.parity import Example, ParityReport

COLOURS: Mapping[str, str] = {
    "equal": "#9bbf9b",
    "in_flight": "#8fb0d9",
    "ahead": "#b9a3d6",
    "late": "#e3c26f",
    "expired": "#d6a06b",
    "definition": "#b0b0b0",
    "unexplained": "#c8342b",
}
MEANING: Mapping[str, str] = {
    "equal": "served = recomputed",
    "in_flight": "an event was under way at the read",
    "ahead": "an event later than the request was in its head tile",
    "late": "an event came after the request, long behind the stream",
    "expired": "newer tiles had taken the place of older ones",
    "definition": "the vector was made with another definition",
    "unexplained": "a bug",
}
_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;width:100%}td,th{padding:.2rem .5rem;text-align:left;vertical-align:middle}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}tr:nth-child(even){background:#f6f6f6}
.bar{display:flex;height:.9rem;width:22rem;background:#eee}.key{display:inline-block;width:.8rem;height:.8rem}
"""


def page(report: ParityReport, title: str) -> str:
    """The whole page; everything that came from outside is escaped."""
    share = report.equal / report.compared if report.compared else 1.0
    return "\n".join(
        [
            "<!doctype html><html lang=en><meta charset=utf-8>",
            f"<title>{escape(title)}</title><style>{_STYLE}</style>",
            f"<h1>{escape(title)}</h1>",
            f"<p>{report.compared:,} values compared, {share:.2%} equal, ",
            f"<b>{report.unexplained:,} unexplained</b>.</p>",
            "<p>"
            + "<br>".join(_meaning(cause, getattr(report, cause)) for cause in CAUSES)
            + "</p>",
            _features(report),
            _examples(report.examples),
            "</html>",
        ]
    )


def _meaning(cause: str, count: int) -> str:
    key = f'<span class=key style="background:{COLOURS[cause]}"></span>'
    return f"{key} {_words(cause)}: {count:,} ({MEANING[cause]})"


def _features(report: ParityReport) -> str:
    heads = "".join(f"<th class=n>{_words(cause)}</th>" for cause in CAUSES)
    rows = []
    for name, counts in sorted(report.by_feature.items()):
        cells = "".join(f"<td class=n>{counts[cause]:,}</td>" for cause in CAUSES)
        rows.append(f"<tr><td>{escape(name)}</td><td>{_bar(counts)}</td>{cells}</tr>")
    return (
        f"<h2>Features</h2><table><tr><th>feature</th><th></th>{heads}</tr>{''.join(rows)}</table>"
    )


def _bar(counts: Mapping[str, int]) -> str:
    total = sum(counts[cause] for cause in CAUSES) or 1
    parts = (
        f'<i style="background:{COLOURS[cause]};width:{100 * counts[cause] / total:.3f}%"></i>'
        for cause in CAUSES
        if counts[cause]
    )
    return f"<div class=bar>{''.join(parts)}</div>"


def _examples(examples: tuple[Example, ...]) -> str:
    if not examples:
        return "<p>No value differs.</p>"
    rows = "".join(
        f"<tr><td>{escape(e.request_id)}</td><td>{escape(e.feature)}</td>"
        f"<td class=n>{_number(e.served)}</td><td class=n>{_number(e.recomputed)}</td>"
        f"<td>{_words(e.cause)}</td></tr>"
        for e in examples
    )
    heads = "<th>request</th><th>feature</th><th class=n>served</th><th class=n>recomputed</th>"
    return f"<h2>Worst examples</h2><table><tr>{heads}<th>cause</th></tr>{rows}</table>"


def _number(value: float) -> str:
    return "null" if math.isnan(value) else f"{value:.12g}"


def _words(cause: str) -> str:
    return cause.replace("_", " ")
