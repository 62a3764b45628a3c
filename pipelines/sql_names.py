"""What may stand in SQL: names like identifiers and topics. Everything else is refused, never escaped."""

from __future__ import annotations

import re

from schemas.errors import HeadraceError

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
TOPIC = re.compile(r"[A-Za-z0-9._-]+")


class SqlRefused(HeadraceError):
    """A name cannot be put into SQL: it is refused, never escaped."""


def quoted(name: str) -> str:
    """A name as an identifier.

    Raises:
        SqlRefused: It is none.
    """
    if not IDENTIFIER.fullmatch(name):
        raise SqlRefused(
            f"identifier {name!r}", wanted=f"a name like {IDENTIFIER.pattern}", came="it is not one"
        )
    return f"`{name}`"


def topic_name(name: str) -> str:
    """A topic's name, to stand in a literal.

    Raises:
        SqlRefused: Kafka would not have it.
    """
    if not TOPIC.fullmatch(name):
        raise SqlRefused(
            f"topic {name!r}", wanted=f"a name like {TOPIC.pattern}", came="it is not one"
        )
    return name


def literal(text: str) -> str:
    """Any text as a literal."""
    return "'" + text.replace("'", "''") + "'"
