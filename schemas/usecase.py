"""Use cases are one word at the same place in every layer; the platform loads them by name."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from schemas.errors import HeadraceError


class UnknownUseCase(HeadraceError):
    """A layer has no module of the use case's name."""


def load(layer: str, case: str) -> ModuleType:
    """Import `<layer>.<case>`, for example `features.flights`.

    Raises:
        UnknownUseCase: The layer has no such module.
    """
    name = f"{layer}.{case}"
    if not case.isidentifier() or find_spec(name) is None:
        raise UnknownUseCase(
            f"use case {case!r}",
            wanted=f"a module {name}",
            came="there is none",
            mend="Check the setting `case` (HEADRACE_CASE).",
        )
    return import_module(name)
