"""`python -m tests.monitoring.known_drift --seeds 200`: streams whose drift is known, cut into windows and judged as live ones are.

A model is fitted on the stream as it was, its held-out metrics are the reference, and then the stream is scored row by row,
through `Windows` and `judge`. Known are River's SEA (labels change, inputs do not) and LEDDrift (inputs change places, and with
them what they mean), a plain shift of one of twelve mixed columns, a benign one below the effect that counts, and no drift at
all: there each seed is one window against its reference, with no effect asked for, so that the nominal error alone is tested.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from scipy import stats
from sklearn.linear_model import LogisticRegression

from monitoring.accuracy import accuracy
from monitoring.drift import Thresholds, compare
from monitoring.judgement import Judgement, judge
from monitoring.policy import DAY_MS, Policy
from monitoring.reference import Reference
from monitoring.windows import JoinedRow, ResultRow, Window, Windows
from schemas.control import AlertKind
from tests.monitoring import rig
from tests.monitoring.known_streams import KNOWN, ROW_MS, Known, mixed

Floats = NDArray[np.float64]

T0_MS = 1_000 * DAY_MS
OUTCOME_AFTER_ROWS, BATCH_ROWS = 5, 20
HELD_OUT, WINDOWS_MAX = 3_000, 12
# How seldom chance alone may break the bound on false alarms.
CHANCE = 1e-3


@dataclass
class Found:
    """What became of one seed of one stream.

    Attributes:
        quiet: Windows judged before the drift.
        false: Kinds that were seen in them.
        ripples: Windows in which a column was significant and too small to count.
        kinds: What was seen in the window that found the drift.
        delay_rows, delay_windows: From the first drifted row to the end of that window; None if it was not found.
    """

    seed: int
    quiet: int = 0
    false: list[str] = field(default_factory=list)
    ripples: int = 0
    kinds: tuple[str, ...] = ()
    delay_rows: int | None = None
    delay_windows: int | None = None


def found(known: Known, seed: int) -> Found:
    """One seed: quiet windows, then drift from somewhere within a window on, until it is found or enough was seen."""
    dice = np.random.default_rng(seed)
    model, reference = fitted(known, 3 * seed)
    drift_at = known.quiet * known.rows + int(dice.integers(known.rows))
    windows_max = WINDOWS_MAX if known.expected else known.quiet + 3
    rows = known.rows * windows_max + 2 * known.rows
    first, then = known.before(3 * seed + 1, drift_at), known.after(3 * seed + 2, rows - drift_at)
    inputs, labels = (np.concatenate(pair) for pair in zip(first, then, strict=True))
    names = list(reference.inputs)
    categorical = frozenset(names if known.codes else ())
    told, policy = Found(seed), known.policy()
    for window in cut(known, inputs, labels, _scores(model, inputs), names):
        judgement = judge(window, reference, categorical, policy)
        end = (window.end_ms - T0_MS) // ROW_MS
        told.ripples += _ripples(judgement, policy)
        if end <= drift_at:
            told.quiet += 1
            told.false += [kind.value for kind in judgement.kinds]
        elif (known.expected or frozenset(AlertKind)).intersection(judgement.kinds):
            told.kinds = tuple(kind.value for kind in judgement.kinds)
            told.delay_rows = end - drift_at
            told.delay_windows = ceil(told.delay_rows / known.rows)
            break
        if end >= windows_max * known.rows:
            break
    return told


def fitted(known: Known, seed: int) -> tuple[LogisticRegression, Reference]:
    """A model of the stream as it was, and what monitoring knows of it."""
    inputs, labels = known.before(seed, known.trained + HELD_OUT)
    train, held = slice(known.trained), slice(known.trained, None)
    model = LogisticRegression().fit(np.nan_to_num(inputs[train]), labels[train])
    scores = _scores(model, inputs)
    worth = accuracy(scores[held], labels[held])
    return model, Reference(
        version="v1",
        inputs={f"x{i}": column for i, column in enumerate(inputs[train].T)},
        score=scores[train],
        auc=worth.auc,
        log_loss=worth.log_loss,
        rows=worth.rows,
        label_rate=worth.label_rate,
    )


def _scores(model: LogisticRegression, inputs: Floats) -> Floats:
    scores: Floats = model.predict_proba(np.nan_to_num(inputs))[:, 1]
    return scores


def cut(
    known: Known, inputs: Floats, labels: Floats, scores: Floats, names: list[str]
) -> Iterator[Window]:
    """The stream as the drift worker reads it: a row a second, its outcome five seconds later."""
    policy = known.policy().window
    windows = Windows(
        results=[("results", 0)],
        joined=[("joined", 0)],
        length_ms=policy.length_ms,
        grace_ms=policy.grace_ms,
        rows_max=policy.rows_max,
    )
    waiting: list[JoinedRow] = []
    rows = zip(inputs.tolist(), (labels > 0).tolist(), scores.tolist(), strict=True)
    for index, (values, late, score) in enumerate(rows):
        at_ms = T0_MS + index * ROW_MS
        # NaN is null, as in a result's JSON.
        vector = {n: None if v != v else v for n, v in zip(names, values, strict=True)}  # noqa: PLR0124
        told = (at_ms, str(index), "scored", score, "v1", "champion", 1)
        windows.add_result(("results", 0), index, ResultRow(*told, vector))
        waiting.append(JoinedRow(*told, late))
        if index >= OUTCOME_AFTER_ROWS:
            windows.add_joined(("joined", 0), index, waiting[index - OUTCOME_AFTER_ROWS])
        # As often as the worker asks, which is once a batch.
        if index % BATCH_ROWS == 0:
            while (window := windows.close_ready()) is not None:
                yield window


def _ripples(judgement: Judgement, policy: Policy) -> int:
    alpha = policy.drift.inputs.alpha
    return any(c.p_value <= alpha and not c.drifted for c in judgement.columns)


def alarmed(seed: int, rows: int = 1_000) -> bool:
    """Whether twelve columns of one distribution are called drifted where every significant difference counts."""
    source = mixed(0.0)
    reference, window = (
        {f"x{i}": column for i, column in enumerate(source(2 * seed + side, rows)[0].T)}
        for side in (0, 1)
    )
    thresholds = Thresholds(alpha=rig.POLICY.drift.inputs.alpha, effect_min=0.0)
    codes = frozenset({"x5", "x6"})
    verdicts = compare(reference, window, categorical=codes, thresholds=thresholds)
    return any(verdict.drifted for verdict in verdicts)


def alarms_max(tries: int, rate: float) -> int:
    """So many false alarms at most may be chance, of so many tries at a nominal rate."""
    return int(stats.binom.isf(CHANCE, tries, rate))


def summary(known: Known, runs: list[Found]) -> dict[str, object]:
    """One line of the table."""
    delays = [run.delay_rows for run in runs if run.delay_rows is not None]
    middle, late, worst = (
        np.quantile(delays, (0.5, 0.95, 1)).astype(int).tolist() if delays else (None,) * 3
    )
    judged = [run.delay_windows for run in runs if run.delay_windows is not None]
    return {
        "stream": known.name,
        "seeds": len(runs),
        "window_rows": known.rows,
        "found": len(delays),
        "delay_rows_p50": middle,
        "delay_rows_p95": late,
        "delay_rows_max": worst,
        "delay_windows_max": max(judged, default=None),
        "quiet_windows": sum(run.quiet for run in runs),
        "false_alarms": dict(Counter(kind for run in runs for kind in run.false)),
        "significant_but_small": sum(run.ripples for run in runs),
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.monitoring.known_drift", description=__doc__
    )
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument(
        "--json", action="store_true", help="one line of JSON instead of the table of docs/drift.md"
    )
    arguments = parser.parse_args()
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    began = time.monotonic()
    with Progress(console=Console(stderr=True), disable=arguments.json) as progress:
        task = progress.add_task("no drift", total=len(seeds) * (len(KNOWN) + 1))
        alarms = 0
        for seed in seeds:
            alarms += alarmed(seed)
            progress.advance(task)
        lines = []
        for known in KNOWN.values():
            progress.update(task, description=known.name)
            runs = []
            for seed in seeds:
                runs.append(found(known, seed))
                progress.advance(task)
            lines.append(summary(known, runs))
    alpha = rig.POLICY.drift.inputs.alpha
    told: dict[str, Any] = {
        "same_distribution": {
            "seeds": len(seeds),
            "false_alarms": alarms,
            "nominal_rate": alpha,
            "allowed": alarms_max(len(seeds), alpha),
        },
        "streams": lines,
        "wall_s": round(time.monotonic() - began, 1),
    }
    if arguments.json:
        sys.stdout.write(json.dumps(told) + "\n")
    else:
        _show(told)


def _show(told: dict[str, Any]) -> None:
    """As docs/drift.md has it."""
    same = told["same_distribution"]
    print(  # noqa: T201 - a table is there to be read
        f"{same['false_alarms']} of {same['seeds']} windows were alarmed; the nominal rate is {same['nominal_rate']:.0%},"
        f" by which {same['allowed']} would be chance. The whole run took {told['wall_s']:.0f} s.\n"
    )
    heads = ("stream", "rows a window", "found", "after rows: median", "95 %", "all", "windows")
    quiet = ("false alarms before", "significant, too small to count")
    print("| " + " | ".join(heads + quiet) + " |\n|" + "---|" * len(heads + quiet))  # noqa: T201
    for line in told["streams"]:
        delays = [line[f"delay_rows_{name}"] for name in ("p50", "p95", "max")]
        alarms = ", ".join(f"{count} {kind}" for kind, count in line["false_alarms"].items())
        cells = [
            line["stream"],
            f"{line['window_rows']:,}",
            f"{line['found']} of {line['seeds']}",
            *("-" if delay is None else f"{delay:,}" for delay in delays),
            line["delay_windows_max"] or "-",
            f"{alarms or 'none'} in {line['quiet_windows']:,} windows",
            line["significant_but_small"],
        ]
        print("| " + " | ".join(map(str, cells)) + " |")  # noqa: T201


if __name__ == "__main__":
    main()
