from __future__ import annotations

from html.parser import HTMLParser

from features.causes import CAUSES
from features.parity import Example, ParityReport
from features.parity_page import COLOURS, MEANING, page

COUNTS = {"equal": 90, "in_flight": 5, "ahead": 0, "late": 4, "expired": 0, "definition": 0}
REPORT = ParityReport(
    compared=100,
    **COUNTS,
    unexplained=1,
    by_feature={"levels__mean_1h": {**COUNTS, "unexplained": 1}},
    examples=(Example("<script>r1", "levels__mean_1h", 1.5, float("nan"), "unexplained"),),
)


class Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not any(name in ("src", "href") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.found.append(data)


def test_a_page_needs_nothing_else_and_escapes_what_came_from_outside() -> None:
    parsed = Text()
    parsed.feed(page(REPORT, "Parity of levels_v1"))
    text = " ".join(parsed.found)
    assert "script" not in parsed.tags
    assert {"table", "h1"} <= parsed.tags
    for told in (
        "1 unexplained",
        "levels__mean_1h",
        "<script>r1",
        "90.00% equal",
        "null",
        "in flight: 5",
    ):
        assert told in text


def test_a_report_without_differences_says_so() -> None:
    assert "No value differs." in page(REPORT._replace(examples=(), unexplained=0), "x")
    nothing = REPORT._replace(compared=0, equal=0, by_feature={}, examples=())
    assert "0 values compared" in page(nothing, "x")


def test_every_cause_has_a_colour_and_a_meaning() -> None:
    assert set(COLOURS) == set(MEANING) == set(CAUSES)
