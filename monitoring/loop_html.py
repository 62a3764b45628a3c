"""The loop as a page: what it is about, what was done, and forms for the words that mean something now. Pure; without scripts.

A form says what the command beside it says. What it is about (the order, the canary) is in the form, so that a page that has
grown old speaks of what its reader saw.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING

from monitoring.loop import day
from monitoring.policy import DAY_MS
from monitoring.report_html import HEAD
from schemas.control import Release

if TYPE_CHECKING:
    from monitoring.loop_status import LoopStatus
    from schemas.control_log import Entry

# Characters of a form's fields; what is longer is refused.
REASON_MAX, NAME_MAX, UNTIL_MAX = 500, 100, 40
STYLE = """<style>
.wide { overflow-x: auto; } .facts { overflow-wrap: anywhere; } .t { white-space: nowrap; }
.forms { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); gap: 1rem; }
form { border: 1px solid #ccc; padding: 0 1rem .5rem; }
label { display: block; margin-top: .6rem; } input, button { font: inherit; padding: .35rem .6rem; box-sizing: border-box; }
input { width: 100%; } button { margin: .8rem 0 .4rem; cursor: pointer; }
code { background: #f3f3f3; overflow-wrap: anywhere; } th[scope=row] { width: 12rem; }
.told { border-left: 4px solid #393; padding: .1rem 1rem; background: #f2f8f2; }
.refused { border-left-color: #a00; background: #fbf1f1; } .none { color: #555; }
</style>
"""


@dataclass(frozen=True)
class Outcome:
    """What became of a form that was sent: the command that is equal to it, and what that prints."""

    command: str
    said: str
    refused: bool = False


@dataclass(frozen=True)
class Forms:
    """What forms need: the token that the server takes them by, and whose shell it was started from."""

    token: str
    user: str


@dataclass(frozen=True)
class Form:
    """A word that can be said now.

    Attributes:
        word: Its name.
        title: What the button says.
        why: What it does.
        about: What it is said of: hidden fields.
        until: Whether it may end by itself.
    """

    word: str
    title: str
    why: str
    about: Mapping[str, str] = field(default_factory=dict)
    until: bool = False


def command(word: str, about: Mapping[str, str], *, reason: str, by: str, until: str = "") -> str:
    """The command line that says the same."""
    verb = ["release", word] if word == "rollback" else ["loop", word]
    named = [about["order"]] if "order" in about else []
    ends = ["--until", until] if until else []
    return shlex.join(["headrace", *verb, *named, "--reason", reason, *ends, "--by", by])


def forms_of(told: LoopStatus, in_force: Release | None) -> list[Form]:
    """The words that would not be refused as things are."""
    found = []
    order = told.order
    if order and order.waits and told.clock_ms <= (order.approve_by_ms or 0):
        why = "It is trained; a candidate that passes the gate goes out as a canary."
        found.append(Form("approve", "Approve the order", why, {"order": order.order_id}))
    if order and order.is_open and not order.trained:
        why = "It is closed and not trained; what is being trained for it is thrown away."
        found.append(Form("refuse", "Refuse the order", why, {"order": order.order_id}))
    if in_force and in_force.canary:
        why = f"Ends the canary {in_force.canary}; {in_force.champion} answers all keys again."
        about = {"canary": in_force.canary}
        found.append(Form("rollback", f"Roll back {in_force.canary}", why, about))
    if told.paused_by:
        why = "Alerts order retrainings again. What was held back meanwhile is not made up for."
        found.append(Form("resume", "End the pause", why))
    why = "Nothing is ordered from now on. Windows are judged as before; an open order goes on."
    found.append(Form("pause", "Pause the loop", why, until=True))
    return found


def page(
    told: LoopStatus,
    releases: Sequence[Entry],
    *,
    pages: Mapping[int, str],
    doing: str = "",
    forms: Forms | None = None,
    outcome: Outcome | None = None,
) -> str:
    """The page of a loop that can be asked.

    Args:
        told: Its state.
        releases: Newest first; the first is in force.
        pages: Start of a window → the file of its page, for those that have one.
        doing: What the trainer is at.
        forms: None shows without forms.
        outcome: Of the form that was sent last.
    """
    in_force = _release(releases[0]) if releases else None
    return (
        _head(told.case)
        + _outcome(outcome)
        + _state(told, in_force, doing)
        + _order_section(told, pages)
        + (_forms(forms_of(told, in_force), forms) if forms else "")
        + _alerts(told, pages)
        + _releases(releases)
        + _foot(told)
    )


def away(case: str, why: str, outcome: Outcome | None = None) -> str:
    """The page of a loop that cannot be asked."""
    return (
        _head(case)
        + _outcome(outcome)
        + f'<div class="told refused" role="alert"><p>The loop cannot be asked now: {escape(why)}</p></div>\n'
        + "<p>The pages of the windows need no broker.</p>\n</main></html>\n"
    )


def _head(case: str) -> str:
    return (
        HEAD.format(title=f"{escape(case)}: the loop").replace("<h1>", f"{STYLE}<main>\n<h1>")
        + '<p><a href="index.html">all windows</a>, <a href="loop">this page as of now</a></p>\n'
    )


def _outcome(outcome: Outcome | None) -> str:
    if outcome is None:
        return ""
    role, css = ("alert", "told refused") if outcome.refused else ("status", "told")
    return (
        f'<div class="{css}" role="{role}"><p>{"Refused: " if outcome.refused else ""}{escape(outcome.said)}</p>'
        f"<p>The same as <code>{escape(outcome.command)}</code></p></div>\n"
    )


def _state(told: LoopStatus, in_force: Release | None, doing: str) -> str:
    held = told.held_back_by or "nothing: an alert would be obeyed"
    until = f" until {day(told.paused_until_ms)}" if told.paused_until_ms else ""
    budget = f"{told.budget_left} of {told.budget} orders in {told.budget_per_ms / DAY_MS:g} days"
    facts = {
        "state": told.state,
        "held back by": held,
        "paused": f"by {told.paused_by}{until}" if told.paused_by else "no",
        "brakes left": budget,
        "cool-down until": day(told.cool_down_until_ms) if told.cool_down_until_ms else "-",
        "quiet until": day(told.quiet_until_ms) if told.quiet_until_ms else "-",
        "an order needs": "approval" if told.approval else "nobody's approval",
        "in force": _in_force(in_force) if in_force else "no release yet",
        "the stream's clock": day(told.clock_ms),
    }
    if doing:
        facts["the trainer is at"] = doing
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>\n'
        for name, value in facts.items()
    )
    return f'<h2>State</h2>\n<div class="facts"><table>\n{rows}</table></div>\n'


def _in_force(release: Release) -> str:
    canary = f", canary {release.canary} at {_share(release)}" if release.canary else ""
    suspended = " (suspended)" if release.suspended else ""
    return f"champion {release.champion}{suspended}{canary}"


def _order_section(told: LoopStatus, pages: Mapping[int, str]) -> str:
    order = told.order
    if order is None:
        return "<h2>Order</h2>\n<p>No order yet.</p>\n"
    state = "The open order" if order.is_open else "The last order, closed"
    steps = [escape(step) for step in order.steps]
    if order.waits and order.approve_by_ms:
        steps.append(f"waits for approval until {day(order.approve_by_ms)}")
    listed = "".join(f"<li>{step}</li>\n" for step in steps)
    window = _link(order.window_start_ms, pages, "the page of its window")
    return (
        f"<h2>{state}</h2>\n<p><code>{escape(order.order_id)}</code>, {day(order.opened_ms)}: {escape(order.reason)}</p>\n"
        + (f"<p>{window}</p>\n" if window else "")
        + (f"<ol>\n{listed}</ol>\n" if steps else "<p>Nothing has become of it yet.</p>\n")
    )


def _forms(found: Sequence[Form], forms: Forms) -> str:
    said = "".join(_form(one, forms) for one in found)
    return f'<h2>What can be said now</h2>\n<div class="forms">\n{said}</div>\n'


def _form(form: Form, forms: Forms) -> str:
    hidden = {"token": forms.token, "word": form.word, **form.about}
    fields = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in hidden.items()
    )
    until = (
        _field(
            form.word,
            "until",
            "Until (2d, or 2013-06-12T06:00; empty: until it is ended)",
            "",
            UNTIL_MAX,
        )
        if form.until
        else ""
    )
    same = command(form.word, form.about, reason="REASON", by=forms.user)
    return (
        f'<form method="post" action="loop" aria-labelledby="{form.word}-title">\n'
        f'<h3 id="{form.word}-title">{escape(form.title)}</h3>\n<p>{escape(form.why)}</p>\n{fields}\n'
        + _field(form.word, "reason", "Reason", "", REASON_MAX, required=True)
        + until
        + _field(form.word, "by", "Your name", forms.user, NAME_MAX, required=True)
        + f"<button>{escape(form.title)}</button>\n<p>The same: <code>{escape(same)}</code></p>\n</form>\n"
    )


def _field(
    word: str, name: str, label: str, value: str, length_max: int, *, required: bool = False
) -> str:
    return (
        f'<label for="{word}-{name}">{escape(label)}</label>\n<input id="{word}-{name}" name="{name}"'
        f' value="{escape(value)}" maxlength="{length_max}" autocomplete="off"{" required" if required else ""}>\n'
    )


def _alerts(told: LoopStatus, pages: Mapping[int, str]) -> str:
    if not told.alerts:
        return "<h2>Alerts</h2>\n<p>No alert yet.</p>\n"
    rows = [
        (
            _time(day(alert.at_ms)),
            _time(
                _link(alert.window_start_ms, pages, day(alert.window_start_ms))
                or day(alert.window_start_ms)
            ),
            escape(alert.version),
            escape(", ".join(alert.kinds)),
            escape(", ".join(alert.columns)),
            escape("; ".join((alert.done, *alert.steps))),
        )
        for alert in told.alerts
    ]
    heads = ("alert (UTC)", "window from", "champion", "drift", "columns", "what was done")
    return f"<h2>Alerts, newest first</h2>\n{_table(heads, rows)}"


def _releases(releases: Sequence[Entry]) -> str:
    if not releases:
        return "<h2>Releases</h2>\n<p>No release yet.</p>\n"
    rows = []
    for entry in releases:
        release = _release(entry)
        rows.append(
            (
                str(release.epoch),
                _time(_wall(entry.ingest_ms)),
                escape(release.champion) + (" suspended" if release.suspended else ""),
                escape(f"{release.canary} at {_share(release)}" if release.canary else "-"),
                escape(release.shadow or "-"),
                escape(release.decided_by),
                escape(release.reason),
            )
        )
    heads = ("epoch", "published (UTC)", "champion", "canary", "shadow", "who", "why")
    return (
        f"<h2>Releases, newest first</h2>\n{_table(heads, rows)}"
        '<p class="none">Kafka compacts this topic: in time only the release in force is left.</p>\n'
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already."""
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}\n</table></div>\n'


def _foot(told: LoopStatus) -> str:
    return (
        f'<p class="none">As of the control topics of {escape(told.case)} when this page was asked for. Times of orders and'
        " alerts are the stream's clock, UTC.</p>\n</main></html>\n"
    )


def _link(window_start_ms: int | None, pages: Mapping[int, str], text: str) -> str:
    """To the page of a window; empty where there is none."""
    name = pages.get(window_start_ms) if window_start_ms is not None else None
    return f'<a href="{escape(name)}">{escape(text)}</a>' if name else ""


def _release(entry: Entry) -> Release:
    assert isinstance(entry.event, Release), entry.event
    return entry.event


def _share(release: Release) -> str:
    return f"{release.canary_share * 100:.4g} %"


def _time(text: str) -> str:
    """On one line; `text` is HTML."""
    return f'<span class="t">{text}</span>'


def _wall(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"
