"""Drift pages over HTTP, on loopback, read-only."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from monitoring.report_html import SERVED
from schemas.errors import HeadraceError

LOOPBACK = "127.0.0.1"


class NotServed(HeadraceError):
    """The pages cannot be served."""


class Pages(SimpleHTTPRequestHandler):
    """The files of `directory`; the index gets a link to the port `beside`.

    It answers those that ask for it by its loopback name only: a page from elsewhere that a browser was lured to cannot read
    it under a name of its own (DNS rebinding).
    """

    def __init__(self, *args: Any, directory: str, beside: int | None, **more: Any) -> None:  # noqa: ANN401
        self._beside = beside
        super().__init__(*args, directory=directory, **more)

    def do_GET(self) -> None:
        """A page, or the index."""
        if not self._is_asked_by_name():
            self.send_error(HTTPStatus.FORBIDDEN)
        elif self.path in ("/", "/index.html"):
            self._index()
        else:
            super().do_GET()

    def do_HEAD(self) -> None:
        """Whether a page is there."""
        if self._is_asked_by_name():
            super().do_HEAD()
        else:
            self.send_error(HTTPStatus.FORBIDDEN)

    def list_directory(self, _: object) -> None:
        """Never: the index lists what there is."""
        self.send_error(HTTPStatus.NOT_FOUND)

    def log_message(self, *_: object) -> None:
        """Who looks at pages is nobody's business."""

    def _is_asked_by_name(self) -> bool:
        return self.headers.get("Host", "").rpartition(":")[0] in (LOOPBACK, "localhost")

    def _index(self) -> None:
        page = Path(self.directory) / "index.html"
        text = page.read_text("utf-8") if page.exists() else "no window was judged yet"
        if self._beside is not None:
            link = f'<p><a href="http://{LOOPBACK}:{self._beside}/">Evidently\'s pages</a></p>'
            text = text.replace(SERVED, link)
        body = text.encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def report_server(folder: Path, port: int, beside: int | None) -> ThreadingHTTPServer:
    """A server of the pages in `folder`, which has bound its port; 0 takes a free one.

    Raises:
        NotServed: The port is taken.
    """
    handler = partial(Pages, directory=str(folder), beside=beside)
    try:
        return ThreadingHTTPServer((LOOPBACK, port), handler)
    except OSError as error:
        raise NotServed(
            f"the pages on port {port} of {LOOPBACK}",
            wanted="a port that is free",
            came=str(error),
            mend="Give another --port, or none.",
        ) from error
