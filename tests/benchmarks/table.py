"""`python -m tests.benchmarks.table`: the tables of `docs/benchmarks.md`, from `benchmarks/results.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.contenders import RESULTS

PAGE = RESULTS.parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"

DASH = NONE = "\N{EN DASH}"

Result = Mapping[str, Any]


def rendered(results: Sequence[Result]) -> str:
    """Two tables in Markdown: the ratios, a line a row, and what each contender took."""
    ratios = [
        "| row | work | ours, ms | limit, ms | ours / limit | peer / ours |",
        "|---|---|---|---|---|---|",
        *(_ratios(result) for result in results),
    ]
    costs = [
        "| row | work | contender | wall, ms | CPU, ms | peak, MB |",
        "|---|---|---|---|---|---|",
        *(line for result in results for line in _costs(result)),
    ]
    notes = [f"- {r['row']}, {r['name']}: {r['note']}." for r in results if r["note"]]
    pins = sorted({f"{n} {v}" for r in results for n, v in r["versions"].items()})
    parts = ["\n".join(ratios), "\n".join(costs), "\n".join(notes), f"Versions: {', '.join(pins)}."]
    return "\n\n".join(part for part in parts if part)


def _ratios(result: Result) -> str:
    low, high = result["spread"]
    peers = [
        f"{name} {found} ({DASH.join(str(x) for x in result['peer_spread'][name])})"
        for name, found in result["peer_to_ours"].items()
    ]
    ours = f"{result['ours_to_limit']} ({low}{DASH}{high})"
    cells = [result["row"], result["name"], result["ours_ms"], result["limit_ms"], ours]
    return "| " + " | ".join(str(cell) for cell in [*cells, ", ".join(peers) or NONE]) + " |"


def _costs(result: Result) -> list[str]:
    return [
        f"| {result['row']} | {result['name']} | {name} | {cost['ms']} | "
        f"{_or_dash(round(1_000 * cost['cpu_s'], 3))} | {_or_dash(cost['peak_mb'])} |"
        for name, cost in result["contenders"].items()
    ]


def _or_dash(measured: float) -> str:
    return str(measured) if measured else NONE


def page(text: str, results: Sequence[Result]) -> str:
    """The page with its tables made anew; what stands around them is left alone."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{rendered(results)}\n{END}{after}"


def main() -> None:
    results = json.loads(RESULTS.read_text())
    Path(PAGE).write_text(page(PAGE.read_text(), results))


if __name__ == "__main__":
    main()
