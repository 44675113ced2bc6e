"""A proxy that leads every encrypted address to a server of ours, for clients whose addresses are fixed."""

from __future__ import annotations

import select
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.helpers.web import Site, serving


def certificate(folder: Path, names: Sequence[str]) -> tuple[Path, ssl.SSLContext]:
    """A self-signed certificate for host names and addresses, made with the openssl command."""
    key, path = folder / "key.pem", folder / "certificate.pem"
    kinds = ",".join(f"{'IP' if name[0].isdigit() else 'DNS'}:{name}" for name in names)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", path, "-days", "2",
         "-subj", f"/CN={names[0]}", "-addext", f"subjectAltName={kinds}"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, key)
    return path, context


class _Tunnel(BaseHTTPRequestHandler):
    target: tuple[str, int]

    def log_message(self, format: str, *args: Any) -> None:
        """The test runner's output stays clean."""

    def do_CONNECT(self) -> None:
        with socket.create_connection(self.target) as inner:
            self.send_response(200)
            self.end_headers()
            pair = {self.connection: inner, inner: self.connection}
            while True:
                for ready in select.select(list(pair), [], [], 10)[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    pair[ready].sendall(data)


@contextmanager
def pretending(folder: Path, names: Sequence[str]) -> Iterator[tuple[Site, dict[str, str]]]:
    """A site that answers for `names`, and the environment variables that lead clients to it."""
    path, context = certificate(folder, names)
    with serving(context) as site:
        parts = urlsplit(site.url)
        handler = type("Tunnel", (_Tunnel,), {"target": (parts.hostname, parts.port)})
        proxy = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        proxy.daemon_threads = True
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{proxy.server_address[1]}"
        try:
            yield site, {"HTTPS_PROXY": address, "https_proxy": address, "REQUESTS_CA_BUNDLE": str(path)}
        finally:
            proxy.shutdown()
            proxy.server_close()
            thread.join()
