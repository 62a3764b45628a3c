"""Drift pages and the page of the loop over HTTP, on loopback. Read-only, but for the forms of the loop where they are wanted."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from monitoring.loop_html import Forms
from monitoring.report_html import SERVED
from schemas.errors import HeadraceError

if TYPE_CHECKING:
    from infra.loop_desk import Desk

LOOPBACK = "127.0.0.1"
NAMES = (LOOPBACK, "localhost")
LOOP = "/loop"
FORM_TYPE = "application/x-www-form-urlencoded"
FORM_BYTES_MAX = 8_192
# Our own pages run no scripts, send forms to us only, and are in nobody's frame.
STRICT = (
    "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none';"
    " base-uri 'none'"
)
# Evidently's plots are scripts over data from outside: they run as of no origin, so that they can neither read a form's token
# nor send it.
SANDBOXED = "sandbox allow-scripts"
# A client that sends nothing more is let go.
PATIENCE_S = 10.0


class NotServed(HeadraceError):
    """The pages cannot be served."""


@dataclass(frozen=True)
class Served:
    """What is served.

    Attributes:
        folder: The pages.
        beside: The port of Evidently's own, where they are served.
        desk: Of the loop; None without a page of it.
        user: Who is suggested as the author of a word; None serves without forms.
        token: What a form must send: whoever cannot read our pages does not know it.
    """

    folder: Path
    beside: int | None
    desk: Desk | None
    user: str | None
    token: str


class Pages(SimpleHTTPRequestHandler):
    """The files of a folder, with links to what else is served; and the loop.

    It answers those that ask for it by its loopback name only: a page from elsewhere that a browser was lured to cannot read
    it under a name of its own (DNS rebinding). A form is taken from its own pages only.
    """

    timeout = PATIENCE_S
    server_version = "headrace"
    sys_version = ""

    def __init__(self, *args: Any, served: Served, **more: Any) -> None:  # noqa: ANN401
        self._served = served
        self._policy = SANDBOXED
        super().__init__(*args, directory=str(served.folder), **more)

    def do_GET(self) -> None:
        """A page, the index, or the loop."""
        path = self._path()
        if not self._is_asked_by_name():
            self.send_error(HTTPStatus.FORBIDDEN)
        elif path == LOOP and self._served.desk:
            self._loop(self._served.desk)
        elif path in ("/", "/index.html"):
            page = Path(self.directory) / "index.html"
            self._own(page.read_text("utf-8") if page.exists() else _nothing_yet())
        elif own := self._window(path):
            self._own(own.read_text("utf-8"))
        else:
            super().do_GET()

    def do_HEAD(self) -> None:
        """Whether a page is there."""
        if self._is_asked_by_name():
            super().do_HEAD()
        else:
            self.send_error(HTTPStatus.FORBIDDEN)

    def do_POST(self) -> None:
        """A form of the loop; whoever sent it is shown what became of it."""
        desk, user = self._served.desk, self._served.user
        if refused := self._not_ours():
            self.send_error(refused)
        elif self._path() != LOOP or desk is None:
            self.send_error(HTTPStatus.NOT_FOUND)
        elif user is None:
            self.send_error(HTTPStatus.METHOD_NOT_ALLOWED, explain="served with --read-only")
        elif (form := self._form()) is not None:
            self.send_response(HTTPStatus.SEE_OTHER)
            self.send_header("Location", f"{LOOP}?told={desk.say(form)}")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def list_directory(self, _: object) -> None:
        """Never: the index lists what there is."""
        self.send_error(HTTPStatus.NOT_FOUND)

    def end_headers(self) -> None:
        """What a browser may do with any answer."""
        self.send_header("Content-Security-Policy", self._policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "same-origin")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Who looks at pages is nobody's business."""

    def _path(self) -> str:
        return urlsplit(self.path).path

    def _is_asked_by_name(self) -> bool:
        return self.headers.get("Host", "").rpartition(":")[0] in NAMES

    def _not_ours(self) -> HTTPStatus | None:
        """Why a form cannot come from a page of ours: browsers say where a form was, and scripts elsewhere cannot lie about it."""
        port = self.connection.getsockname()[1]
        ours = [f"http://{name}:{port}" for name in NAMES]
        if not self._is_asked_by_name() or self.headers.get("Origin") not in ours:
            return HTTPStatus.FORBIDDEN
        if self.headers.get_content_type() != FORM_TYPE:
            return HTTPStatus.UNSUPPORTED_MEDIA_TYPE
        if not self.headers.get("Content-Length", "").isdecimal():
            return HTTPStatus.LENGTH_REQUIRED
        if int(self.headers["Content-Length"]) > FORM_BYTES_MAX:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        return None

    def _form(self) -> dict[str, str] | None:
        """The fields of a form that knows the token; None where another answer was given."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            fields = parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=20)
        except ValueError:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return None
        form = {name: values[-1] for name, values in fields.items()}
        if not hmac.compare_digest(form.pop("token", "").encode(), self._served.token.encode()):
            why = f"the form is of a server that has ended: load {LOOP} again"
            self.send_error(HTTPStatus.FORBIDDEN, explain=why)
            return None
        return form

    def _loop(self, desk: Desk) -> None:
        told = parse_qs(urlsplit(self.path).query).get("told", [""])[-1]
        user = self._served.user
        forms = None if user is None else Forms(self._served.token, user)
        self._own(desk.page(forms, int(told) if told.isdecimal() else None))

    def _window(self, path: str) -> Path | None:
        """A window's page; None for Evidently's, and for what is none."""
        page = Path(self.directory) / path.removeprefix("/")
        own = page.suffix == ".html" and not page.name.endswith(".plots.html")
        return page if own and page.parent == Path(self.directory) and page.is_file() else None

    def _own(self, text: str) -> None:
        body = text.replace(SERVED, self._links()).encode()
        self._policy = STRICT
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def _links(self) -> str:
        links = ['<a href="loop">the loop</a>'] if self._served.desk else []
        if self._served.beside is not None:
            links.append(
                f'<a href="http://{LOOPBACK}:{self._served.beside}/">Evidently\'s pages</a>'
            )
        return f"<p>{', '.join(links)}</p>" if links else ""


def _nothing_yet() -> str:
    return f'<!doctype html>\n<html lang="en"><title>windows</title>{SERVED}<p>no window was judged yet</p></html>\n'


def report_server(
    folder: Path,
    port: int,
    beside: int | None,
    *,
    desk: Desk | None = None,
    user: str | None = None,
) -> ThreadingHTTPServer:
    """A server of the pages in `folder`, which has bound its port; 0 takes a free one. Without a `user` it is read-only.

    Raises:
        NotServed: The port is taken.
    """
    served = Served(folder, beside, desk, user, secrets.token_urlsafe(32))
    try:
        return ThreadingHTTPServer((LOOPBACK, port), partial(Pages, served=served))
    except OSError as error:
        raise NotServed(
            f"the pages on port {port} of {LOOPBACK}",
            wanted="a port that is free",
            came=str(error),
            mend="Give another --port, or none.",
        ) from error
