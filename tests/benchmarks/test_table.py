from __future__ import annotations

import json

from tests.benchmarks.contenders import RESULTS, Run, measured, race, ratio, row, times
from tests.benchmarks.table import BEGIN, DASH, END, PAGE, page, rendered


def test_the_page_shows_what_was_measured() -> None:
    text = PAGE.read_text()
    assert page(text, json.loads(RESULTS.read_text())) == text, (
        "run python -m tests.benchmarks.table"
    )


def test_what_stands_around_the_tables_is_left_alone() -> None:
    assert page(f"a\n{BEGIN}\nold\n{END}\nb\n", []).startswith(f"a\n{BEGIN}\n| row |")
    assert page(f"a\n{BEGIN}\nold\n{END}\nb\n", []).endswith(f"{END}\nb\n")


def test_a_row_holds_ratios_run_by_run() -> None:
    runs = {
        "ours": [Run(2.0, 1.0, 5.0), Run(4.0, 3.0, 7.0), Run(6.0, 2.0, 6.0)],
        "limit": [Run(1.0, 1.0, 5.0), Run(4.0, 1.0, 5.0), Run(2.0, 1.0, 5.0)],
        "peer": [Run(20.0, 1.0, 5.0), Run(4.0, 1.0, 5.0), Run(18.0, 1.0, 5.0)],
    }
    found = row("x", "work", runs, {"thing": "1.0"}, calls=2)
    assert (found["ours_ms"], found["limit_ms"]) == (2_000.0, 1_000.0)
    assert (found["ours_to_limit"], found["spread"]) == (2.0, [1.0, 3.0])
    assert found["peer_to_ours"] == {"peer": 3.0}
    assert found["contenders"]["ours"] == {"ms": 2_000.0, "cpu_s": 1.0, "peak_mb": 7}  # type: ignore[index]
    line = f"| x | work | 2000.0 | 1000.0 | 2.0 (1.0{DASH}3.0) | peer 3.0 (1.0{DASH}10.0) |"
    assert line in rendered([found])


def test_contenders_take_turns_and_the_first_time_does_not_count() -> None:
    order: list[str] = []
    runs = race({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert [len(of) for of in runs.values()] == [2, 2]


def test_memory_is_measured_of_the_work_alone() -> None:
    before = measured(lambda: None).peak_mb
    assert measured(lambda: bytearray(200_000_000)).peak_mb > before + 150
    assert measured(lambda: None).peak_mb < before + 50
    assert ratio([Run(1, 0, 0)], [Run(2, 0, 0)]) == (0.5, [0.5, 0.5])
    assert measured(lambda: Run(7.0, 8.0, 9.0)) == Run(7.0, 8.0, 9.0)


def test_work_is_repeated() -> None:
    done: list[int] = []
    times(lambda: done.append(1), 3)()
    assert len(done) == 3
