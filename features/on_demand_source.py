"""The function of an on-demand view, cut out of its module's text with all that it needs of the module around it.

Feast keeps a function in its registry as a pickle and as text, and runs either when the registry is read. Here only code
that lies in the module itself is ever run, and whoever runs it, with or without Feast, takes it from there: the function,
the module's plain constants, functions and imports that it uses, and nothing else. What was cut is also what its digest is
made of, so that a comment changes nothing and a constant does.
"""

from __future__ import annotations

import ast
import builtins
import dis
import hashlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

from schemas.errors import HeadraceError

# Without clocks, files and networks, what a function gives depends on its arguments alone.
MODULES = frozenset({"math", "numpy", "pandas"})


class FunctionUnusable(HeadraceError):
    """A function that cannot be cut out of its module."""


class Cut(NamedTuple):
    """A function on its own: its text, its digest (16 hex digits), and the line of the module it begins at."""

    name: str
    text: str
    digest: str
    line: int


def cut(source: str, name: str) -> Cut:
    """Cut a function out of a module's text.

    Raises:
        FunctionUnusable: It is not there, or needs something else of the module than constants, functions, and imports
            of `MODULES`.
    """
    tree = ast.parse(source)
    bound = dict(_bound(tree))
    if not isinstance(bound.get(name), ast.FunctionDef):
        raise FunctionUnusable(
            f"function {name}",
            wanted="a `def` at the top level of its module",
            came="there is none of that name",
            mend="Give it a name and put it there; a lambda or an inner function has no place to be found at.",
        )
    needed: dict[str, ast.stmt] = {}
    open_names = [name]
    while open_names:
        one = open_names.pop()
        if one in needed or (one not in bound and hasattr(builtins, one)):
            continue
        needed[one] = _usable(name, one, bound.get(one))
        open_names += _globals(compile(_text([needed[one]]), one, "exec"))
    ordered = {id(s): s for s in sorted(needed.values(), key=lambda s: s.lineno)}
    text = _text(list(ordered.values()))
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return Cut(name, text, digest, _first_line(bound[name]))


def load(module: str, name: str) -> tuple[Callable[..., Any], Cut]:
    """The function as it stands in the module's file now; the module itself, and Feast with it, is not imported.

    Raises:
        FunctionUnusable: The module has no file, or the function cannot be cut out.
    """
    found = cut(source_of(module), name)
    space: dict[str, Any] = {"__name__": module}
    exec(compile(found.text, f"{module}:{name}", "exec"), space)  # noqa: S102 - our own module's text
    function: Callable[..., Any] = space[name]
    return function, found


def source_of(module: str) -> str:
    """The text of an importable module.

    Raises:
        FunctionUnusable: It has no file.
    """
    spec = find_spec(module)
    if spec is None or not spec.origin or not Path(spec.origin).is_file():
        raise FunctionUnusable(
            f"module {module}",
            wanted="a file that functions can be read from",
            came="there is none",
            mend="Define on-demand views in the use case's own module.",
        )
    return Path(spec.origin).read_text(encoding="utf-8")


def _bound(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    for statement in tree.body:
        match statement:
            case ast.FunctionDef():
                yield statement.name, statement
            case ast.Import() | ast.ImportFrom():
                for alias in statement.names:
                    yield alias.asname or alias.name.partition(".")[0], statement
            case ast.Assign(targets=[ast.Name(id=name)]):
                yield name, statement
            case ast.AnnAssign(target=ast.Name(id=name)) if statement.value is not None:
                yield name, statement


def _usable(function: str, name: str, statement: ast.stmt | None) -> ast.stmt:
    """A statement that may stand beside the function: stripped of what changes no value."""
    match statement:
        case ast.FunctionDef():
            return _stripped(statement)
        case ast.Import() if all(_allowed(alias.name) for alias in statement.names):
            return statement
        case ast.ImportFrom(module=str(module), level=0) if _allowed(module):
            return statement
        case ast.Assign(value=value) if _is_literal(value):
            return statement
        case ast.AnnAssign(value=ast.expr() as value) if _is_literal(value):
            constant = ast.Assign([ast.Name(name, ast.Store())], value, lineno=statement.lineno)
            return ast.fix_missing_locations(constant)
    raise FunctionUnusable(
        f"function {function}",
        wanted=f"constants, functions and imports of {sorted(MODULES)} only",
        came=f"it uses {name!r}, which is none of them",
        mend="Hand it over as an input, or write it as a plain constant at the top of the module.",
    )


def _stripped(function: ast.FunctionDef) -> ast.FunctionDef:
    body = function.body
    if ast.get_docstring(function) is not None:
        body = body[1:] or [ast.Pass()]
    given = function.args
    bare = [ast.arg(a.arg) for a in given.args]
    arguments = ast.arguments(
        posonlyargs=[ast.arg(a.arg) for a in given.posonlyargs],
        args=bare,
        vararg=ast.arg(given.vararg.arg) if given.vararg else None,
        kwonlyargs=[ast.arg(a.arg) for a in given.kwonlyargs],
        kw_defaults=given.kw_defaults,
        kwarg=ast.arg(given.kwarg.arg) if given.kwarg else None,
        defaults=given.defaults,
    )
    stripped = ast.FunctionDef(function.name, arguments, body, [], None, None)
    stripped.lineno = function.lineno
    return ast.fix_missing_locations(stripped)


def _first_line(statement: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(d.lineno for d in decorators)])


def _text(statements: list[ast.stmt]) -> str:
    return "\n".join(ast.unparse(statement) for statement in statements) + "\n"


def _globals(code: CodeType) -> set[str]:
    names = {
        str(i.argval)
        for i in dis.get_instructions(code)
        if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }
    inner = [_globals(c) for c in code.co_consts if isinstance(c, CodeType)]
    return names.union(*inner)


def _allowed(module: str) -> bool:
    return module.partition(".")[0] in MODULES


def _is_literal(value: ast.expr) -> bool:
    try:
        ast.literal_eval(value)
    except (ValueError, TypeError):
        return False
    return True
