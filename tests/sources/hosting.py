"""Plays the hosts: their APIs, in front of the packed miniatures, on a local server.

A host's answers have the fields its documented API gives and the resolver reads; the bytes and checksums
are those of the miniatures, so the manifests' own are replaced by them (`overlaid`).
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from openus.hosts.google_drive import file_id
from openus.manifest import RemoteSpec, Route, Source
from tests.helpers.web import Request, Site
from tests.sources.packing import zip_of

Files = dict[str, bytes]
Reply = tuple[int, dict[str, str], bytes]


def overlaid(source: Source, route: Route, files: Files) -> Source:
    """The source with this route only, whose sizes and checksums are those of `files`."""

    def fit(spec: RemoteSpec) -> RemoteSpec:
        data = files.get(spec.name, b"")
        return spec.model_copy(
            update={
                "bytes": len(data) if spec.bytes else None,
                "md5": hashlib.md5(data).hexdigest() if spec.md5 else None,
                "sha1": hashlib.sha1(data).hexdigest() if spec.sha1 else None,
                "sha256": hashlib.sha256(data).hexdigest() if spec.sha256 else None,
            }
        )

    fitted = route.model_copy(update={"files": tuple(fit(spec) for spec in route.files)})
    return source.model_copy(update={"routes": (fitted,)})


def offered(route: Route, packed: dict[str, Path], tree: Path) -> Files:
    """What the route's host offers: the packed files under the names the route gives them.

    A route that names one file where the dataset is packed otherwise is a record as one zip, and so is what
    Kaggle gives. Girder keeps files as they are.
    """
    if route.host == "girder":
        return {
            p.relative_to(tree).as_posix(): p.read_bytes() for p in sorted(tree.rglob("*")) if p.is_file()
        }
    files = {name: path.read_bytes() for name, path in packed.items()}
    if route.host.startswith("kaggle"):
        name = f"{str(route.id).rsplit('/', 1)[-1]}.zip"
        return files if list(files) == [name] else {name: zip_of(files)}
    exact = all("*" not in pattern for pattern in route.include)
    names = [spec.name for spec in route.files] or list(route.include if exact else ())
    if not names:
        return files
    if len(names) == 1 and names[0] not in files:
        if len(files) == 1:
            return {names[0]: next(iter(files.values()))}
        return {names[0]: zip_of({f"{Path(names[0]).stem}/{name}": data for name, data in files.items()})}
    return {name: files[name] for name in names}


def json_reply(value: object) -> Reply:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def answer(site: Site, path: str, value: object) -> None:
    """Let the site answer a request of `path` with JSON."""
    site.answers[path] = lambda request: json_reply(value)


def zenodo(site: Site, route: Route, files: Files) -> None:
    entries = []
    for name, data in files.items():
        site.put(f"/zenodo/api/records/{route.id}/files/{name}/content", data)
        entries.append({"key": name, "size": len(data), "checksum": f"md5:{hashlib.md5(data).hexdigest()}"})
    decoy = {"key": "README.html", "size": 3, "checksum": "md5:00000000000000000000000000000000"}
    answer(site, f"/zenodo/api/records/{route.id}", {"files": [decoy, *entries] if route.files else entries})


def http(site: Site, route: Route, files: Files) -> None:
    """Found through a mirror address, under HOST/PATH of the original one."""
    for spec in route.files:
        assert spec.url is not None, f"{spec.name}: an http route needs addresses"
        parts = urlsplit(spec.url)
        query = f"?{parts.query.replace('/', '_')}" if parts.query and parts.query != "download=1" else ""
        site.put(f"/mirror/{parts.hostname}{unquote(parts.path)}{unquote(query)}", files[spec.name])


def github(site: Site, route: Route, files: Files) -> None:
    """The zip of a pinned commit, or single files of it."""
    if any(spec.url for spec in route.files):
        http(site, route, files)
        return
    for spec in route.files:
        site.put(
            f"/mirror/raw.githubusercontent.com/{route.id}/{route.revision}/{spec.name}", files[spec.name]
        )
    if route.files:
        return
    name = str(route.id).rsplit("/", 1)[-1]
    whole = len(files) == 1 and next(iter(files)).startswith(name)
    data = next(iter(files.values()))
    if not whole:
        data = zip_of({f"{name}-{route.revision}/{path}": content for path, content in files.items()})
    site.put(f"/mirror/github.com/{route.id}/archive/{route.revision}.zip", data)


def mendeley(site: Site, route: Route, files: Files) -> None:
    if route.files and all(spec.url for spec in route.files):
        http(site, route, files)
        return
    dataset, version = str(route.id).split("/")
    base = f"/mendeley/public-api/datasets/{dataset}"
    answer(site, f"{base}/folders/{version}", [])
    entries = []
    for number, (name, data) in enumerate(files.items()):
        site.put(f"/mendeley/file/{number}", data)
        details = {
            "download_url": f"{site.url}/mendeley/file/{number}",
            "size": len(data),
            "sha256_hash": hashlib.sha256(data).hexdigest(),
        }
        entries.append({"filename": name, "content_details": details})
    answer(site, f"{base}/files", entries)


def figshare(site: Site, route: Route, files: Files) -> None:
    version = f"/versions/{route.revision}" if route.revision else ""
    entries = []
    for number, (name, data) in enumerate(files.items()):
        site.put(f"/figshare/file/{number}", data)
        address = f"{site.url}/figshare/file/{number}"
        md5 = hashlib.md5(data).hexdigest()
        entries.append({"name": name, "size": len(data), "download_url": address, "computed_md5": md5})
    answer(site, f"/figshare/v2/articles/{route.id}{version}/files", entries)


def kaggle(site: Site, route: Route, files: Files) -> None:
    kind = "competitions" if route.host == "kaggle-competition" else "datasets"
    [(name, data)] = files.items()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        inside = [{"name": info.filename, "totalBytes": info.file_size} for info in archive.infolist()]
    middle = "data/" if kind == "competitions" else ""
    answer(site, f"/kaggle/api/v1/{kind}/{middle}list/{route.id}", {"datasetFiles": inside})
    site.put(f"/mirror/www.kaggle.com/{kind}/{route.id}/{name}", data)


def girder(site: Site, route: Route, files: Files) -> None:
    folders = {""} | {name.rsplit("/", depth)[0] for name in files for depth in range(1, name.count("/") + 1)}
    ids = {folder: f"{number:024x}" for number, folder in enumerate(sorted(folders)) if folder} | {
        "": str(route.id)
    }
    answer(site, f"/girder/collection/{route.id}", {"name": "collection"})

    def query(request: Request, field: str) -> str:
        wanted = request.query[field]
        return next(folder for folder, identity in ids.items() if identity == wanted)

    def below(request: Request) -> Reply:
        here = query(request, "parentId")
        inside = [f for f in sorted(folders) if f and f.rpartition("/")[0] == here]
        return json_reply([{"_id": ids[f], "name": f.rpartition("/")[2]} for f in inside])

    def items(request: Request) -> Reply:
        here = query(request, "folderId")
        inside = [name for name in files if name.rpartition("/")[0] == here]
        return json_reply(
            [{"_id": item[n], "name": n.rpartition("/")[2], "size": len(files[n])} for n in inside]
        )

    item = {name: f"{number:024x}" for number, name in enumerate(files, 1000)}
    site.answers["/girder/folder"], site.answers["/girder/item"] = below, items
    for name, data in files.items():
        site.put(f"/girder/item/{item[name]}/download", data)


def huggingface(site: Site, route: Route, files: Files) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    siblings = []
    for name, data in files.items():
        site.put(f"/huggingface/datasets/{route.id}/resolve/{commit}/{name}", data)
        sha256 = hashlib.sha256(data).hexdigest()
        lfs = {"sha256": sha256, "size": len(data), "pointerSize": 130}
        siblings.append({"rfilename": name, "size": len(data), "blobId": commit, "lfs": lfs})
    revision = f"/revision/{route.revision}" if route.revision else ""
    info = {"id": route.id, "sha": commit, "siblings": siblings, "private": False, "downloads": 0, "tags": []}
    answer(site, f"/huggingface/api/datasets/{route.id}{revision}", info)


def google_drive(site: Site, route: Route, files: Files) -> None:
    """The folder and its files by the Drive API; the bytes through the mirror."""
    entries = [
        {
            "id": f"drive-{number}",
            "name": name,
            "size": str(len(data)),
            "md5Checksum": hashlib.md5(data).hexdigest(),
        }
        for number, (name, data) in enumerate(files.items())
    ]
    answer(site, "/google-drive/drive/v3/files", {"files": entries})
    single = [
        spec for spec in route.files if spec.url or (len(files) == 1 and "/folders/" not in (route.url or ""))
    ]
    for entry in entries:
        name = str(entry["name"])
        spec = next((spec for spec in single if spec.name == name), None)
        if spec is None:
            site.put(f"/mirror/drive.google.com/drive/folders/{route.id}/{name}", files[name])
            continue
        identity = file_id(spec.url) if spec.url else route.id
        answer(site, f"/google-drive/drive/v3/files/{identity}", {**entry, "id": identity})
        site.put(f"/mirror/drive.google.com/file/d/{identity}/{name}", files[name])


PLAYED: dict[str, Callable[[Site, Route, Files], None]] = {
    "figshare": figshare,
    "girder": girder,
    "github": github,
    "google-drive": google_drive,
    "http": http,
    "huggingface": huggingface,
    "kaggle-competition": kaggle,
    "kaggle-dataset": kaggle,
    "mendeley": mendeley,
    "zenodo": zenodo,
}
