"""Pages and messages that arrive in place of a file: log-in forms, quota notices, error texts of an API."""

from __future__ import annotations

import html
import re
from pathlib import PurePosixPath

from openus.errors import TransferError

PAGE = re.compile(
    rb"^(?:\xef\xbb\xbf)?\s*(?:<!--.*?-->\s*)*(?:<!doctype html|<html|<head|<title|<body)", re.I | re.S
)
TEXT_NAMES = frozenset({".html", ".htm", ".xhtml", ".xml", ".svg", ".md"})


def refuse_message(name: str, head: bytes, content_type: str, where: str) -> None:
    """Raise `TransferError` if `head`, the first bytes of a file called `name`, are a web page or a message.

    where: address or path for the message. content_type: header of the answer, or empty.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in TEXT_NAMES and PAGE.match(head):
        title = re.search(rb"<title[^>]*>(.*?)</title>", head, re.I | re.S)
        said = ""
        if title:
            text = html.unescape(title.group(1).decode("utf-8", "replace"))
            said = f" titled {' '.join(text.split())[:80]!r}"
        raise TransferError(
            f"{where}: a web page{said} came instead of {name}; the host wants a login, accepted terms or a "
            "click, or its quota is used up: fetch it in a browser and give it with --local, or try later"
        )
    if head.startswith(b"version https://git-lfs"):
        raise TransferError(
            f"{where}: a Git LFS pointer came instead of {name}; the manifest needs the address of the file itself"
        )
    is_json = content_type.partition(";")[0].strip() == "application/json"
    if is_json and "json" not in suffix and head.lstrip()[:1] in (b"{", b"["):
        message = " ".join(head[:200].decode("utf-8", "replace").split())
        raise TransferError(f"{where}: the host sent a message instead of {name}: {message}")
