"""What is a rule about the shape of the code is a test."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("schemas", "features", "pipelines", "serving", "monitoring", "infra")
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
NAMES_THAT_SAY_NOTHING = {"utils", "util", "helpers", "helper", "misc", "common"}

# Engine → the folders that may import it, tests aside.
HOMES = {
    "feast": {"features"},
    "pyiceberg": {"features"},
    "duckdb": {"features"},
    "redis": {"features"},
    "numba": {"features"},
    "pyflink": {"pipelines"},
    "skl2onnx": {"pipelines"},
    "onnx": {"pipelines", "serving/precision.py"},
    "ray": {"serving"},
    # The auditor scores again by itself: it shares no code with the scorer.
    "onnxruntime": {"serving", "infra/demo/audit.py"},
    "mlflow": {"serving"},
    "model_signing": {"serving"},
    "cyclonedx": {"pipelines"},
    "evidently": {"monitoring"},
    "faust": {"monitoring"},
    "typer": {"infra"},
    "rich": {"infra"},
}

SOURCES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere, by statement or by a literal `import_module`."""
    names: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Call) and _is_import_module(node.func):
            names |= {
                argument.value.partition(".")[0]
                for argument in node.args[:1]
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            }
    return names


def _is_import_module(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("import_module", "__import__")


def test_imports_run_one_way() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run(
        [linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_engines_stay_at_home() -> None:
    strays = [
        f"{name_of(path)} imports {engine}, whose home is {', '.join(sorted(homes))}"
        for path in SOURCES
        for engine, homes in HOMES.items()
        if engine in imported(path) and not _lives_in(path, homes)
    ]
    assert not strays, "\n".join(strays)


def _lives_in(path: Path, homes: set[str]) -> bool:
    relative = name_of(path)
    return any(relative == home or relative.startswith(f"{home}/") for home in homes)


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=name_of)
def test_files_and_functions_fit_the_eye(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= FILE_LINES_MAX, f"{lines} lines: look for the second idea in this file"
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{node.name} has {length} lines: it is two"


def test_every_file_is_named_by_its_noun() -> None:
    found = [name_of(path) for path in SOURCES if path.stem in NAMES_THAT_SAY_NOTHING]
    assert not found


def test_every_source_file_says_what_it_is() -> None:
    silent = [name_of(path) for path in SOURCES if ast.get_docstring(tree_of(path)) is None]
    assert not silent


def test_tests_use_no_mocks() -> None:
    mocked = [
        name_of(path)
        for path in [*SOURCES, *TESTS]
        for node in ast.walk(tree_of(path))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("unittest.mock"))
        or (
            isinstance(node, ast.Import)
            and any(a.name.startswith("unittest.mock") for a in node.names)
        )
    ]
    assert not mocked


def use_cases() -> set[str]:
    """A use case is one word at the same place in every layer that needs it."""
    layers = ("schemas", "features", "pipelines", "serving", "monitoring")
    stems = [{path.stem for path in (ROOT / layer).glob("*.py")} for layer in layers]
    return set.intersection(*stems) - {"settings", "__init__"}


# The setting's default, and the demo, which is about a use case.
MAY_NAME_A_CASE = ("infra/settings.py", "infra/commands/demo.py", "infra/demo/")


def test_the_platform_never_names_a_use_case() -> None:
    """Strings too: import-linter sees imports only, and a topic's name in a string binds as much."""
    cases = use_cases()
    assert "flights" in cases
    platform = [
        path
        for path in SOURCES
        if path.stem not in cases and not name_of(path).startswith(MAY_NAME_A_CASE)
    ]
    named = [
        f"{name_of(path)}:{node.lineno} {node.value!r}"
        for path in platform
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and any(node.value == case or node.value.startswith(f"{case}.") for case in cases)
    ]
    assert not named, "\n".join(named)
