"""Where a publication goes: the Hugging Face Hub (`hf://ORG/NAME`), a folder, or any address fsspec can write.

A plain target gets the folder as it is. Files that are there already with the right content are left; the index
(`index.json`, with the SHA-256 of every file) goes last, so that a target with an index is whole.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openus.checksum import sha256_of
from openus.engine.base import Report
from openus.errors import MissingExtraError, OpenUSError, UsageError
from openus.publish.hub import TRIES, WAIT, scrubbed, send
from openus.publish.stage import INDEX
from openus.storage.files import write_bytes
from openus.storage.places import file_system

_SENT = "sent.json"


@dataclass(frozen=True)
class Target:
    """`base`: ORG/NAME on the Hub (`hub` true), or the folder or address below which repositories lie."""

    base: str
    hub: bool

    def of(self, name: str) -> str:
        """The address of one repository: on the Hub ACCOUNT/NAME, else a folder below the target."""
        return f"{self.base.partition('/')[0] if self.hub else self.base.rstrip('/')}/{name}"


def parse_target(text: str) -> Target:
    """`hf://ORG/NAME`, a folder, or an address such as `s3://bucket/path`.

    Raises:
        UsageError: not a name the Hub allows, or an address of a kind that cannot be written.
        MissingExtraError: the package for such addresses is not installed.
    """
    if text.startswith("hf://"):
        name = text.removeprefix("hf://").removeprefix("datasets/").removeprefix("models/").strip("/")
        if name.count("/") != 1 or not all(name.split("/")):
            raise UsageError(f"--to {text}: expected hf://ORG/NAME, your account or organisation and a name")
        return Target(name, True)
    scheme, found, _ = text.partition("://")
    if not found:
        return Target(str(Path(text).expanduser()), False)
    if scheme in ("http", "https"):
        raise UsageError(
            f"--to {text}: a web address cannot be written to; use hf://ORG/NAME, s3://…, or a folder"
        )
    if scheme in ("s3", "s3a") and importlib.util.find_spec("s3fs") is None:
        raise MissingExtraError("s3fs", "remote", f"writing to {text}")
    return Target(text, False)


def deliver(
    folder: Path,
    files: Mapping[str, Mapping[str, Any]],
    target: Target,
    address: str,
    report: Report,
    **hub: Any,
) -> dict[str, Any]:
    """Send the `files` of `folder` to `address`; `hub` are further arguments of `hub.send`."""
    if target.hub:
        return send(folder, files, address, **hub)
    if "://" not in address or address.startswith("file://"):
        return _to_folder(folder, files, Path(address.removeprefix("file://")), report)
    return _to_store(folder, files, address, report)


def _order(files: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return sorted(files, key=lambda name: (name == INDEX, name))


def _to_folder(
    folder: Path, files: Mapping[str, Mapping[str, Any]], place: Path, report: Report
) -> dict[str, Any]:
    sent = 0
    previous = _index_of(_read(place / INDEX))
    total = sum(int(entry["bytes"]) for entry in files.values())
    report("send", 0, total)
    try:
        (place / INDEX).unlink(missing_ok=True)  # until all is there, the target is not whole
        for name in _order(files):
            if _sha256(place / name) != files[name]["sha256"]:
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                part = (place / name).with_name(f".{Path(name).name}.part")
                shutil.copyfile(folder / name, part)
                with part.open("rb+") as file:
                    os.fsync(file.fileno())
                part.replace(place / name)
                sent += 1
            report("send", int(files[name]["bytes"]), total)
    except OSError as error:
        raise _disk(error, place, total) from error
    for name in previous - set(files):
        (place / name).unlink(missing_ok=True)
    return {"repository": str(place), "url": str(place), "files": len(files), "sent": sent}


def _disk(error: OSError, place: Path, total: int) -> OpenUSError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OpenUSError(
            f"{place}: no space left there for {total / 1e9:.1f} GB; make room and run it again (what is there stays)"
        )
    return OpenUSError(f"{error.filename or place}: cannot be written ({error.strerror or error})")


def _to_store(
    folder: Path, files: Mapping[str, Mapping[str, Any]], address: str, report: Report
) -> dict[str, Any]:
    system, root = file_system(address)
    ledger = folder / ".work" / _SENT
    done: dict[str, Any] = _read(ledger) or {}
    known: dict[str, Any] = done.setdefault(address, {})
    total = sum(int(entry["bytes"]) for entry in files.values())
    report("send", 0, total)
    previous = _index_of(_attempt(address, _cat, system, f"{root}/{INDEX}"))
    sent = 0
    for name in _order(files):
        path, entry = f"{root}/{name}", files[name]
        there = _attempt(address, _facts, system, path)
        if there is None or known.get(name) != [entry["sha256"], there]:
            _attempt(address, _put, system, folder / name, path)
            facts = _attempt(address, _facts, system, path)
            if facts is None or facts[0] != entry["bytes"]:
                raise OpenUSError(f"{address}/{name}: not there as it was sent; run it again")
            known[name] = [entry["sha256"], facts]
            write_bytes(ledger, json.dumps(done).encode())
            sent += 1
        report("send", int(entry["bytes"]), total)
    for name in previous - set(files):
        _attempt(address, system.rm_file, f"{root}/{name}")
    return {"repository": address, "url": address, "files": len(files), "sent": sent}


def _put(system: Any, local: Path, path: str) -> None:
    parent = path.rsplit("/", 1)[0]
    if system.protocol in ("memory", ("memory",)) or "sftp" in system.protocol:
        system.makedirs(parent, exist_ok=True)  # stores of objects have no folders to make
    system.put_file(str(local), path)


def _facts(system: Any, path: str) -> list[Any] | None:
    """Bytes of a remote file, and what tells its version where the store says; None where it is not there."""
    system.invalidate_cache()
    try:
        info = system.info(path)
    except FileNotFoundError:
        return None
    return [int(info.get("size") or 0), str(info.get("ETag") or info.get("etag") or "")]


def _cat(system: Any, path: str) -> dict[str, Any] | None:
    try:
        value = json.loads(system.cat_file(path))
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _attempt(address: str, action: Callable[..., Any], *given: Any) -> Any:
    """Run `action(*given)`, again after a while where it fails; each store raises its own library's errors."""
    wait = WAIT
    for attempt in range(1, TRIES + 1):
        try:
            return action(*given)
        except (PermissionError, FileNotFoundError, OpenUSError) as error:
            if isinstance(error, OpenUSError):
                raise
            raise OpenUSError(
                f"{address}: refused ({scrubbed(str(error))}); check that the bucket or folder exists and that your "
                "credentials may write there"
            ) from None
        except Exception as error:
            if attempt == TRIES or type(error).__name__ == "NoCredentialsError":
                said = f"{type(error).__name__}: {scrubbed(str(error))}"
                raise OpenUSError(
                    f"{address}: failed {attempt} times ({said}); what was sent is kept: run it again to go on"
                ) from None
            time.sleep(wait)
            wait *= 2
    raise AssertionError("unreachable")


def _index_of(index: dict[str, Any] | None) -> set[str]:
    """The files of an earlier publication, but none that leads out of it."""
    names = (index or {}).get("files")
    if not isinstance(names, dict):
        return set()
    return {name for name in names if not name.startswith("/") and ".." not in name.split("/")}


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _sha256(path: Path) -> str | None:
    try:
        return sha256_of(path)
    except OSError:
        return None
