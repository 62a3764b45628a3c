"""Which versions of views a change of definitions brings, and which it leaves behind. Pure."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from features.views import Plan, Retired, View


def renewed(before: Plan, wanted: Plan, again: Collection[str] = ()) -> Plan:
    """The wanted plan, each view in the generation that it has; those of `again` in the next one.

    A view that was never applied begins with the first. One that was stays in its newest, for older ones were given up.

    Raises:
        UnknownDefinition: `again` names a view that the plan does not have.
    """
    for name in again:
        wanted.view(name)
    known = [*before.views, *(one.view for one in before.retired)]
    views = []
    for view in wanted.views:
        kin = [o.generation for o in known if o.name == view.name and _first(o) == _first(view)]
        generation = max(kin, default=0) + (1 if kin and view.name in again else 0)
        views.append(msgspec.structs.replace(view, generation=generation))
    return msgspec.structs.replace(wanted, views=tuple(views))


def _first(view: View) -> str:
    return msgspec.structs.replace(view, generation=0).layout_fingerprint


def fresh(before: Plan, wanted: Plan) -> list[tuple[View, View | None]]:
    """The views whose rings nobody reads yet, each with the version that it replaces, if any."""
    read = {view.versioned for view in before.views}
    old = {view.name: view for view in before.views}
    return [(v, old.get(v.name)) for v in wanted.views if v.versioned not in read]


def changed_services(before: Plan, wanted: Plan) -> list[str]:
    """Services that would mean something else under their old name: models of theirs would be refused."""
    names = {s.name for s in before.services} & {s.name for s in wanted.services}
    changed = (n for n in names if before.service_fingerprint(n) != wanted.service_fingerprint(n))
    return sorted(changed)


def succeeded(before: Plan, wanted: Plan, now_ms: int) -> Plan:
    """The plan that replaces `before`: it remembers what is retired by that, besides what was."""
    stays = {view.versioned for view in wanted.views}
    rows = {view.stored for view in wanted.row_views}
    retired = [one for one in before.retired if one.view.versioned not in stays]
    retired += [
        Retired(view, now_ms, before.handover(view))
        for view in before.views
        if view.versioned not in stays
    ]
    gone = dict.fromkeys([*before.retired_rows, *(view.stored for view in before.row_views)])
    return msgspec.structs.replace(
        wanted,
        retired=tuple(retired),
        retired_rows=tuple(name for name in gone if name not in rows),
        incomplete=tuple(sorted(stays & {*before.incomplete, *wanted.incomplete})),
    )
