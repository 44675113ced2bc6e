"""A local web server with byte ranges that misbehaves on request."""

from __future__ import annotations

import json
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit


@dataclass
class Fault:
    """What goes wrong with one request.

    status, headers, body: answer so instead of with the file. drop: close the connection after so many bytes of
    the body. pause: sleep so many seconds after `drop` bytes (then go on). ignore_range: answer 200 to a range.
    encoding: send the body under this Content-Encoding. chunked: tell no length. piece: answer a range with at
    most so many bytes of it. drip: send the body byte by byte, so many seconds apart.
    """

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    drop: int | None = None
    pause: float | None = None
    ignore_range: bool = False
    encoding: str | None = None
    chunked: bool = False
    piece: int | None = None
    drip: float | None = None


@dataclass
class Served:
    """A file of the server; `faults` are used up one a request, `always` is used for all others."""

    content: bytes
    etag: str | None = '"one"'
    modified: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    always: Fault = field(default_factory=Fault)


@dataclass
class Request:
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    status: int = 0
    method: str = "GET"
    form: dict[str, str] = field(default_factory=dict)


class Site:
    """Files by path, functions by path, and the requests that were made."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.answers: dict[str, Callable[[Request], tuple[int, dict[str, str], bytes]]] = {}
        self.requests: list[Request] = []
        self.url = ""

    def put(self, path: str, content: bytes, **options: Any) -> Served:
        self.files[path] = Served(content, **options)
        return self.files[path]

    def api(self, path: str, answer: Any) -> None:
        """Answer with JSON: `answer`, or what it returns for the request; an int is an error status."""

        def respond(request: Request) -> tuple[int, dict[str, str], bytes]:
            value = answer(request) if callable(answer) else answer
            if isinstance(value, int):
                return value, {}, b"{}"
            return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()

        self.answers[path] = respond

    def asked(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path == path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, format: str, *args: Any) -> None:
        """The test runner's output stays clean."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        request = Request(unquote(parts.path), dict(parse_qsl(parts.query)), dict(self.headers.items()))
        request.method = self.command
        request.form = dict(parse_qsl(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()))
        self.site.requests.append(request)
        if request.path in self.site.answers:
            self._plain(request, *self.site.answers[request.path](request))
            return
        served = self.site.files.get(request.path)
        if served is None:
            self._plain(request, 404, {}, b"nothing here")
            return
        fault = served.faults.pop(0) if served.faults else served.always
        if fault.status is not None:
            self._plain(request, fault.status, fault.headers, fault.body)
            return
        self._file(request, served, fault)

    def _plain(self, request: Request, status: int, headers: dict[str, str], body: bytes) -> None:
        request.status = status
        self.send_response_only(status) if "Date" in headers else self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, request: Request, served: Served, fault: Fault) -> None:
        start, total = 0, len(served.content)
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        condition = request.headers.get("If-Range")
        same = condition is None or condition in (served.etag, served.modified)
        ranged = bool(match) and same and not fault.ignore_range
        if ranged and match:
            start = int(match[1])
        request.status = 206 if ranged else 200
        if ranged and start >= total:
            self._plain(request, 416, {"Content-Range": f"bytes */{total}"}, b"")
            return
        self.send_response(request.status)
        self.send_header("Content-Type", fault.headers.get("Content-Type", "application/octet-stream"))
        for name, value in (
            ("ETag", served.etag),
            ("Last-Modified", served.modified),
            *served.headers.items(),
        ):
            if value is not None:
                self.send_header(name, value)
        if ranged:
            last = int(match[2]) + 1 if match and match[2] else total
            end = min(total, last, start + (fault.piece or total))
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{total}")
        if fault.encoding:
            self.send_header("Content-Encoding", fault.encoding)
        body = served.content[start : end if ranged else total]
        if fault.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self._send(body, fault)

    def _send(self, body: bytes, fault: Fault) -> None:
        try:
            if fault.drop is not None:
                self.wfile.write(body[: fault.drop])
                self.wfile.flush()
                if fault.pause is None:
                    self.close_connection = True
                    return
                time.sleep(fault.pause)
                body = body[fault.drop :]
            for at in range(len(body)) if fault.drip is not None else ():
                self.wfile.write(body[at : at + 1])
                time.sleep(fault.drip or 0)
            if fault.drip is None:
                self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Site]:
    """A site on a free port of the loopback interface, encrypted with `tls`."""
    site = Site()
    handler = type("Handler", (_Handler,), {"site": site})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    site.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
