"""`croissant.json`: the repository described in Croissant 1.1 (MLCommons), made to be read from beside its files.

Every shard and table of rows is a file with its SHA-256; each table is a record set, so that `mlcroissant` yields
its rows. What the pictures were derived from is told in the terms of W3C PROV, as version 1.1 asks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from openus import __version__
from openus.checksum import sha256_of
from openus.publish.citations import bibliography
from openus.publish.gate import CLASSES
from openus.publish.plan import Plan, Repository
from openus.shards.writer import ShardInfo

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_TEXT = ("key", "source", "anatomy", "kind", "member", "split", "cluster", "sha256", "licence")
_NUMBERS = ("index", "width", "height")


def croissant(plan: Plan, repository: Repository, folder: Path, shards: dict[str, list[ShardInfo]]) -> str:
    """The document of a repository whose tables of rows lie in `folder`."""
    sources = repository.sources
    files: list[dict[str, Any]] = []
    records: list[dict[str, Any]] = []
    for name, infos in shards.items():
        for info in infos:
            stem = info.file.removesuffix(".tar")
            rows = f"manifest/{info.manifest}" if repository.pixels else f"rows/{stem}.parquet"
            if repository.pixels:
                files.append(_file(f"{name}/{info.file}", info.sha256, info.bytes, "application/x-tar"))
            files.append(
                _file(
                    rows,
                    sha256_of(folder / rows),
                    (folder / rows).stat().st_size,
                    "application/x-parquet",
                )
            )
            records.append(_record_set(stem, rows, repository.pixels))
    document = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": repository.name,
        "description": f"{plan.summary['corpus']['title'] or plan.name}: ultrasound pictures of public datasets. Terms "
        f"of this part: {CLASSES[repository.to]}.",
        "version": __version__,
        "license": sorted({e["manifest"]["licence"].get("url") or e["licence"] for e in sources.values()}),
        "url": "https://arxiv.org/abs/2510.22990",
        "citeAs": bibliography(sources),
        "creator": {"@type": "sc:Organization", "name": "The OpenUS authors"},
        "keywords": [
            "ultrasound",
            "medical imaging",
            *sorted({e["manifest"]["anatomy"] for e in sources.values()}),
        ],
        "prov:wasDerivedFrom": [
            {"@id": url} for e in sources.values() if (url := e["manifest"].get("homepage"))
        ],
        "rai:dataPreprocessingProtocol": "Decoded, made grey, cleaned, resized, deduplicated by openus; the settings "
        "are in recipe.json, what was done to each picture in its row.",
        "rai:personalSensitiveInformation": "Patients are pseudonyms or identifiers that the source itself publishes; "
        "pictures were searched for burned-in text by sample.",
        "distribution": files,
        "recordSet": records,
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _file(path: str, sha256: str, size: int, form: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": path,
        "name": path,
        "contentUrl": path,
        "contentSize": f"{size} B",
        "encodingFormat": form,
        "sha256": sha256,
    }


def _record_set(stem: str, rows: str, pixels: bool) -> dict[str, Any]:
    numbers = (*_NUMBERS, "offset", "size") if pixels else _NUMBERS
    fields = [(name, "sc:Text") for name in _TEXT] + [(name, "sc:Integer") for name in numbers]
    return {
        "@type": "cr:RecordSet",
        "@id": stem,
        "name": stem,
        "key": {"@id": f"{stem}/key"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{stem}/{name}",
                "name": f"{stem}/{name}",
                "dataType": kind,
                "source": {"fileObject": {"@id": rows}, "extract": {"column": name}},
            }
            for name, kind in fields
        ],
    }
