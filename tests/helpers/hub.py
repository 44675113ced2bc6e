"""A Hugging Face Hub on the loopback interface, for the real clients: repositories, commits, large files, downloads.

It speaks what `huggingface_hub` needs: whoami, create, preupload, the LFS batch (basic and multipart) with its
verification, commits, trees, paths, refs, and `resolve` with ranges, where large files are answered by a redirect to
another address as on the real Hub. Where `Hub.offers_xet` is set, large files may come and go through a Xet store
(`tests.helpers.xet`), too; otherwise clients need ``HF_HUB_DISABLE_XET=1`` (`Hub.environment` says which).

    with serving_hub() as hub:
        hub.put("ORG/NAME", "README.md", b"...", kind="dataset")   # or through the client, with the token hub.token
        subprocess.run(command, env=os.environ | hub.environment(home))
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from tests.helpers.hub_state import Asked, Blob, Hub, Repo, Trouble, git_hash, is_large


class _RefusedError(Exception):
    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """The test runner's output stays clean."""

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))
        path = unquote(parts.path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        entry = Asked(self.command, path, token, 0, self.headers.get("Range", ""))
        with self.hub.lock:
            self.hub.asked.append(entry)
            trouble = self._trouble(f"{self.command} {path}")
        self.entry, self.short = entry, trouble.short if trouble else None
        if trouble and trouble.pause:
            time.sleep(trouble.pause)
        if trouble and trouble.drop is not None:
            self.rfile.read(trouble.drop)
            self.close_connection = True
            return
        self.body = self._read_body()
        if trouble and trouble.status is not None:
            self._send(trouble.status, trouble.body, trouble.headers)
            return
        try:
            self._route(parts.path, path, token)
        except _RefusedError as no:
            headers = {"X-Error-Message": str(no)} | ({"X-Error-Code": no.code} if no.code else {})
            self._json({"error": str(no)}, no.status, headers)

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def _trouble(self, line: str) -> Trouble | None:
        for trouble in self.hub.troubles:
            if re.search(trouble.pattern, line):
                if trouble.after > 0:
                    trouble.after -= 1
                elif trouble.times > 0:
                    trouble.times -= 1
                    return trouble
        return None

    def _read_body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            pieces = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.entry.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            self.wfile.write(body if self.short is None else body[: self.short])
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        if self.short is not None:
            self.close_connection = True

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(
            status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})}
        )

    def _route(self, raw: str, path: str, token: str) -> None:
        hub = self.hub
        if path.startswith("/storage/"):  # as of a store of objects: its addresses need no token
            return self._storage(path.removeprefix("/storage/"))
        if path.startswith("/cas/"):
            return self._xet(path.removeprefix("/cas"), token)
        if token and token not in hub.tokens:
            raise _RefusedError(401, "Invalid credentials in Authorization header")
        if path == "/api/whoami-v2":
            if not token:
                raise _RefusedError(401, "Invalid username or password.")
            return self._json({"type": "user", "name": "someone", "orgs": [{"name": "ORG"}], "auth": {}})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            self._need_write(token)
            return self._create(json.loads(self.body))
        if found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+?)\.git/info/lfs/objects/(batch|verify)", path):
            self._need_write(token)
            return self._batch(json.loads(self.body)) if found[3] == "batch" else self._json({})
        if found := re.fullmatch(
            r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/(\w[\w-]*)(?:/([^/]+)(?:/(.*))?)?)?", raw
        ):
            kind, name, verb, revision, rest = found.groups()
            return self._api(kind, name, verb or "", unquote(revision or "main"), unquote(rest or ""), token)
        if found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", raw):
            repo = self._repo("dataset" if found[1] else "model", found[2], token)
            return self._resolve(repo, unquote(found[3]), unquote(found[4]))
        raise _RefusedError(404, f"no such page: {path}")

    def _need_write(self, token: str) -> None:
        if not token:
            raise _RefusedError(401, "Invalid username or password.")
        if self.hub.tokens[token] != "write":
            raise _RefusedError(403, "You don't have the rights to write here: the token is read-only")

    def _repo(self, kind: str, name: str, token: str) -> Repo:
        repo = self.hub.repos.get((kind, name))
        if repo is None or (repo.private and not token):
            raise _RefusedError(404 if token else 401, "Repository not found", "RepoNotFound")
        return repo

    def _create(self, wish: dict[str, Any]) -> None:
        name = f"{wish.get('organization') or 'someone'}/{wish['name']}"
        kind = wish.get("type") or "model"
        url = f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{name}"
        if (kind, name) in self.hub.repos:
            return self._json({"error": "You already created this repo", "url": url}, 409)
        private = wish.get("visibility") == "private" or bool(wish.get("private"))
        self.hub.repo(name, kind, private)
        return self._json({"url": url, "name": name, "id": name})

    def _batch(self, wish: dict[str, Any]) -> None:
        hub, answers = self.hub, []
        used = sum(map(len, hub.objects.values()))
        for item in wish["objects"]:
            oid, size = item["oid"], item["size"]
            if oid in hub.objects:
                answers.append({"oid": oid, "size": size})  # already there: nothing to upload
                continue
            used += size
            if used > hub.quota:
                raise _RefusedError(403, "Storage limit reached: delete files or upgrade your plan")
            address = f"{hub.storage}/storage/{oid}"
            upload: dict[str, Any] = {"href": address, "header": {}}
            if size > hub.part_bytes:
                count = -(-size // hub.part_bytes)
                parts = {str(n): f"{address}/part/{n}" for n in range(1, count + 1)}
                upload = {
                    "href": f"{address}/complete",
                    "header": {"chunk_size": str(hub.part_bytes), **parts},
                }
            verify = {"href": f"{hub.url}/datasets/ORG/any.git/info/lfs/objects/verify", "header": {}}
            answers.append({"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}})
        self._json({"transfer": "basic", "objects": answers})

    def _storage(self, path: str) -> None:
        hub = self.hub
        oid, _, rest = path.partition("/")
        if self.command in ("GET", "HEAD"):
            return self._ranged(hub.objects[oid], {"ETag": f'"{oid}"'})
        if rest.startswith("part/"):
            hub.parts.setdefault(oid, {})[int(rest.removeprefix("part/"))] = self.body
            return self._send(200, b"", {"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'})
        data = self.body
        if rest == "complete":
            pieces = hub.parts.pop(oid)
            data = b"".join(pieces[part["partNumber"]] for part in json.loads(self.body)["parts"])
        if hashlib.sha256(data).hexdigest() != oid:
            raise _RefusedError(400, "the bytes do not have the announced SHA-256")
        hub.objects[oid] = data
        return self._send(200, b"", {"ETag": f'"{oid}"'})

    def _xet(self, path: str, token: str) -> None:
        if path.startswith("/fetch/"):  # as of a store of objects: its addresses need no token
            return self._ranged(self.hub.xet.xorbs[path.removeprefix("/fetch/")].data, {})
        with self.hub.lock:
            return self._send(*self.hub.xet.answer(self.command, path, token, self.headers, self.body))

    def _api(self, kind: str, name: str, verb: str, revision: str, rest: str, token: str) -> None:
        repo = self._repo(kind, name, token)
        if verb in ("preupload", "commit"):
            self._need_write(token)
            return self._preupload(repo) if verb == "preupload" else self._commit(repo)
        if self.hub.offers_xet and verb in ("xet-write-token", "xet-read-token"):
            if verb == "xet-write-token":
                self._need_write(token)
            granted, headers = self.hub.xet.grant(verb.split("-")[1])
            return self._json(granted, headers=headers)
        if verb == "refs":
            main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repo.sha}
            return self._json({"branches": [main], "tags": [], "converts": [], "pullRequests": []})
        found = repo.tree(revision)
        if found is None:
            raise _RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        sha, files = found
        if verb in ("", "revision"):
            siblings = [
                {"rfilename": path, "size": len(blob.content)} for path, blob in sorted(files.items())
            ]
            facts = {
                "id": name,
                "_id": "1",
                "sha": sha,
                "private": repo.private,
                "siblings": siblings,
                "tags": [],
            }
            dates = {"lastModified": "2026-01-01T00:00:00.000Z", "createdAt": "2026-01-01T00:00:00.000Z"}
            return self._json(facts | dates | {"downloads": 0, "likes": 0, "disabled": False, "gated": False})
        if verb == "tree":
            deep = self.query.get("recursive", "").lower() in ("1", "true")
            return self._json(_listing(self.hub, files, rest, deep))
        if verb == "paths-info":
            wanted = _fields(self.body, self.headers.get("Content-Type", ""))
            everything = {entry["path"]: entry for entry in _listing(self.hub, files, "", True, True)}
            return self._json([everything[path] for path in wanted if path in everything])
        raise _RefusedError(404, f"no such verb: {verb}")

    def _preupload(self, repo: Repo) -> None:
        answers = []
        for item in json.loads(self.body)["files"]:
            old = repo.files.get(item["path"])
            mode = "lfs" if is_large(item["path"], item["size"]) else "regular"
            known = {"oid": old.etag} if old else {}
            answers.append({"path": item["path"], "uploadMode": mode, "shouldIgnore": False, **known})
        self._json({"files": answers})

    def _commit(self, repo: Repo) -> None:
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        with self.hub.lock:
            files, message = dict(repo.files), ""
            for line in lines:
                key, value = line["key"], line["value"]
                if key == "header":
                    message = value["summary"]
                elif key == "file":
                    files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
                elif key == "lfsFile":
                    if value["oid"] not in self.hub.objects:
                        raise _RefusedError(400, f"{value['path']}: its bytes were not uploaded")
                    files[value["path"]] = Blob(self.hub.objects[value["oid"]], True)
                elif key == "deletedFile":
                    if files.pop(value["path"], None) is None:
                        raise _RefusedError(404, "A file with this name doesn't exist", "EntryNotFound")
                elif key == "deletedFolder":
                    files = {
                        p: b for p, b in files.items() if not p.startswith(value["path"].rstrip("/") + "/")
                    }
            sha = repo.commit(message, files)
        self._json({"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{repo.id}/commit/{sha}"})

    def _resolve(self, repo: Repo, revision: str, path: str) -> None:
        found = repo.tree(revision)
        if found is None:
            raise _RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        sha, files = found
        if path not in files:
            raise _RefusedError(404, "Entry not found", "EntryNotFound")
        blob = files[path]
        headers = {"X-Repo-Commit": sha, "ETag": f'"{blob.etag}"'}
        if not blob.large:
            return self._ranged(blob.content, headers)
        self.hub.objects.setdefault(blob.sha256, blob.content)
        linked = {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.content))}
        if xet := self.hub.xet_hash(blob):
            route = f"{self.hub.url}/api/{repo.kind}s/{repo.id}/xet-read-token/{sha}"
            linked |= {"X-Xet-Hash": xet, "X-Xet-Refresh-Route": route, "Link": f'<{route}>; rel="xet-auth"'}
        place = f"{self.hub.storage}/storage/{blob.sha256}?name={quote(path)}"
        return self._send(302, b"", headers | linked | {"Location": place})

    def _ranged(self, content: bytes, headers: dict[str, str]) -> None:
        headers = headers | {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        total = len(content)
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not found or not (found[1] or found[2]):
            return self._send(200, content, headers | {"Content-Length": str(total)})
        start = int(found[1]) if found[1] else max(0, total - int(found[2]))
        stop = min(total, int(found[2]) + 1) if found[1] and found[2] else total
        if start >= total:
            return self._send(416, b"", {"Content-Range": f"bytes */{total}"})
        body = content[start:stop]
        where = {"Content-Range": f"bytes {start}-{stop - 1}/{total}", "Content-Length": str(len(body))}
        return self._send(206, body, headers | where)


def _fields(body: bytes, kind: str) -> list[str]:
    """The paths of a request, as JSON or as a form."""
    if "json" in kind:
        paths = json.loads(body)["paths"]
        return [paths] if isinstance(paths, str) else list(paths)
    return [value for name, value in parse_qsl(body.decode()) if name == "paths"]


def _listing(
    hub: Hub, files: dict[str, Blob], folder: str, deep: bool, missing_ok: bool = False
) -> list[dict[str, Any]]:
    """The entries of a folder as the Hub lists them: files, and folders (of all depths where `deep`)."""
    start = f"{folder.strip('/')}/" if folder.strip("/") else ""
    below = {path: blob for path, blob in sorted(files.items()) if path.startswith(start)}
    if start and not below and not missing_ok:
        raise _RefusedError(404, f"{folder} does not exist", "EntryNotFound")
    entries: dict[str, dict[str, Any]] = {}
    for path, blob in below.items():
        parts = path.removeprefix(start).split("/")
        for depth in range(1, len(parts) if deep else min(2, len(parts))):
            name = start + "/".join(parts[:depth])
            entries[name] = {"type": "directory", "oid": git_hash(name.encode()), "size": 0, "path": name}
        if deep or len(parts) == 1:
            entry: dict[str, Any] = {"type": "file", "oid": blob.oid, "size": len(blob.content), "path": path}
            if blob.large:
                entry["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 130}
                if xet := hub.xet_hash(blob):
                    entry["xetHash"] = xet
            entries[path] = entry
    return list(entries.values())


@contextmanager
def serving_hub() -> Iterator[Hub]:
    """A Hub on two free ports of the loopback interface: the Hub itself, and its store of large files."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    hub.url, hub.storage = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    hub.xet.url = f"{hub.storage}/cas"
    threads = []
    for server in servers:
        server.daemon_threads = True
        threads.append(
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        )
        threads[-1].start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()
