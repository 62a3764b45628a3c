"""Which ports the embedded engines listen on: fixed by settings, else as last time, else free ones."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from infra import atomic_file
from infra.local import process
from schemas.errors import HeadraceError

if TYPE_CHECKING:
    from pathlib import Path

    from infra.settings import Settings

# Port setting under `local` → (engine that must be embedded, section and key that clients read).
_PORTS = {
    "kafka_port": ("kafka", "kafka", "bootstrap_servers"),
    "redis_port": ("redis", "stores", "redis_url"),
    "flink_port": ("flink", "flink", "rest_port"),
    "ray_port": ("ray", "serving", "ray_address"),
    "dashboard_port": ("ray", "serving", "dashboard_port"),
    "http_port": ("", "serving", "http_port"),
}


class PortTaken(HeadraceError):
    """A port that the settings fix is in use by somebody else."""


def path_of(settings: Settings) -> Path:
    """The file that clients' settings read while the stack runs."""
    return settings.run_dir / "endpoints.json"


def ports_file(settings: Settings) -> Path:
    """The ports of the last start: kept after `down`, so that a bookmark stays good."""
    return settings.run_dir / "ports.json"


def choose(settings: Settings) -> dict[str, int]:
    """A port for every embedded engine, by its name under `local`.

    Raises:
        PortTaken: A fixed port is in use.
    """
    last = atomic_file.read_json(ports_file(settings)) or {}
    ports: dict[str, int] = {}
    for name, (engine, _, _) in _PORTS.items():
        if engine and not getattr(settings.local, engine):
            continue
        fixed = getattr(settings.local, name)
        if fixed and not process.is_free(fixed):
            raise PortTaken(
                f"setting local.{name}",
                wanted=f"port {fixed} free on {process.LOOPBACK}",
                came="something listens there",
                mend="Stop that program (`ss -ltnp`), name another port, or 0 for a free one.",
            )
        ports[name] = fixed or _free(last.get(name), taken=ports.values())
    return ports


def sections(ports: dict[str, int]) -> dict[str, dict[str, Any]]:
    """The addresses as settings sections."""
    tree: dict[str, dict[str, Any]] = {}
    for name, port in ports.items():
        _, section, key = _PORTS[name]
        value: int | str = port
        if key in ("bootstrap_servers", "ray_address"):
            value = f"{process.LOOPBACK}:{port}"
        elif key == "redis_url":
            value = f"redis://{process.LOOPBACK}:{port}/0"
        tree.setdefault(section, {})[key] = value
    if "flink_port" in ports:
        tree["flink"]["rest_address"] = process.LOOPBACK
    return tree


def resolve(settings: Settings, ports: dict[str, int]) -> Settings:
    """The settings with these addresses, which clients and workers use."""
    updates = {
        name: getattr(settings, name).model_copy(update=values)
        for name, values in sections(ports).items()
    }
    return settings.model_copy(update=updates)


def _free(last: int | None, taken: Collection[int]) -> int:
    if last and process.is_free(last):
        return last
    while (port := process.free_port()) in taken:
        continue
    return port
