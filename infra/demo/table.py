"""The summary as one table, and what in it must not be."""

from __future__ import annotations

from typing import Any

from rich.table import Table

Json = dict[str, Any]


def failures(summary: Json) -> list[str]:
    """Sentences about broken promises; empty when all were kept."""
    answered = summary["results"] + summary["dead_lettered_by_topic"]["flights.requests.dlq"]
    wanted = {
        f"{summary['lost']} acknowledged requests were lost": summary["lost"] == 0,
        f"{summary['duplicates']} requests were answered twice": summary["duplicates"] == 0,
        f"{summary['requests']} requests, but {answered} answers": answered == summary["requests"],
        f"{summary['parity']['unexplained']} served values differ from the lake for no reason known": (
            summary["parity"]["unexplained"] == 0
        ),
    }
    broken = [sentence for sentence, kept in wanted.items() if not kept]
    return [*broken, *summary["contradictions"]]


def table(summary: Json) -> Table:
    """One table, a row a promise."""
    view = Table(title="headrace demo · New York flights, 2013", title_justify="left", box=None)
    view.add_column(style="dim")
    view.add_column()
    for name, figure in _rows(summary):
        view.add_row(name, figure)
    return view


def _rows(summary: Json) -> list[tuple[str, str]]:
    latency, parity = summary["latency_ms"], summary["parity"]
    compared = max(parity["compared"], 1)
    causes = ("in_flight", "ahead", "late", "expired", "definition", "unexplained")
    replay = summary["replay"]
    return [
        (
            "requests",
            (
                f"{summary['requests']:,} → {summary['results']:,} results,"
                f" {summary['dead_lettered_by_topic']['flights.requests.dlq']} dead letters;"
                f" {summary['duplicates']} duplicates, {summary['lost']} lost"
            ),
        ),
        ("dead letters", f"{summary['dead_lettered']} in all"),
        ("answered by", _counts(summary["routes"])),
        ("latency", " · ".join(f"{name} {value} ms" for name, value in latency.items())),
        ("readable online", f"{summary['readable_after_ms']} ms after the event, on average"),
        ("replay", f"{replay['times_life']:,} times life, {replay['slices']:,} slices"),
        (
            "parity",
            f"{parity['compared']:,} values, {parity['equal'] / compared:.2%} equal; "
            + ", ".join(f"{cause.replace('_', ' ')} {parity[cause]:,}" for cause in causes),
        ),
        *(("killed", one) for one in summary["chaos"]["killed"]),
        *_control(summary),
        *(("auc", line) for line in _auc(summary["auc"])),
        *(("year", line) for line in year_lines(summary.get("year"))),
        ("lake", _counts(summary["lake"])),
        ("seconds", _counts(summary["seconds"])),
    ]


def _control(summary: Json) -> list[tuple[str, str]]:
    drift = [
        (
            "drift",
            f"until {a['until']}: {', '.join(a['kinds'])} ({len(a['columns'])} columns) → "
            + ("retrain" if a["acted_on"] else f"held back by {a['held_back_by']}"),
        )
        for a in summary["drift"]
    ]
    judged = [
        (
            who,
            (
                f"{v['at']}: {v['verdict'].replace('_', ' ')} {v['candidate']} over {v['champion']}: "
                f"{v['reason']}"
            ),
        )
        for who in ("gate", "guard")
        for v in summary[who]
    ]
    releases = [
        (
            "release",
            f"{r['epoch']} · {r['at']}: {r['champion']}"
            + (f" + {r['canary']} {r['canary_share']:.0%}" if r["canary"] else "")
            + f" ({r['reason']})",
        )
        for r in summary["releases"]
    ]
    return [*drift, ("retrainings", str(summary["retrainings"])), *judged, *releases]


def _auc(auc: Json) -> list[str]:
    words = {
        "champion": "{version} {auc} over its {rows:,} flights",
        "promoted": "{version} {auc} over its {rows:,} flights after promotion",
        "same_window": "{version} would have had {auc} on these {rows:,}",
    }
    told = [words[name].format(**auc[name]) for name in words if auc[name]]
    if not auc["promoted"]:
        told.append("nothing was promoted: the champion won")
    return told


def year_lines(year: Json | None) -> list[str]:
    """A line a month, then what each way has cost."""
    if year is None:
        return []
    ways = ("loop", "never", "monthly")
    lines = ["month     flights   late    loop   never  monthly"]
    lines += [
        f"{m['month']} {m['flights']:9,} {m['late']:6.1%}"
        f" {m['loop']:7.4f} {m['never']:7.4f} {m['monthly']:8.4f}"
        for m in year["months"]
    ]
    mean = year["mean_auc"]
    lines.append(f"{'mean':24}{mean['loop']:8.4f}{mean['never']:8.4f}{mean['monthly']:9.4f}")
    costs = [f"{w} {year['trainings'][w]} in {year['training_s'][w]:.0f} s" for w in ways]
    return [*lines, f"trainings: {', '.join(costs)}"]


def _counts(counts: Json) -> str:
    return " · ".join(f"{name} {count:,}" for name, count in counts.items())
