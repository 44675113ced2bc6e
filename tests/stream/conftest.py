"""Fixtures of the stream tests: a corpus, and a web server that knows byte ranges and counts what it is asked."""

from __future__ import annotations

import http.server
import re
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.corpus import make_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 + 30 samples in shards of 16; not to be changed."""
    return make_corpus(tmp_path_factory.mktemp("corpus"))


class Server:
    """A folder on a local port. `served` counts the whole-file answers, `ranged` those of a byte range.

    `cut` holds files that break off half way the first time they are asked for, `reset` those whose connection is
    reset before the first byte then. Without `ranges` it sends whole files whatever it is asked. With `tls` it speaks
    https.
    """

    def __init__(self, folder: Path, tls: ssl.SSLContext | None = None) -> None:
        self.served: Counter[str] = Counter()
        self.ranged: Counter[str] = Counter()
        self.cut: set[str] = set()
        self.reset: set[str] = set()
        self.ranges = True
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = folder / self.path.lstrip("/")
                if not path.is_file():
                    self.send_error(404)
                    return
                data = path.read_bytes()
                asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                if asked and outer.ranges:
                    outer.ranged[self.path] += 1
                    first, last = int(asked[1]), int(asked[2] or len(data) - 1)
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
                    data = data[first : last + 1]
                else:
                    outer.served[self.path] += 1
                    self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.path in outer.reset:
                    outer.reset.discard(self.path)
                    self.wfile.flush()
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()
                    return
                if self.path in outer.cut:
                    outer.cut.discard(self.path)
                    data = data[: len(data) // 2]
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Nothing on the terminal."""

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            self.http.socket = tls.wrap_socket(self.http.socket, server_side=True)
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Serves folders over http until the test ends."""
    servers: list[Server] = []

    def start(folder: Path, tls: ssl.SSLContext | None = None) -> Server:
        servers.append(Server(folder, tls))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
