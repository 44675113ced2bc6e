"""A stand-in for the server of Weights & Biases, as far as a run that goes on needs one; the client is the real one."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_ENTITY = {"id": "e", "name": "someone"}


@dataclass
class WandbServer:
    """Knows one run, up to `step`; what it is sent of the run's history stands in `history`.

    With `broken` its answer to the client's wish to send files is one that the client dies of.
    """

    step: int
    broken: bool = False
    url: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, query: str) -> dict[str, Any]:
        """The data of a GraphQL query."""
        project = {"id": "p", "name": "ultrasound", "entity": _ENTITY}
        run: dict[str, Any] = {"id": "r", "name": "known", "displayName": "known", "config": "{}"}
        last = json.dumps({"_step": self.step, "_runtime": 9})
        if "RunResumeStatus" in query:
            counts = {"logLineCount": 0, "historyLineCount": self.step, "eventsLineCount": 0, "tags": []}
            tails = {"historyTail": json.dumps([last]), "eventsTail": "[]", "summaryMetrics": last}
            bucket = {**run, **counts, **tails, "wandbConfig": '{"t":1}', "files": {"edges": []}}
            return {"model": {**project, "bucket": bucket}}
        if "UpsertBucket" in query:
            return {"upsertBucket": {"bucket": {**run, "project": project}, "inserted": False}}
        if "query Viewer" in query:
            return {"viewer": {**_ENTITY, "entity": "someone", "flags": "{}", "teams": {"edges": []}}}
        if "CreateRunFiles" in query and not self.broken:
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": []}}
        return {}


@contextmanager
def serving_wandb(step: int, broken: bool = False) -> Iterator[WandbServer]:
    """The server on a free port of the loopback interface."""
    server = WandbServer(step, broken)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """The test runner's output stays clean."""

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            sent = json.loads(body) if self.path.endswith(("/graphql", "/file_stream")) else {}
            lines = sent.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
            server.history += map(json.loads, lines)
            answer = json.dumps({"data": server.answer(sent.get("query", ""))}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
