"""The page of the loop: nothing unescaped, and only the words that would be taken."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring import brake, loop_html
from monitoring.brake import Word, folded
from monitoring.loop import Loop
from monitoring.loop_html import Forms, Outcome
from monitoring.loop_status import LoopStatus, loop_status
from monitoring.policy import DAY_MS
from monitoring.report_index import UNDATED, window_name
from schemas.control import Brake, BrakeKind, ControlEvent, Release
from schemas.control_log import Entry
from tests.monitoring import rig
from tests.monitoring.test_loop import POLICY, T0_MS, alert, candidate, order

APPROVED_BY = replace(POLICY, approval=True)
FORMS = Forms("t0ken", "ann")
TAGS = {
    *(
        "html",
        "meta",
        "title",
        "style",
        "main",
        "h1",
        "h2",
        "h3",
        "p",
        "a",
        "div",
        "table",
        "tr",
        "th",
        "td",
    ),
    *("span", "ol", "li", "form", "input", "label", "button", "code"),
}
EVIL = st.text(alphabet="<>&\"'/= axscript", max_size=30) | st.just('"><script>alert(1)</script>')


class Seen(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def fields(self, name: str) -> list[str | None]:
        return [a.get("value") for tag, a in self.tags if tag == "input" and a.get("name") == name]


def entries(*events: ControlEvent) -> list[Entry]:
    return [Entry(event, T0_MS + index) for index, event in enumerate(events)]


def proposed() -> list[ControlEvent]:
    found = alert(T0_MS, Loop(APPROVED_BY).decide(T0_MS, T0_MS + DAY_MS))
    return [found, order(found, approve_by_ms=T0_MS + 3 * DAY_MS)]


def told(*events: ControlEvent, at_ms: int = T0_MS + DAY_MS) -> LoopStatus:
    return loop_status("c", entries(*events), APPROVED_BY, at_ms, 5)


def said(events: list[ControlEvent], word: Word) -> Brake:
    return brake.brake("c", folded(entries(*events), APPROVED_BY), word, T0_MS + DAY_MS)


def offered(status: LoopStatus, in_force: Release | None = None) -> list[str]:
    return [form.word for form in loop_html.forms_of(status, in_force)]


def test_only_what_means_something_is_offered() -> None:
    assert offered(told()) == ["pause"]
    events = proposed()
    name = events[1].event_id
    assert offered(told(*events)) == ["approve", "refuse", "pause"]
    assert offered(told(*events, at_ms=T0_MS + 4 * DAY_MS)) == ["refuse", "pause"]
    events.append(said(events, Word(BrakeKind.APPROVE, "ann", "seen", name)))
    events.append(said(events, Word(BrakeKind.PAUSE, "ann", "late labels")))
    assert offered(told(*events)) == ["refuse", "resume", "pause"]
    events.append(candidate(name, T0_MS + DAY_MS))
    canary = rig.release("c", canary="v2")
    assert offered(told(*events), canary) == ["rollback", "resume", "pause"]


def test_each_form_names_what_it_is_about_and_the_equal_command() -> None:
    events = proposed()
    releases = entries(rig.release("c", canary="v2"))
    page = loop_html.page(
        told(*events), releases, pages={T0_MS: "w.html"}, doing="fitting", forms=FORMS
    )
    seen = Seen(page)
    assert seen.fields("word") == ["approve", "refuse", "rollback", "pause"]
    assert seen.fields("order") == [events[1].event_id] * 2
    assert seen.fields("canary") == ["v2"]
    assert set(seen.fields("token")) == {"t0ken"}
    assert set(seen.fields("by")) == {"ann"}
    assert f"headrace loop approve {events[1].event_id} --reason REASON --by ann" in page
    assert "headrace release rollback --reason REASON --by ann" in page
    assert page.count('href="w.html"') == 2  # of the order, and of its alert
    assert "fitting" in seen.text
    labelled = {a["for"] for tag, a in seen.tags if tag == "label"}
    typed = {a["id"] for tag, a in seen.tags if tag == "input" and a.get("type") != "hidden"}
    assert labelled == typed


def test_without_forms_nothing_can_be_said() -> None:
    page = loop_html.page(told(*proposed()), [], pages={})
    assert not {"form", "input", "button"} & {tag for tag, _ in Seen(page).tags}
    assert "No release yet" in page


@pytest.mark.parametrize(
    "far_ms", [10**16, 10**400, -(10**16)], ids=["far", "no float", "long ago"]
)
def test_instants_that_no_calendar_has_do_not_hide_the_loop(far_ms: int) -> None:
    """Whoever may write to a topic may write any number; the button that ends the pause must stay."""
    first, proposal = proposed()
    far = [
        first.model_copy(update={"window_start_ms": far_ms, "window_end_ms": far_ms}),
        proposal.model_copy(update={"approve_by_ms": abs(far_ms)}),
    ]
    far.append(said(far, Word(BrakeKind.PAUSE, "eve", "?", until_ms=abs(far_ms))))
    status = told(*far)
    assert offered(status) == ["approve", "refuse", "resume", "pause"]
    assert f"{abs(far_ms)} ms after 1970" in loop_html.page(status, [], pages={}, forms=FORMS)
    assert window_name(far_ms) == UNDATED


@given(EVIL, EVIL, EVIL)
def test_whatever_events_say_stays_text(first: str, second: str, third: str) -> None:
    status = told(*proposed())
    assert status.order is not None
    named = replace(status.order, order_id=first, reason=second, steps=(third,))
    alerts = tuple(
        replace(a, version=first, columns=(second,), done=third, steps=(first,))
        for a in status.alerts
    )
    status = replace(
        status, case=first, order=named, alerts=alerts, paused_by=second, held_back_by=third
    )
    release = rig.release("c").model_copy(
        update={
            "champion": first,
            "canary": second,
            "shadow": third,
            "decided_by": first,
            "reason": second,
        }
    )
    page = loop_html.page(
        status,
        entries(release),
        pages={T0_MS: "w.html"},
        doing=third,
        forms=Forms(first, second),
        outcome=Outcome(second, third, refused=True),
    )
    for seen in (Seen(page), Seen(loop_html.away(first, second, Outcome(third, first)))):
        assert {tag for tag, _ in seen.tags} <= TAGS
        for text in (first, second, third):
            assert text in seen.text or text.strip() == ""
        assert not [a for _, attributes in seen.tags for a in attributes if a.startswith("on")]
    assert set(Seen(page).fields("token")) == {first}
