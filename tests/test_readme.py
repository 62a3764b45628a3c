"""The README stays short, and every command in it is one that the end-to-end test runs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
LINES_MAX = 120


def console_commands() -> list[str]:
    """Every command that the README and the docs show on a console, without its comment."""
    pages = [README, *sorted((ROOT / "docs").rglob("*.md"))]
    blocks = [
        b
        for page in pages
        for b in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL)
    ]
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [line.removeprefix("$ ").split("#")[0].strip() for line in lines]


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= LINES_MAX


def test_every_make_target_of_the_readme_exists() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    wanted = {c.split()[1] for c in console_commands() if c.startswith("make ")}
    assert wanted <= set(targets)


def test_the_end_to_end_test_runs_every_other_command() -> None:
    told = (ROOT / "tests" / "test_end_to_end.py").read_text()
    for command in console_commands():
        if not command.startswith("make "):
            assert f'"{command.removeprefix("headrace ")}"' in told, command


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text())
    for link in links:
        if not link.startswith("http"):
            assert (ROOT / link).exists(), link
