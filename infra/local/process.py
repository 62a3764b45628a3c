"""Child processes that cannot outlive the stack.

Every process of a stack carries two marks in its environment, which its own children inherit: the stack it belongs to
and the service it is. `sweep` finds processes by these marks, so that even a process that daemonised itself, or whose
parents were all killed with -9, is found and ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

import psutil

STACK_MARK = "_HEADRACE_STACK"
SERVICE_MARK = "_HEADRACE_SERVICE"
LOOPBACK = "127.0.0.1"

_PACKAGES = Path(__file__).parents[2]
_PR_SET_PDEATHSIG = 1
# Loaded before any fork: between fork and exec a child of a threaded process must not import or open libraries.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_parent(number: signal.Signals) -> None:
    """Ask Linux to signal this process when the thread that forked it ends (prctl(2))."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, number)


def spawn(
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str],
    parent_death: signal.Signals | None = signal.SIGKILL,
    folder: Path = _PACKAGES,
) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own, its output appended to `log`.

    With `parent_death` the child gets that signal when the *thread* that calls this ends, not only the process: call it
    from a thread that lives as long as the child shall. The session keeps a terminal's Ctrl-C away, so that only the
    owner decides when it ends. It runs in the `folder` that holds headrace's packages: with `python -m` another folder's
    own `features/` would be imported instead.
    """
    before = None if parent_death is None else partial(_die_with_parent, parent_death)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - commands come from this package, never from input
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=folder,
            start_new_session=True,
            preexec_fn=before,  # noqa: PLW1509 - one prctl, its library loaded before
        )


def signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to the process and everything in its group; harmless when it is already gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def end(process: subprocess.Popen[bytes], *, grace_s: float) -> None:
    """SIGTERM, wait at most `grace_s`, then SIGKILL for its group; returns when the process has been reaped."""
    if process.poll() is not None:
        return  # Reaped: its number may be another's by now.
    signal_group(process, signal.SIGTERM)
    # Waiting without reaping keeps the number, and so the group, ours until the last signal is out.
    with contextlib.suppress(psutil.Error):
        _wait_unreaped(psutil.Process(process.pid), grace_s)
    signal_group(process, signal.SIGKILL)
    process.wait()


def _wait_unreaped(process: psutil.Process, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.02)


def marked(
    stack: str, service: str | None = None, *, spare: Collection[str] = ()
) -> list[psutil.Process]:
    """Live processes of `stack` (of one `service` of it), without the caller and the services in `spare`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            environment = process.environ()
            name = environment.get(SERVICE_MARK, "")
            if environment.get(STACK_MARK) != stack or name in spare:
                continue
            if service in (None, name):
                found.append(process)
    return found


def sweep(
    stack: str,
    service: str | None = None,
    *,
    spare: Collection[str] = (),
    timeout_s: float = 5.0,
) -> int:
    """Kill what is left of `stack` (of one `service` of it) and say how many processes that were."""
    killed: set[int] = set()
    deadline = time.monotonic() + timeout_s
    # A dying parent may still fork: look again until a look finds nothing.
    while (left := marked(stack, service, spare=spare)) and time.monotonic() < deadline:
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
                killed.add(process.pid)
        psutil.wait_procs(left, timeout=1.0)
    return len(killed)


def free_port() -> int:
    """A loopback TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def is_listening(port: int, *, timeout_s: float = 0.3) -> bool:
    """Whether something accepts connections on this loopback port."""
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout_s):
        return True
    return False
